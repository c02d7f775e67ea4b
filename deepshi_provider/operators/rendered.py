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

from deepshi_provider.api.document import check_depth
from deepshi_provider.api.texts import is_blank, parsed, shown_uri
from deepshi_provider.batch.arrow import is_table
from deepshi_provider.exceptions import InvalidRequest

#: Bytes of the JSON of a result's ``key`` or ``metadata``: they lie in Airflow's database.
LONGEST_LABEL = 1024
#: Characters of the name of a ``budget_group``.
LONGEST_GROUP = 100

#: How Airflow writes the results of mapped tasks as text.
_LAZY = ("LazyXComSequence(", "LazyXComSelectSequence(", "_MapResult(", "_ZipResult(", "_ConcatResult(")


def amount(name: str, value: Any) -> Decimal | None:
    """Return an amount in USD, or ``None`` if none was given.

    :param name: of the operator's field, for the message.
    :raises InvalidRequest: it is no amount.
    """
    if is_blank(value) and str(value).strip().lower() != "nan":  # a sum that went wrong must not lift a limit
        return None
    try:
        usd = Decimal(str(value).strip())
    except InvalidOperation:
        usd = Decimal("NaN")
    if not usd.is_finite() or usd < 0:
        raise InvalidRequest(f"{name}: an amount in USD is needed, got {str(value)[:40]!r}")
    return usd


def number_or_share(name: str, value: Any) -> Decimal | None:
    """Return a whole number, or a share below 1; ``None`` if none was given.

    :param name: of the operator's field, for the message.
    :raises InvalidRequest: it is neither.
    """
    if is_blank(value) and str(value).strip().lower() != "nan":
        return None
    text = str(value).strip()
    try:
        found = Decimal(text)
    except InvalidOperation:
        found = Decimal("NaN")
    # 1.0 may be meant as all rows or as one.
    if found.is_finite() and (text.isdecimal() or 0 <= found < 1):
        return found
    raise InvalidRequest(f"{name}: a whole number or a share below 1, such as 0.05, is needed, got {text[:40]!r}")


def flag(name: str, value: Any) -> bool:
    """Return a truth value, or what a template made of one; ``False`` if none was given.

    :param name: of the operator's field, for the message.
    :raises InvalidRequest: it is none.
    """
    words = {"true": True, "1": True, "false": False, "0": False}
    found = False if is_blank(value) else words.get(str(value).strip().lower())
    if found is None:  # to take "no" for yes, or the other way round, is a matter of money
        raise InvalidRequest(f"Nothing was sent: {name}: true or false is needed, got {str(value)[:40]!r}")
    return found


def group_name(value: Any) -> str | None:
    """Return the name of a ``budget_group``, or ``None`` if none was given.

    :raises InvalidRequest: it is too long.
    """
    if is_blank(value):
        return None
    name = str(value).strip()
    if len(name) > LONGEST_GROUP:
        raise InvalidRequest(f"budget_group: at most {LONGEST_GROUP} characters, got {len(name):,}")
    return name


def seconds(name: str, value: Any) -> float:
    """Return a span of time in seconds.

    :param name: of the operator's field, for the message.
    :raises InvalidRequest: it is not a number, or less than 0.
    """
    try:
        span = value.total_seconds() if isinstance(value, timedelta) else float(value)
    except (TypeError, ValueError):
        span = math.nan
    if not 0 <= span < math.inf or isinstance(value, bool):
        raise InvalidRequest(f"Nothing was sent: {name}: seconds are needed, 0 or more, got {str(value)[:40]!r}")
    return span


def image_uris(value: Any) -> list[str]:
    """Return the URIs that ``images`` of an edit names.

    :param value: a URI or path, an XCom of an image task, or any nesting of them in lists; also as rendered text.
    :raises InvalidRequest: something in it is neither.
    """
    if is_blank(value):
        return []
    if isinstance(value, str):
        return image_uris(from_text("images", value)) if value.lstrip()[:1] in ("[", "{") else [_uri(value.strip())]
    if isinstance(value, os.PathLike):
        return [str(value)]
    if isinstance(value, Mapping):
        return _of_xcom(value)
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [uri for item in value for uri in image_uris(item)]
    raise InvalidRequest(f"images: a URI or the result of an image task is needed, got {type(value).__name__}")


def _of_xcom(value: Mapping[str, Any]) -> list[str]:
    if isinstance(value.get("uri"), str):
        return [value["uri"]]
    if isinstance(value.get("images"), Iterable):
        return image_uris(value["images"])
    raise InvalidRequest(f"images: a dictionary without uri or images is no result of an image task: {list(value)}")


class FileUri(str):
    """The URI of a file of rows."""

    __slots__ = ()


def handed_over(value: Any) -> Any:
    """Return the rows, or the path of their file, that an asset event or its ``extra`` names; else the value itself.

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
    """Return the items of a list, an upstream XCom, or the text that a template made of one.

    :param name: of the operator's field, for the message.
    :raises InvalidRequest: it is no list.
    """
    if isinstance(value, str):
        value = from_text(name, value)
    if isinstance(value, Mapping | str | bytes) or not isinstance(value, Iterable):
        raise InvalidRequest(f"{name}: a list is needed, got {type(value).__name__}")
    if type(value).__name__ == "LazyXComSequence":
        # The results of a mapped task come one by one, unless all are asked for at once. What Airflow makes of them by
        # concat(), map() and zip() takes no slices.
        return cast("Iterable[Any]", value[:])  # type: ignore[index] # a sequence
    return value


def carried_columns(value: Any) -> Literal["*"] | tuple[str, ...]:
    """Return the names of ``carry``: a list of them, one name, or ``"*"`` for all; also as rendered text.

    :raises InvalidRequest: it is none of them.
    """
    if is_blank(value):
        return ()
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return "*" if value.strip() == "*" else (value,)
    names = tuple(listed("carry", value))
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise InvalidRequest(f"carry: names of columns are needed, got {wrong[0]!r}")
    return "*" if "*" in names else tuple(dict.fromkeys(names))


def dictionary(name: str, value: Any) -> dict[str, Any]:
    """Return a dictionary, or what a template made of one; empty if nothing was given.

    :param name: of the operator's field, for the message.
    :raises InvalidRequest: it is no dictionary.
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

    A text is taken as it is, unless it is a list or dictionary that a template rendered.

    :param name: of the operator's field, for the message.
    :raises InvalidRequest: it cannot be JSON, or is too long.
    """
    if is_blank(value):
        return None
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        with contextlib.suppress(InvalidRequest):
            value = from_text(name, value)
    try:
        check_depth(value)
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequest(f"{name}: {type(value).__name__} with more than JSON can say") from None
    if size > LONGEST_LABEL:
        raise InvalidRequest(f"{name}: at most {LONGEST_LABEL:,} bytes of JSON are kept, got {size:,}")
    return json.loads(text)


def from_text(name: str, text: str) -> Any:
    """Return the value that a template rendered as text.

    :raises InvalidRequest: it is neither JSON nor a Python literal.
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
        raise InvalidRequest(f"images: {shown_uri(text)} is a data URI; store the image and name its URI")
    return str(from_text("images", text)) if text.startswith(_LAZY) else text
