"""Checks requests and turns them into orders."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from decimal import Decimal

from .catalog import IMAGE_MODELS_BY_ID
from .errors import ApiError, refuse
from .fields import Fields
from .models import DEFAULT_QUALITY, MAX_SEED, QUALITIES, Model, Sizing


@dataclass(frozen=True, kw_only=True)
class Order:
    """One accepted request.

    :param seed: the client's seed, or a random one as in the API.
    :param look: number that changes what is painted: the client's seed, or 0, so that tests paint the same.
    :param input_images: number of input images of an edit; 0 for a generation.
    :param source: the first input image, scaled down.
    """

    model: Model
    prompt: str
    sizing: Sizing
    output_format: str
    quality: str
    n: int
    seed: int
    look: int
    stream: bool
    as_url: bool
    input_images: int = 0
    source: bytes | None = None

    @property
    def cost_usd(self) -> Decimal:
        """The price of the order."""
        images = self.input_images
        return self.model.cost(self.sizing, self.quality, n=self.n, input_images=images).normalize()


def check_order(fields: Fields, *, input_images: int | None) -> Order:
    """Check all fields of a request and return its order.

    :param input_images: number of input images of an edit, ``None`` for a generation.
    :raises ApiError: the first problem found.
    """
    model = _model(fields)
    prompt = fields.required("prompt")
    if len(prompt) > model.max_prompt:
        message = f"{model.id} takes prompts of at most {model.max_prompt} characters"
        raise refuse(f"{message}; this one has {len(prompt)}", param="prompt", code="PROMPT_TOO_LONG")
    if input_images is not None:
        _check_image_count(model, input_images)
    response_format = fields.choice("response_format", ("b64_json", "url"), model.id)
    quality = fields.choice("quality", QUALITIES, model.id) if model.has_quality else None
    seed = fields.integer("seed", 0, MAX_SEED, model.id) if model.has_seed else None
    return Order(
        model=model,
        prompt=prompt,
        sizing=model.sizing(fields),
        output_format=fields.choice("output_format", model.formats, model.id) or model.formats[0],
        quality=quality or DEFAULT_QUALITY,
        n=fields.integer("n", 1, model.max_n, model.id) or 1,
        seed=secrets.randbelow(MAX_SEED) if seed is None else seed,
        look=seed or 0,
        stream=fields.flag("stream"),
        as_url=response_format == "url",
        input_images=input_images or 0,
    )


def _model(fields: Fields) -> Model:
    name = fields.required("model")
    if name not in IMAGE_MODELS_BY_ID:
        raise ApiError(400, f"there is no image model {name!r}", code="model_not_found", param="model")
    return IMAGE_MODELS_BY_ID[name]


def _check_image_count(model: Model, count: int) -> None:
    if model.max_images == 0:
        raise refuse(f"{model.id} cannot edit images", param="model", code="edit_not_supported")
    if count == 0:
        raise refuse("'image' is required", param="image", code="missing_required_parameter")
    if count > model.max_images:
        message = f"{model.id} takes at most {model.max_images} images; {count} were sent"
        raise refuse(message, param="image", code="too_many_images")
