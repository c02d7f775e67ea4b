"""Rendered templates and upstream XComs → what a request needs."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, cast

from deepshi_provider.api.texts import is_blank, parsed, shown_uri
from deepshi_provider.batch.arrow import is_table
from deepshi_provider.batch.cells import is_missing, native
from deepshi_provider.client.budgets import LONGEST_GROUP
from deepshi_provider.costs.money import amount_of
from deepshi_provider.exceptions import InvalidRequest

#: Maximum bytes of the JSON of a result's ``key`` or ``metadata``, which are stored in Airflow's database.
LONGEST_LABEL = 1024
#: Maximum of a duration, in seconds: a year. Airflow cannot compute with dates after the year 9999.
LONGEST_TIME = 366 * 24 * 3600

#: Beginnings of the results of mapped tasks when Airflow renders them as text.
_LAZY = ("LazyXComSequence(", "LazyXComSelectSequence(", "_MapResult(", "_ZipResult(", "_ConcatResult(")


def amount(name: str, value: Any) -> Decimal | None:
    """Return an amount in USD, or ``None`` if the value is blank.

    :param name: the operator's field, for the message.
    :raises InvalidRequest: the value is not an amount.
    """
    if is_blank(value) and str(value).strip().lower() != "nan":  # a failed calculation must not remove a limit
        return None
    usd = amount_of(value)
    if usd is None:
        raise InvalidRequest(f"{name}: an amount in USD is needed, got {str(value)[:40]!r}")
    return usd


def number_or_share(name: str, value: Any) -> Decimal | None:
    """Return a whole number or a share below 1, or ``None`` if the value is blank.

    :param name: the operator's field, for the message.
    :raises InvalidRequest: the value is neither.
    """
    if is_blank(value) and str(value).strip().lower() != "nan":
        return None
    text = str(value).strip()
    try:
        found = Decimal(text)
    except InvalidOperation:
        found = Decimal("NaN")
    # 1.0 is ambiguous: all rows or one row.
    if found.is_finite() and (text.isdecimal() or 0 <= found < 1):
        return found
    raise InvalidRequest(f"{name}: a whole number or a share below 1, such as 0.05, is needed, got {text[:40]!r}")


def flag(name: str, value: Any) -> bool:
    """Return a boolean, also from rendered text; ``False`` if the value is blank.

    :param name: the operator's field, for the message.
    :raises InvalidRequest: the value is not a boolean.
    """
    words = {"true": True, "1": True, "false": False, "0": False}
    found = False if is_blank(value) else words.get(str(value).strip().lower())
    if found is None:  # reading "no" as true, or "yes" as false, would cost money
        raise InvalidRequest(f"Nothing was sent: {name}: true or false is needed, got {str(value)[:40]!r}")
    return found


def group_name(value: Any) -> str | None:
    """Return the name of a ``budget_group``, or ``None`` if the value is blank.

    :raises InvalidRequest: it is too long.
    """
    if is_blank(value):
        return None
    name = str(value).strip()
    if len(name) > LONGEST_GROUP:
        raise InvalidRequest(f"budget_group: at most {LONGEST_GROUP} characters, got {len(name):,}")
    return name


def seconds(name: str, value: Any) -> float:
    """Return a duration in seconds.

    :param name: the operator's field, for the message.
    :raises InvalidRequest: the value is not a number, negative, or longer than a year.
    """
    try:
        span = value.total_seconds() if isinstance(value, timedelta) else float(value)
    except (TypeError, ValueError):
        span = math.nan
    if not 0 <= span < math.inf or isinstance(value, bool):
        raise InvalidRequest(f"Nothing was sent: {name}: seconds are needed, 0 or more, got {str(value)[:40]!r}")
    if span > LONGEST_TIME:
        raise InvalidRequest(f"Nothing was sent: {name}: at most {LONGEST_TIME:,} s are possible, got {span:g}")
    return span


def directory(name: str, value: Any) -> str:
    """Return the URI or path of a directory.

    :param name: the operator's field, for the message.
    :raises InvalidRequest: the value is neither text nor a path.
    """
    if isinstance(value, str) or hasattr(value, "joinpath"):  # Airflow's ObjectStoragePath is not an os.PathLike
        return str(value)
    raise InvalidRequest(f"Nothing was sent: {name}: a URI or a path is needed, got {str(value)[:40]!r}")


def connection_id(name: str, value: Any, default: str | None) -> str | None:
    """Return the id of a connection, or the default if the value is blank.

    :param name: the operator's field, for the message.
    :raises InvalidRequest: the value is not text.
    """
    if is_blank(value):
        return default
    if not isinstance(value, str):
        raise InvalidRequest(f"Nothing was sent: {name}: the id of a connection is needed, got {str(value)[:40]!r}")
    return value


def image_uris(value: Any, *, columns: bool = False) -> list[str]:
    """Return the URIs in the ``images`` field of an edit; see :func:`input_images`."""
    return [image if isinstance(image, str) else image["uri"] for image in input_images(value, columns=columns)]


def input_images(value: Any, *, columns: bool = False) -> list[Any]:
    """Return the images in the ``images`` field of an edit: URIs, or dictionaries with ``uri`` and ``sha256``.

    :param value: a URI or path, an XCom of an image task, or nested lists of these; also as rendered text.
    :param columns: a URI may be a template over the columns of a row, such as ``{url}``.
    :raises InvalidRequest: it contains anything else.
    """
    if is_blank(value):
        return []
    if isinstance(value, str):
        uri = _uri(value.strip())
        if uri[:1] not in ("[", "{"):
            return [uri]
        try:
            return input_images(from_text("images", uri), columns=columns)
        except InvalidRequest:
            if columns and uri.startswith("{"):
                return [uri]
            raise
    if isinstance(value, os.PathLike):
        return [str(value)]
    if isinstance(value, Mapping):
        return _of_xcom(value)
    if isinstance(value, set | frozenset):  # its order would differ in the next process, and buy the edit again
        raise InvalidRequest("images: a set has no order; pass a list")
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [image for item in value for image in input_images(item, columns=columns)]
    raise InvalidRequest(f"images: a URI or the result of an image task is needed, got {type(value).__name__}")


def _of_xcom(value: Mapping[str, Any]) -> list[Any]:
    if isinstance(value.get("uri"), str):
        return [{"uri": value["uri"], "sha256": value["sha256"]} if value.get("sha256") else value["uri"]]
    if isinstance(value.get("images"), Iterable):
        return input_images(value["images"])
    raise InvalidRequest(f"images: a dictionary without uri or images is not an image task's result: {list(value)}")


class FileUri(str):
    """The URI of a file of rows."""

    __slots__ = ()


def rows_or_uri(value: Any) -> Any:
    """Return the rows, or their file's path, in an asset event or its ``extra``; other values unchanged.

    :param value: the ``requests`` of a batch.
    """
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with contextlib.suppress(InvalidRequest):
            value = from_text("requests", value)
    extra = getattr(value, "extra", value) if not isinstance(value, Mapping) and not is_table(value) else value
    if not isinstance(extra, Mapping):
        return value
    if isinstance(extra.get("requests_uri"), str) and "requests" not in extra:
        return FileUri(extra["requests_uri"])
    return extra["requests"] if isinstance(extra.get("requests"), list) else value


def listed(name: str, value: Any) -> Iterable[Any]:
    """Return the items of a list or an upstream XCom; also from rendered text.

    :param name: the operator's field, for the message.
    :raises InvalidRequest: the value is not a list.
    """
    if isinstance(value, str):
        value = from_text(name, value)
    if isinstance(value, Mapping | str | bytes) or not isinstance(value, Iterable):
        raise InvalidRequest(f"{name}: a list is needed, got {type(value).__name__}")
    if type(value).__name__ == "LazyXComSequence":
        # Iterating fetches the results of a mapped task one by one; a slice fetches all in one call. The sequences
        # that Airflow's concat(), map() and zip() return do not support slices.
        return cast("Iterable[Any]", value[:])  # type: ignore[index] # a sequence
    return value


def carried_columns(value: Any) -> Literal["*"] | tuple[str, ...]:
    """Return the column names in ``carry``: a list, one name, or ``"*"`` for all; also from rendered text.

    :raises InvalidRequest: the value is none of these.
    """
    if is_blank(value):
        return ()
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return "*" if value.strip() == "*" else (value,)
    names = tuple(listed("carry", value))
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise InvalidRequest(f"carry: column names are needed, got {wrong[0]!r}")
    return "*" if "*" in names else tuple(dict.fromkeys(names))


def dictionary(name: str, value: Any) -> dict[str, Any]:
    """Return a dictionary, also from rendered text; empty if the value is blank.

    :param name: the operator's field, for the message.
    :raises InvalidRequest: the value is not a dictionary.
    """
    if is_blank(value):
        return {}
    with contextlib.suppress(InvalidRequest):
        value = from_text(name, value) if isinstance(value, str) else value
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{name} must be a dictionary, got {type(value).__name__}")
    return dict(value)


def label(name: str, value: Any) -> Any:
    """Return the ``key`` or ``metadata`` of a result: JSON of at most :data:`LONGEST_LABEL` bytes.

    A string is kept unchanged, unless it is a list or dictionary that a template rendered. Decimals, dates and UUIDs
    become text, as in the keys of a batch.

    :param name: the operator's field, for the message.
    :raises InvalidRequest: the value cannot be JSON, or is too long.
    """
    if is_blank(value) or is_missing(value):
        return None
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        with contextlib.suppress(InvalidRequest):
            value = from_text(name, value)
    try:
        text = json.dumps(_as_label(value), allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequest(f"{name}: {type(value).__name__} cannot be written as JSON") from None
    if size > LONGEST_LABEL:
        raise InvalidRequest(f"{name}: at most {LONGEST_LABEL:,} bytes of JSON are allowed, got {size:,}")
    return json.loads(text)


def _as_label(value: Any) -> Any:
    found = native(value)
    if found is None or isinstance(found, bytes):
        raise ValueError("neither JSON nor text")
    return found if isinstance(found, str | int | float | list | dict) else str(found)


def from_text(name: str, text: str) -> Any:
    """Parse text that a template rendered.

    :raises InvalidRequest: the text is neither JSON nor a Python literal.
    """
    if text.lstrip().startswith(_LAZY):
        raise InvalidRequest(
            f"{name}: a template turned the results of mapped tasks into text. Pass them as task.output, or write "
            "{{ … | list | tojson }}"
        )
    try:
        return parsed(text)
    except ValueError:
        raise InvalidRequest(f"{name}: the rendered text is neither JSON nor a Python literal: {text[:80]!r}") from None


def _uri(text: str) -> str:
    if text[:11].lower() == "data:image/":
        raise InvalidRequest(f"images: {shown_uri(text)} is a data URI; store the image and pass its URI")
    return str(from_text("images", text)) if text.startswith(_LAZY) else text
