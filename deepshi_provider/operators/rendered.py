"""Rendered templates and upstream XComs → what a request needs."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.manifest import Owner, path_part


def is_blank(value: Any) -> bool:
    """Return whether a rendered value means that nothing was given."""
    return value is None or (isinstance(value, str) and value.strip() in ("", "None"))


def amount(name: str, value: Any) -> Decimal | None:
    """Return an amount in USD, or ``None`` if none was given.

    :param name: of the operator's field, for the message.
    :raises InvalidRequest: it is no amount.
    """
    if is_blank(value):
        return None
    try:
        usd = Decimal(str(value).strip())
    except InvalidOperation:
        usd = Decimal("NaN")
    if not usd.is_finite() or usd < 0:
        raise InvalidRequest(f"{name}: an amount in USD is needed, got {str(value)[:40]!r}")
    return usd


def image_uris(value: Any) -> list[str]:
    """Return the URIs that ``images`` of an edit names.

    :param value: a URI or path, an XCom of an image task, or any nesting of them in lists; also as rendered text.
    :raises InvalidRequest: something in it is none of these.
    """
    if is_blank(value):
        return []
    if isinstance(value, str):
        return image_uris(_literal(value)) if value.lstrip()[:1] in ("[", "{") else [value.strip()]
    if isinstance(value, os.PathLike):
        return [str(value)]
    if isinstance(value, Mapping):
        return _of_xcom(value)
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [uri for item in value for uri in image_uris(item)]
    raise InvalidRequest(f"images: a URI or the result of an image task is needed, got {type(value).__name__}")


def default_output_uri(base: str, owner: Owner) -> str:
    """Return the directory of a task instance: ``<base>/<dag_id>/<run_id>/<task_id>[/<map_index>]``."""
    parts = [owner.dag_id, owner.run_id, owner.task_id]
    if owner.map_index >= 0:
        parts.append(str(owner.map_index))
    return "/".join([base.rstrip("/"), *(path_part(part) for part in parts)])


def _of_xcom(value: Mapping[str, Any]) -> list[str]:
    if isinstance(value.get("uri"), str):
        return [value["uri"]]
    if isinstance(value.get("images"), Iterable):
        return image_uris(value["images"])
    raise InvalidRequest(f"images: a dictionary without uri or images is no result of an image task: {list(value)}")


def _literal(text: str) -> Any:
    """Return the value that a template rendered as text: Jinja writes lists and dictionaries as Python does."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise InvalidRequest(f"images: the rendered text is neither a URI nor a list: {text[:80]!r}") from None
