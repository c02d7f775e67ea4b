"""What a model takes, as far as ``GET /v1/models`` says → complaints about a request before it is paid for.

The catalog's exact shape is not documented (API.md, "GET /v1/models"), so reading it never raises, and what is not
understood is unknown and lets a request through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from pydantic import BaseModel, ConfigDict

from deepshi_provider.api.requests import EditRequest, GenerateRequest

SIZING_FIELDS = ("width", "height", "aspect_ratio", "resolution", "image_size")

_LARGEST_NUMBER = 2.0**53
_ALLOWED = ("enum", "values", "allowed", "options")
_MINIMUM = ("minimum", "min")
_MAXIMUM = ("maximum", "max")
_MOST_IMAGES = ("max_images", "max_reference_images", "max_input_images", "image_cap", "cap", "limit", "max")


class Parameter(BaseModel):
    """What a model takes for one field; ``None`` is unknown.

    :param allowed: the values it takes, as text.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    allowed: tuple[str, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None


class ModelInfo(BaseModel):
    """One entry of the catalog; ``None`` is unknown.

    :param id: what requests name as ``model``.
    :param parameters: the fields it takes.
    :param can_edit: whether it takes input images at all.
    :param max_input_images: most input images of one edit.
    :param prompt_max_length: characters.
    :param makes_images: whether it is an image model; text models sit in the same list.
    :param entry: the entry as sent.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    id: str
    parameters: dict[str, Parameter] | None = None
    can_edit: bool | None = None
    max_input_images: int | None = None
    prompt_max_length: int | None = None
    makes_images: bool | None = None
    entry: dict[str, Any]

    @property
    def sizing(self) -> tuple[str, ...]:
        """The sizing fields that the model takes; empty if unknown."""
        return tuple(field for field in SIZING_FIELDS if field in (self.parameters or {}))


def read_catalog(document: Any) -> list[ModelInfo]:
    """Return what is understood of an answer of ``GET /v1/models``; never raises."""
    entries = (document.get("data") or document.get("models")) if isinstance(document, Mapping) else document
    if isinstance(entries, Mapping):
        entries = [{"id": name, **entry} for name, entry in entries.items() if isinstance(entry, Mapping)]
    if not isinstance(entries, list):
        return []
    return [_model(e) for e in entries if isinstance(e, Mapping) and isinstance(e.get("id"), str)]


def complaints(request: GenerateRequest, model: ModelInfo) -> list[str]:
    """Return what the model's entry says against a request, one sentence each; empty if nothing."""
    found = _sizing_complaints(request, model)
    fields = request.picture_fields()
    for name, parameter in (model.parameters or {}).items():
        if name in fields and name not in ("prompt", "model"):
            found += _value_complaints(name, fields[name], parameter)
    limit = model.prompt_max_length
    if limit is not None and len(request.prompt) > limit:
        found.append(f"the prompt has {len(request.prompt):,} characters, {model.id} takes {limit:,}")
    if isinstance(request, EditRequest):
        found += _edit_complaints(request, model)
    return found


def _sizing_complaints(request: GenerateRequest, model: ModelInfo) -> list[str]:
    if not model.sizing:
        return []
    given = [field for field in SIZING_FIELDS if getattr(request, field) is not None]
    own = " and ".join(model.sizing)
    return [f"{model.id} is sized by {own} and ignores {field}" for field in given if field not in model.sizing]


def _value_complaints(name: str, value: Any, parameter: Parameter) -> list[str]:
    if parameter.allowed and isinstance(value, str | int | float) and _text(value) not in parameter.allowed:
        return [f"{name} is {value}, allowed are {', '.join(parameter.allowed)}"]
    if isinstance(value, int | float):
        if parameter.maximum is not None and value > parameter.maximum:
            return [f"{name} is {value}, the most is {parameter.maximum:g}"]
        if parameter.minimum is not None and value < parameter.minimum:
            return [f"{name} is {value}, the least is {parameter.minimum:g}"]
    return []


def _edit_complaints(request: EditRequest, model: ModelInfo) -> list[str]:
    if model.can_edit is False:
        return [f"{model.id} cannot edit images"]
    most = model.max_input_images
    if most is not None and len(request.images) > most:
        return [f"{len(request.images)} input images, {model.id} takes {most}"]
    return []


def _model(entry: Mapping[str, Any]) -> ModelInfo:
    edit = entry.get("edit")
    return ModelInfo(
        id=entry["id"],
        parameters=_parameters(entry.get("parameters")),
        can_edit=edit if isinstance(edit, bool) else True if edit and isinstance(edit, Mapping) else None,
        max_input_images=_count(edit, _MOST_IMAGES) if isinstance(edit, Mapping) else None,
        prompt_max_length=_count(entry, ("prompt_max_length",)),
        makes_images=_makes_images(entry),
        entry={str(key): value for key, value in entry.items()},
    )


def _parameters(given: Any) -> dict[str, Parameter] | None:
    if isinstance(given, list):
        named = [item for item in given if isinstance(item, Mapping) and isinstance(item.get("name"), str)]
        return {item["name"]: _parameter(item) for item in named} or None
    if isinstance(given, Mapping):
        return {str(name): _parameter(value) for name, value in given.items()} or None
    return None


def _parameter(given: Any) -> Parameter:
    if not isinstance(given, Mapping):
        return Parameter()
    lists = (given.get(key) for key in _ALLOWED)
    allowed = next((value for value in lists if isinstance(value, list) and value), None)
    plain = allowed is not None and all(isinstance(v, str) or _is_number(v) or isinstance(v, bool) for v in allowed)
    return Parameter(
        allowed=tuple(_text(value) for value in allowed) if allowed and plain else None,
        minimum=_number(given, _MINIMUM),
        maximum=_number(given, _MAXIMUM),
    )


def _makes_images(entry: Mapping[str, Any]) -> bool | None:
    given = entry.get("modalities", entry.get("output_modalities"))
    if isinstance(given, Mapping):
        given = given.get("output")
    return "image" in given if isinstance(given, list) else None


def _number(given: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    values = (given.get(name) for name in names)
    return next((float(value) for value in values if _is_number(value)), None)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_NUMBER


def _text(value: str | int | float) -> str:
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _count(given: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    number = _number(given, names)
    return int(number) if number is not None and number >= 1 else None
