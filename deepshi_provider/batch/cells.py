"""Cells of business columns: carried with their types from a row to the manifest, and as text in a template.

Databases, files and frames return cells as text, numbers, booleans, dates, bytes, lists and dictionaries. In between,
cells are stored as JSON; a type that JSON lacks is stored as a pair of its kind and a text.
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
    """Return whether a cell is empty: null, empty text, or pandas' NaN, NaT or NA."""
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
    raise ValueError(f"is {type(value).__name__}, not text")


def native(value: Any) -> Any:
    """Return a cell as a type that JSON or :func:`pack` supports; an empty cell is ``None``, except empty text.

    :raises ValueError: the cell cannot be stored in a file.
    """
    value = _native(value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("has an unpaired surrogate") from None
        return value
    if is_missing(value) or (isinstance(value, float | Decimal) and not math.isfinite(value)):
        return None
    if isinstance(value, list | tuple | Mapping):
        check_depth(value)
        return as_json(value)
    if isinstance(value, datetime):  # drops pandas' nanoseconds, which some readers do not support
        return datetime.combine(value.date(), value.time(), value.tzinfo)
    if isinstance(value, bool | int | float | Decimal | date | time | bytes):
        return value
    raise ValueError(f"is {type(value).__name__}, a type that the manifest does not support")


def as_json(value: Any) -> Any:
    """Return a cell, or lists and dictionaries of cells, as plain JSON: dates become text, decimals numbers.

    :raises ValueError: a cell cannot be stored in a file.
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
    """Return a value of :func:`native` as JSON types; :func:`unpack` reverses this."""
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
    """Return the original value of the result of :func:`pack`."""
    return _UNPACK[packed[0]](packed[1]) if isinstance(packed, list) else packed


def check_name(name: object) -> str:
    """Return the name of a carried column.

    :raises InvalidRequest: the name cannot be stored in a file.
    """
    if not isinstance(name, str):
        raise InvalidRequest(f"the column {name!r} cannot be carried: its name is not text")
    if not name.strip():
        raise InvalidRequest("a column without a name cannot be carried; is it the index of a frame?")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"the column {name!r} cannot be carried: its name has an unpaired surrogate") from None
    return name


def _native(value: Any) -> Any:
    """Return numpy scalars, memory views and similar values as Python types."""
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, uuid.UUID | timedelta):
        return str(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    return value
