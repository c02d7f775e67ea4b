"""The manifest of a batch: one line per row, all columns in every line."""

from __future__ import annotations

from typing import Any

#: A row that was not started, but for its key.
EMPTY_LINE: dict[str, Any] = {
    "key": None,
    "status": "skipped",
    "uri": None,
    "uris": [],
    "width": None,
    "height": None,
    "sha256": None,
    "model": None,
    "prompt_hash": None,
    "cost_usd": None,
    "error": None,
    "charged": "no",
    "seconds": None,
    "warnings": [],
}

#: Names that no carried column may have: those above, and those that are to come.
MANIFEST_COLUMNS = (
    *EMPTY_LINE,
    *("prompt", "revised_prompt", "media_type", "size_bytes", "seed", "size_asked", "tokens_in", "tokens_out"),
    *("attempts", "may_have_cost_usd"),
)
