"""Parses JSON text into values that are safe to store and to calculate with.

RFC 8259 leaves the treatment of huge numbers and unpaired surrogates to the reader. Both would cause errors later, when
they are used, after the images were paid for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

#: Characters that databases refuse: NUL (group 1), and escaped surrogates, in pairs or unpaired (group 1). An escaped
#: backslash comes first, so that the text behind it is not taken for an escape.
_UNSTORABLE = re.compile(r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..|\\u0000|\x00)")
_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:"]|[^\s\[\]{},:"]+', re.DOTALL)
_NOTHING: tuple[Any, ...] = (None, "", [], {})
_LONGEST_NUMBER = 400
_LARGEST_EXPONENT = 40
#: Maximum levels of objects and lists. Newer Pythons can parse deeper JSON than they can write.
DEEPEST = 100


def parse(text: str, put: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return the value of a JSON text; fractions are ``Decimal``, so that money stays exact.

    Control characters in strings are kept, except NUL; NUL and unpaired surrogates become U+FFFD; huge numbers, ``NaN``
    and ``Infinity`` become ``None``.

    :param put: called for each object; returns its replacement.
    :raises ValueError: the text is not JSON, or nested too deep.
    """
    return _decoded(_storable(text), put)


def parse_beginning(text: str, put: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return the values of a JSON text up to where it is cut off or broken; ``None`` if there are none.

    A number at the very end is left out, since more digits may have followed.

    :param put: as for :func:`parse`; it may be called again for the same object.
    """
    beginning = _storable(text)
    for _ in range(2):  # as cut off; then cut at the first mistake
        beginning = _closed(beginning)
        try:
            return _decoded(beginning, put)
        except json.JSONDecodeError as err:
            beginning = beginning[: err.pos]
        except ValueError:
            return None
    return None


def _storable(text: str) -> str:
    return _UNSTORABLE.sub(lambda found: r"\ufffd" if found[1] else found[0], text.removeprefix("\ufeff"))


def _decoded(text: str, put: Callable[[dict[str, Any]], Any] | None) -> Any:
    decoder = json.JSONDecoder(
        object_pairs_hook=lambda pairs: put(_object(pairs)) if put else _object(pairs),
        parse_float=_number,
        parse_int=_number,
        parse_constant=lambda _: None,
        strict=False,
    )
    try:
        value = decoder.decode(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    check_depth(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; if a key occurs twice, use the last value that is not empty."""
    value: dict[str, Any] = {}
    for key, item in pairs:
        if item not in _NOTHING or value.get(key) in _NOTHING:
            value[key] = item
    return value


def check_depth(value: Any) -> None:
    """Check that all readers and writers of JSON accept a value's depth.

    :raises ValueError: it is nested deeper than :data:`DEEPEST`.
    """
    level = [value]
    for _ in range(DEEPEST + 1):
        containers = [item for item in level if isinstance(item, dict | list | tuple)]
        level = [item for one in containers for item in (one.values() if isinstance(one, dict) else one)]
        if not containers:
            return
    raise ValueError("nested too deep")


def _closed(text: str) -> str:
    """Return a text up to the end of its last whole value, with all open brackets closed."""
    ends: list[str] = []
    last, end = "", 0
    for token in _TOKENS.finditer(text):
        mark = token[0]
        if mark == '"' or (mark in ("]", "}") and ends[-1:] != [mark]):  # a string without an end, or a mistake
            break
        if mark in ("]", "}"):
            ends.pop()
        elif mark in ("[", "{"):
            ends.append("]" if mark == "[" else "}")
        is_value = last == ":" or (ends[-1:] == ["]"] and last in ("[", ","))
        if mark in ("[", "{", "]", "}") or (mark[0] == '"' and is_value):
            end = token.end()
        elif mark == ",":
            end = token.start()
        last = mark
    return text[:end] + "".join(reversed(ends))


def _number(text: str) -> Decimal | int | None:
    try:
        number = Decimal(text) if len(text) <= _LONGEST_NUMBER else None
    except InvalidOperation:  # an exponent too large for Decimal
        return None
    if number is None or (number and abs(number.adjusted()) > _LARGEST_EXPONENT):
        return None
    return int(text) if text.lstrip("-").isdigit() else number
