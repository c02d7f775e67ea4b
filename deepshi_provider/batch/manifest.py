"""The manifest of a batch: one line per row, all columns in every line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, Literal

import msgspec

ManifestFormat = Literal["jsonl", "parquet"]

#: The line of a row that was not started, without the columns of its request.
EMPTY_LINE: dict[str, Any] = {
    "key": None,
    "status": "skipped",
    "uri": None,
    "uris": [],
    "media_type": None,
    "width": None,
    "height": None,
    "size_bytes": None,
    "sha256": None,
    "model": None,
    "fallback": None,
    "prompt": None,
    "revised_prompt": None,
    "prompt_hash": None,
    "seed": None,
    "size_asked": None,
    "cost_usd": None,
    "may_have_cost_usd": None,
    "charged": "no",
    "attempts": None,
    "tokens_in": None,
    "tokens_out": None,
    "error": None,
    "seconds": None,
    "warnings": [],
}

#: Names that carried columns must not have.
MANIFEST_COLUMNS = tuple(EMPTY_LINE)

#: Decimals as numbers with all their digits, dates in ISO 8601, bytes in base64.
_TO_JSON = msgspec.json.Encoder(decimal_format="number")


def asked(fields: Mapping[str, Any], *, with_prompt: bool) -> dict[str, Any]:
    """Return the columns of a row's request.

    :param fields: the request's fields.
    :param with_prompt: whether to include the prompt, or only its hash.
    """
    prompt = str(fields["prompt"])
    return {
        "model": fields["model"],
        "prompt": prompt if with_prompt else None,
        "prompt_hash": prompt_hash(prompt),
        "seed": int64(fields.get("seed")),
        "size_asked": _size(fields),
    }


def prompt_hash(prompt: str) -> str:
    """Return the SHA-256 of a prompt, in hex."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def int64(value: Any) -> int | None:
    """Return a 64-bit integer, or ``None`` for other values, which readers of tables do not support."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and -(2**63) <= value < 2**63 else None


def write_jsonl(lines: Iterable[Mapping[str, Any]], file: BinaryIO) -> None:
    """Write one line of JSON per row."""
    for line in lines:
        file.write(_TO_JSON.encode(line) + b"\n")


def _size(fields: Mapping[str, Any]) -> str | None:
    width, height = fields.get("width"), fields.get("height")
    pixels = None if width is None and height is None else f"{width or '?'}x{height or '?'}"
    parts = [pixels, fields.get("aspect_ratio"), fields.get("resolution"), fields.get("image_size")]
    return " ".join(str(part) for part in parts if part is not None) or None
