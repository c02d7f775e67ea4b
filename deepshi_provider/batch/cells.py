"""Cells of business columns: from a row to the manifest with their types, and as text in a template.

A cell is what databases, files and frames hand over: text, numbers, truth values, dates, bytes, lists and dictionaries.
On its way it is stored as JSON; what JSON has no type for is a pair of its kind and a text.
"""

from __future__ import annotations

import base64
import math
import uuid
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from deepshi_provider.api.document import check_depth
from deepshi_provider.exceptions import InvalidRequest

_UNPACK: dict[str, Callable[[Any], Any]] = {
    "json": lambda value: value,
    "decimal": Decimal,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "bytes": base64.b64decode,
}


def is_missing(value: Any) -> bool:
    """Return whether a cell is empty: null, an empty text, and pandas' NaN, NaT and NA."""
    if value is None or (isinstance(value, str) and value == ""):
        return True
    if isinstance(value, Decimal):
        return value.is_nan()
    if isinstance(value, float):
        return math.isnan(value)
    return type(value).__name__ in ("NaTType", "NAType")


def as_text(value: Any) -> str:
    """Return a cell as text for a prompt.

    :raises ValueError: it is a list, a dictionary or bytes.
    """
    value = _native(value)
    if isinstance(value, str):
        return value
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bool | int | float):
        return str(value)
    raise ValueError(f"is {type(value).__name__}, which is no text")


def native(value: Any) -> Any:
    """Return a cell as a type that JSON or :func:`pack` knows; an empty one, but for an empty text, is ``None``.

    :raises ValueError: no file could hold it.
    """
    value = _native(value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("holds half of a character") from None
        return value
    if is_missing(value) or (isinstance(value, float | Decimal) and not math.isfinite(value)):
        return None
    if isinstance(value, list | tuple | Mapping):
        check_depth(value)
        return as_json(value)
    if isinstance(value, datetime):  # without the nanoseconds of pandas', which only some readers know
        return datetime.combine(value.date(), value.time(), value.tzinfo)
    if isinstance(value, bool | int | float | Decimal | date | time | bytes):
        return value
    raise ValueError(f"is {type(value).__name__}, for which the manifest has no type")


def as_json(value: Any) -> Any:
    """Return a cell, or lists and dictionaries of them, as JSON alone: dates are text and decimals are numbers.

    :raises ValueError: no file could hold it.
    """
    if isinstance(value, Mapping):
        return {str(native(name)): as_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    found = native(value)
    if isinstance(found, Decimal):
        return float(found)
    packed = pack(found)
    return packed[1] if isinstance(packed, list) else packed


def pack(value: Any) -> Any:
    """Return what JSON takes for a value of :func:`native`; :func:`unpack` reads it."""
    if isinstance(value, list | dict):
        return ["json", value]
    if isinstance(value, Decimal):
        return ["decimal", str(value)]
    if isinstance(value, bytes):
        return ["bytes", base64.b64encode(value).decode()]
    for kind, name in ((datetime, "datetime"), (date, "date"), (time, "time")):
        if isinstance(value, kind):
            return [name, value.isoformat()]
    return value


def unpack(packed: Any) -> Any:
    """Return the value that :func:`pack` made this of."""
    return _UNPACK[packed[0]](packed[1]) if isinstance(packed, list) else packed


def check_name(name: object) -> str:
    """Return the name of a column that goes to the manifest.

    :raises InvalidRequest: no file could hold it.
    """
    if not isinstance(name, str):
        raise InvalidRequest(f"the column {name!r} cannot be carried: its name is no text")
    if not name.strip():
        raise InvalidRequest("a column without a name cannot be carried; is it the index of a frame?")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"the column {name!r} cannot be carried: its name holds half of a character") from None
    return name


def _native(value: Any) -> Any:
    """Return numpy's scalars, memory views and the like as what they stand for."""
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, uuid.UUID | timedelta):
        return str(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    return value
