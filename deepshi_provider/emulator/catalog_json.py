"""``GET /v1/models`` in several shapes, because the API's exact one is not known (API.md)."""

from __future__ import annotations

from collections.abc import Callable

from .catalog import IMAGE_MODELS, TEXT_MODELS
from .models import DEFAULT_QUALITY, MAX_SEED, MAX_SIDE, MIN_SIDE, QUALITIES, Model

Json = dict[str, object]


def models_document(shape: str) -> Json:
    """Return the whole answer.

    :param shape: a key of :data:`SHAPES`.
    """
    if shape == "odd":
        return _odd()
    if shape == "bare":
        return {"object": "list", "data": [{"id": model.id} for model in IMAGE_MODELS]}
    if shape == "foreign":
        return _foreign()
    reshape = SHAPES[shape]
    entries: list[object] = [_image_entry(model, reshape) for model in IMAGE_MODELS]
    entries += [_text_entry(model_id) for model_id in TEXT_MODELS]
    return {"object": "list", "data": entries}


def _image_entry(model: Model, reshape: Callable[[dict[str, Json]], object]) -> Json:
    sources = ["text", "image"] if model.max_images else ["text"]
    return {
        "id": model.id,
        "object": "model",
        "created": 1_780_000_000,
        "owned_by": "deepshi-emulator",
        "modalities": {"input": sources, "output": ["image"]},
        "prompt_max_length": model.max_prompt,
        "parameters": reshape(_parameters(model)),
        "edit": {"max_images": model.max_images} if model.max_images else None,
    }


def _text_entry(model_id: str) -> Json:
    return {
        "id": model_id,
        "object": "model",
        "created": 1_780_000_000,
        "owned_by": "deepshi-emulator",
        "modalities": {"input": ["text"], "output": ["text"]},
        "context_length": 128_000,
    }


def _parameters(model: Model) -> dict[str, Json]:
    parameters: dict[str, Json] = {
        "n": {"type": "integer", "minimum": 1, "maximum": model.max_n, "default": 1},
        "response_format": _choices(("b64_json", "url")),
        "output_format": _choices(model.formats),
        "stream": {"type": "boolean", "default": False},
    }
    if model.style == "pixels":
        side: Json = {
            "type": "integer",
            "minimum": MIN_SIDE,
            "maximum": MAX_SIDE,
            "default": 1024,
        }
        parameters |= {"width": side, "height": dict(side)}
    if model.style in ("tier", "ratio"):
        parameters["aspect_ratio"] = _choices(model.ratios)
    if model.style == "tier":
        parameters["resolution"] = _choices(model.tiers)
    if model.style == "preset":
        parameters["image_size"] = _choices(tuple(model.presets))
    if model.has_quality:
        parameters["quality"] = _choices(QUALITIES, DEFAULT_QUALITY)
    if model.has_seed:
        parameters["seed"] = {"type": "integer", "minimum": 0, "maximum": MAX_SEED}
    return parameters


def _choices(values: tuple[str, ...], default: str | None = None) -> Json:
    return {"type": "string", "enum": list(values), "default": default or values[0]}


def _as_list(parameters: dict[str, Json]) -> object:
    return [{"name": name, **_renamed(body, "values")} for name, body in parameters.items()]


def _as_allowed(parameters: dict[str, Json]) -> object:
    return {name: _renamed(body, "allowed") for name, body in parameters.items()}


def _renamed(body: Json, name: str) -> Json:
    return {name if key == "enum" else key: value for key, value in body.items()}


#: Setting ``catalog_shape`` -> how an entry's parameters are written.
SHAPES: dict[str, Callable[[dict[str, Json]], object]] = {
    "object": lambda parameters: parameters,
    "list": _as_list,
    "allowed": _as_allowed,
    "bare": lambda parameters: parameters,
    "foreign": lambda parameters: parameters,
    "odd": lambda parameters: parameters,
}


def _foreign() -> Json:
    """Return another vendor's form: names with a prefix, parameters as a JSON Schema, and more pages."""
    entries: list[object] = [
        {
            "id": f"deepshi/{model.id}",
            "supported_methods": ["generate"],
            "modalities": ["text"],
            "parameters": {"type": "object", "properties": _parameters(model), "required": ["prompt"]},
            "edit": {"href": f"/edits/{model.id}"},
        }
        for model in IMAGE_MODELS[:-1]
    ]
    return {"models": entries, "next_page_token": "2"}


def _odd() -> Json:
    """Return entries of unknown form among entries with valid ids."""
    bodies: list[Json] = [
        {"parameters": None, "edit": True, "prompt_max_length": "8000"},
        {"parameters": "width,height", "edit": "5", "prompt_max_length": None},
        {"parameters": [None, 7, "n", {"name": None}, {"values": [1]}], "edit": [5]},
        {"parameters": {"n": None, "width": 1024, "output_format": "png"}, "edit": 3},
        {"parameters": {"n": {"enum": None}, "seed": {"enum": {"a": [{}]}}}, "edit": {}},
        {"parameters": {"n": {"enum": "1", "type": ["integer", "null"]}}, "modalities": 1},
        {"parameters": {"n": {"minimum": "one", "maximum": {}}}, "modalities": [None]},
        {"parameters": {"width": {"enum": [{"value": 512}, [1], None]}}, "edit": {"max": {}}},
        {"parameters": 5, "edit": {"max_images": "many"}, "prompt_max_length": -1},
        {"parameters": {"": {}, "n": {"enum": []}}, "prompt_max_length": False},
    ]
    entries: list[object] = [
        {"id": model.id, "object": "model"} | body for model, body in zip(IMAGE_MODELS, bodies, strict=True)
    ]
    return {"object": "list", "data": [*entries, None, "gpt", 5, [], {"id": None}, {}], "next": []}
