"""The catalog as a table and as JSON, without prices, which it does not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepshi_provider.api.catalog import ModelInfo
from deepshi_provider.api.parameters import Parameter, limits

#: The sizing styles of the API's document, by the fields that a model accepts.
_STYLES = (
    ({"width", "height"}, "pixel dimensions"),
    ({"aspect_ratio", "resolution"}, "resolution tier"),
    ({"aspect_ratio"}, "aspect ratio"),
    ({"image_size"}, "preset"),
)
_UNKNOWN = "?"


def as_json(models: Sequence[ModelInfo]) -> list[dict[str, Any]]:
    """Return the parsed entry of each model; ``None`` is unknown.

    :returns: one dictionary per model: ``id``, ``sizing_style``, ``sizing`` (fields), ``parameters`` (by field:
        ``type``, ``allowed``, ``minimum``, ``maximum``, ``default``), ``can_edit``, ``max_input_images``,
        ``max_input_bytes`` (of each), ``prompt_max_length`` (characters), ``makes_images``.
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
    """Return two tables for people, the models and their fields; ``?`` means that the catalog does not state it."""
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
    fields = [("MODEL", "FIELD", "TYPE", "ALLOWED", "DEFAULT")]
    fields += [
        (model.id, name, parameter.type or _UNKNOWN, _limits(parameter), parameter.default or _UNKNOWN)
        for model in models
        for name, parameter in (model.parameters or {}).items()
    ]
    note = f"{len(models)} image models; {_UNKNOWN} means that the catalog does not state it."
    return "\n".join([*_aligned(lines), "", *(_aligned(fields) if len(fields) > 1 else []), note])


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _style(model: ModelInfo) -> str | None:
    return next((name for fields, name in _STYLES if fields <= set(model.sizing)), None)


def _sizes(model: ModelInfo) -> str:
    limits = {field: _limits((model.parameters or {}).get(field)) for field in model.sizing}
    return "; ".join(f"{field} {limit}" for field, limit in limits.items()) or _UNKNOWN


def _limits(parameter: Parameter | None) -> str:
    if parameter and parameter.allowed:
        return " ".join(parameter.allowed)
    return limits(parameter).replace(" to ", "-") or _UNKNOWN


def _edits(model: ModelInfo) -> str:
    if model.max_input_images:
        return "1 image" if model.max_input_images == 1 else f"1-{model.max_input_images} images"
    return {True: "yes", False: "no", None: _UNKNOWN}[model.can_edit]
