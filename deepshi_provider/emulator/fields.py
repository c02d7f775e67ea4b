"""Reads typed values from a request's fields, as strictly as the API is documented."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .errors import refuse


class Fields:
    """The fields of one request.

    :param values: names and values as received: JSON values, or strings from a form. A form field
        that was sent twice is a list.
    :param textual: whether numbers and booleans are written as text, as in a form.
    """

    def __init__(self, values: Mapping[str, object], *, textual: bool) -> None:
        self._values = values
        self._textual = textual

    def text(self, name: str) -> str | None:
        """Return the string under ``name``; ``None`` if it was not sent. JSON ``null`` is not a string."""
        if name not in self._values:
            return None
        value = self._values[name]
        if not isinstance(value, str):
            raise refuse(f"{name!r} must be a string, not {_kind(value)}", param=name)
        return value

    def required(self, name: str) -> str:
        """Return a string that must be present and not blank."""
        value = self.text(name)
        if value is None or not value.strip():
            raise refuse(f"{name!r} is required", param=name, code="missing_required_parameter")
        return value

    def choice(self, name: str, allowed: Collection[str], owner: str) -> str | None:
        """Return a string from ``allowed``, the values that ``owner`` accepts."""
        value = self.text(name)
        if value is not None and value not in allowed:
            known = ", ".join(allowed)
            raise refuse(f"{name!r} of {owner} must be one of {known}; not {value!r}", param=name)
        return value

    def integer(self, name: str, low: int, high: int, owner: str) -> int | None:
        """Return an integer from ``low`` to ``high``; ``1024.0``, ``true`` and ``"1024"`` are invalid."""
        if name not in self._values:
            return None
        value = self._values[name]
        if self._textual and isinstance(value, str) and _is_decimal(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise refuse(f"{name!r} must be an integer, not {_kind(value)}", param=name)
        if not low <= value <= high:
            raise refuse(f"{name!r} of {owner} must be from {low} to {high}", param=name)
        return value

    def flag(self, name: str) -> bool:
        """Return a boolean; ``False`` if it was not sent. In forms it is ``true`` or ``false``."""
        value = self._values.get(name, False)
        if self._textual and value in ("true", "false"):
            return value == "true"
        if not isinstance(value, bool):
            raise refuse(f"{name!r} must be a boolean, not {_kind(value)}", param=name)
        return value


def _is_decimal(value: str) -> bool:
    digits = value.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 20


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "an integer", float: "a fraction", str: "a string"}
    return names.get(type(value), "a list or an object")
