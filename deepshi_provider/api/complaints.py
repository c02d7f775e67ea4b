"""Converts Pydantic's errors to sentences about the user's fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

_SENTENCES: dict[str, Callable[[dict[str, Any]], str]] = {
    "greater_than": lambda c: f"must be more than {c['gt']:g}",
    "greater_than_equal": lambda c: f"must be at least {c['ge']:g}",
    "less_than_equal": lambda c: f"must be at most {c['le']:g}",
    "too_long": lambda c: f"at most {c['max_length']} are allowed, got {c['actual_length']}",
    "too_short": lambda c: f"at least {c['min_length']} is needed, got {c['actual_length']}",
    "literal_error": lambda c: f"must be {c['expected']}",
}
_KINDS = {
    "int": "a whole number is needed",
    "float": "a number is needed",
    "finite": "a number is needed",
    "decimal": "a number is needed",
    "string": "text is needed",
    "bool": "true or false is needed",
    "list": "a list is needed",
    "dict": "a dictionary is needed",
}


def complaints(err: ValidationError, *, secret: tuple[str, ...] = ()) -> str:
    """Return a sentence about each invalid field, with the field's name.

    :param secret: fields whose values must not be in the message.
    """
    return "; ".join(_complaint(dict(error), secret) for error in err.errors())


def _complaint(error: dict[str, Any], secret: tuple[str, ...]) -> str:
    kind, value = error["type"], error["input"]
    if not error["loc"]:
        return str(error["msg"]).removeprefix("Value error, ")
    # For a field with several possible types, Pydantic adds the type to the path.
    name = ".".join(str(part) for part in error["loc"] if part not in ("bool", "str"))
    if kind in ("missing", "string_too_short"):
        return f"{name} is missing or empty"
    if kind == "string_unicode":
        return f"{name}: text with an unpaired surrogate cannot be sent"
    sentence = _sentence(kind, error)
    too_long = isinstance(value, int) and abs(value) >= 10**40
    is_shown = kind not in ("too_long", "too_short") and error["loc"][0] not in secret and not too_long
    return f"{name}: {sentence}, got {str(value)[:40]!r}" if is_shown else f"{name}: {sentence}"


def _sentence(kind: str, error: dict[str, Any]) -> str:
    if kind in _SENTENCES:
        return _SENTENCES[kind](error.get("ctx", {}))
    if sentence := _KINDS.get(kind.partition("_")[0]):
        return sentence
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}"
