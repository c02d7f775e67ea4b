"""The catalog as a table and as JSON. Prices are not in it, so there are none here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepshi_provider.api.catalog import ModelInfo, Parameter

#: The sizing styles of the API's document, by the fields that a model takes.
_STYLES = (
    ({"width", "height"}, "pixel dimensions"),
    ({"aspect_ratio", "resolution"}, "resolution tier"),
    ({"aspect_ratio"}, "aspect ratio"),
    ({"image_size"}, "preset"),
)
_UNKNOWN = "?"


def as_json(models: Sequence[ModelInfo]) -> list[dict[str, Any]]:
    """Return all that is understood of each model; ``None`` is unknown.

    :returns: one dictionary per model: ``id``, ``sizing_style``, ``sizing`` (fields), ``parameters`` (by field:
        ``allowed``, ``minimum``, ``maximum``), ``can_edit``, ``max_input_images``, ``prompt_max_length`` (characters),
        ``makes_images``.
    """
    return [
        {
            "id": model.id,
            "sizing_style": _style(model),
            "sizing": list(model.sizing) or None,
            **model.model_dump(mode="json", exclude={"id", "entry"}),
        }
        for model in models
    ]


def as_table(models: Sequence[ModelInfo]) -> str:
    """Return a table for people; ``?`` is what the catalog does not say."""
    lines = [("MODEL", "SIZED BY", "SIZES", "N", "PROMPT", "EDITS", "FORMATS")]
    lines += [
        (
            model.id,
            _style(model) or _UNKNOWN,
            _sizes(model),
            _limits((model.parameters or {}).get("n")),
            _UNKNOWN if model.prompt_max_length is None else f"{model.prompt_max_length:,}",
            _edits(model),
            _limits((model.parameters or {}).get("output_format")),
        )
        for model in models
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "\n".join([*rows, f"{len(models)} image models; {_UNKNOWN} is what the catalog does not say."])


def _style(model: ModelInfo) -> str | None:
    return next((name for fields, name in _STYLES if fields <= set(model.sizing)), None)


def _sizes(model: ModelInfo) -> str:
    limits = {field: _limits((model.parameters or {}).get(field)) for field in model.sizing}
    return "; ".join(f"{field} {limit}" for field, limit in limits.items()) or _UNKNOWN


def _limits(parameter: Parameter | None) -> str:
    if parameter is None:
        return _UNKNOWN
    if parameter.allowed:
        return " ".join(parameter.allowed)
    least, most = (None if limit is None else f"{limit:g}" for limit in (parameter.minimum, parameter.maximum))
    if least == most:
        return least or _UNKNOWN
    return f"{least or _UNKNOWN}-{most or _UNKNOWN}"


def _edits(model: ModelInfo) -> str:
    if model.max_input_images:
        return "1 image" if model.max_input_images == 1 else f"1-{model.max_input_images} images"
    return {True: "yes", False: "no", None: _UNKNOWN}[model.can_edit]
