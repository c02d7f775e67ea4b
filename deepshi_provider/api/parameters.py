"""The values that a model accepts for a field, as far as the catalog states them.

The catalog's form is not documented (API.md, "GET /v1/models"), so reading it never raises, and values in an unknown
form count as unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from pydantic import BaseModel, ConfigDict, Field

from deepshi_provider.api.spellings import as_number, canonical

_LARGEST_NUMBER = 2.0**53
_ALLOWED = ("enum", "values", "allowed", "options")
_MINIMUM = ("minimum", "min")
_MAXIMUM = ("maximum", "max")
#: Listed "values" that stand for many: placeholders, patterns and ranges. A list with one of them allows any value.
_OPEN = re.compile(
    r"""
    \b(any|custom|others?|arbitrary|etc)\b  | \.\. | …
    | [<>{}\[\]^$\\]                        # <width>x<height>, {w}x{h}, a regular expression
    | (?<![\d\s])\* | \*(?![\d\s])          # *, image/*, but not 1024*1024
    | ^w(idth)?\s*[x\u00d7*:,]\s*h(eight)?$
    | \d\s*[-\u2013\u2014~]\s*\d | \d\s+to\s+\d       # 16-4096, 256x256-4096x4096
    """,
    re.VERBOSE | re.IGNORECASE,
)
#: Maximum number of values in a sentence.
_NAMED = 12


class Parameter(BaseModel):
    """The values that a model accepts for one field; ``None`` is unknown.

    :param type: the catalog's name of the type, such as ``integer``.
    :param allowed: the accepted values, as text.
    :param default: the value if the field is not sent, as text.
    :param is_clear: whether all parts of its catalog entry that are used here have a known form.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    type: str | None = None
    allowed: tuple[str, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None
    default: str | None = None
    is_clear: bool = Field(default=True, exclude=True, repr=False)

    def refuses(self, value: Any) -> bool:
        """Return whether the catalog certainly excludes a value, however it is spelled.

        A list and a range are two ways to allow a value, since ranges may come with usual values.
        """
        if isinstance(value, bool) or not isinstance(value, str | int | float) or self._is_default(value):
            return False
        number = as_number(str(value))
        has_range = self.minimum is not None or self.maximum is not None
        if self.allowed is None:
            return has_range and not isinstance(value, str) and not self._is_in_range(number)
        if canonical(value) in map(canonical, self.allowed) or (has_range and self._is_in_range(number)):
            return False
        # To a number, listed words may be ranges or keywords.
        return isinstance(value, str) or all(as_number(text) is not None for text in self.allowed)

    def _is_default(self, value: str | float) -> bool:
        return self.default is not None and canonical(value) == canonical(self.default)

    def _is_in_range(self, number: float | None) -> bool:
        if number is None:
            return False
        return (self.minimum is None or number >= self.minimum) and (self.maximum is None or number <= self.maximum)


def read_parameters(given: Any) -> dict[str, Parameter] | None:
    """Return the fields in the ``parameters`` of a catalog entry; ``None`` if there are none."""
    if isinstance(given, list):
        named = [item for item in given if isinstance(item, Mapping) and isinstance(item.get("name"), str)]
        return {item["name"]: _parameter(item) for item in named} or None
    if isinstance(given, Mapping):
        return {str(name): _parameter(value) for name, value in given.items()} or None
    return None


def limits(parameter: Parameter | None) -> str:
    """Return the accepted values of a parameter, such as ``16 to 4096`` or ``1K, 2K``; empty if unknown."""
    if parameter is None:
        return ""
    if parameter.allowed:
        more = ", …" if len(parameter.allowed) > _NAMED else ""
        return ", ".join(parameter.allowed[:_NAMED]) + more
    least, most = (None if limit is None else _number_text(limit) for limit in (parameter.minimum, parameter.maximum))
    if least and most:
        return least if least == most else f"{least} to {most}"
    return f"at least {least}" if least else f"at most {most}" if most else ""


def count(given: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """Return the first of some entries that is a number of at least 1, or ``None``."""
    number = _number(given, names)
    return int(number) if number is not None and number >= 1 else None


def _number_text(number: float) -> str:
    return f"{number:.0f}" if number.is_integer() else f"{number:g}"


def _parameter(given: Any) -> Parameter:
    if not isinstance(given, Mapping):
        return Parameter(is_clear=given is None)
    kind, default = given.get("type"), given.get("default")
    minimum, maximum = _number(given, _MINIMUM), _number(given, _MAXIMUM)
    is_odd = maximum is not None and (maximum <= 0 or (minimum is not None and maximum < minimum))
    if is_odd:
        minimum = maximum = None  # these have another meaning
    allowed, lists = _allowed(given), _given(given, _ALLOWED)
    bounds = sum(limit is not None for limit in (minimum, maximum))
    return Parameter(
        type=kind if isinstance(kind, str) else None,
        allowed=allowed,
        minimum=minimum,
        maximum=maximum,
        default=_text(default) if _is_plain(default) else None,
        is_clear=(not lists or allowed is not None) and bounds >= len(_given(given, (*_MINIMUM, *_MAXIMUM))),
    )


def _given(entry: Mapping[str, Any], names: tuple[str, ...]) -> list[Any]:
    values = (entry.get(name) for name in names)
    return [value for value in values if value is not None and value != []]


def _allowed(entry: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the values in all lists of an entry; ``None`` if one of them may stand for others."""
    lists = _given(entry, _ALLOWED)
    if not lists or not all(isinstance(value, list) and all(map(_is_plain, value)) for value in lists):
        return None
    allowed = tuple(dict.fromkeys(_text(value) for values in lists for value in values))
    return None if any(_OPEN.search(text.replace("_", " ")) for text in allowed) else allowed


def _is_plain(value: Any) -> TypeGuard[str | int | float]:
    return isinstance(value, str | bool) or _is_number(value)


def _number(given: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    values = (given.get(name) for name in names)
    return next((float(value) for value in values if _is_number(value)), None)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_NUMBER


def _text(value: str | int | float) -> str:
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
