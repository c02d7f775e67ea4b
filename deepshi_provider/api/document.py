"""JSON text → values that can be stored and counted with, whatever the sender meant.

RFC 8259 leaves open what a reader does with numbers beyond all use and with halves of surrogate pairs; both would break
where they are used, after the images were paid for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

#: Escaped surrogates, in pairs or (group 1) alone; an escaped backslash first, so that none is seen behind it.
_SURROGATES = re.compile(r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)")
_LONGEST_NUMBER = 400
_LARGEST_EXPONENT = 40
#: Levels of objects and lists. Newer Pythons parse what is nested deeper than their own writer of JSON can write.
DEEPEST = 100


def parse(text: str, put: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return the value of a JSON text; fractions are ``Decimal``, so that money stays exact.

    Control characters in strings are let through; half a surrogate pair is U+FFFD; a number of absurd size, ``NaN``
    and ``Infinity`` are ``None``.

    :param put: called for each object; returns what stands in its place.
    :raises ValueError: it is not JSON, or nested too deep.
    """
    whole = _SURROGATES.sub(lambda found: r"\ufffd" if found[1] else found[0], text.removeprefix("\ufeff"))
    decoder = json.JSONDecoder(
        object_hook=put, parse_float=_number, parse_int=_number, parse_constant=lambda _: None, strict=False
    )
    try:
        value = decoder.decode(whole)
    except RecursionError:
        raise ValueError("nested too deep") from None
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [item for one in containers for item in (one.values() if isinstance(one, dict) else one)]
        if not containers:
            return
    raise ValueError("nested too deep")


def _number(text: str) -> Decimal | int | None:
    try:
        number = Decimal(text) if len(text) <= _LONGEST_NUMBER else None
    except InvalidOperation:  # an exponent beyond what Decimal can hold
        return None
    if number is None or (number and abs(number.adjusted()) > _LARGEST_EXPONENT):
        return None
    return int(text) if text.lstrip("-").isdigit() else number
