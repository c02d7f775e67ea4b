"""The two paid requests: their fields, wire format and fingerprint."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from deepshi_provider.api.complaints import complaints
from deepshi_provider.api.document import check_depth
from deepshi_provider.api.texts import is_blank, parsed
from deepshi_provider.exceptions import InvalidRequest

#: The fields that are parameters of the operators.
REQUEST_FIELDS = (
    "prompt",
    "model",
    "n",
    "width",
    "height",
    "aspect_ratio",
    "resolution",
    "image_size",
    "quality",
    "output_format",
    "seed",
)

#: Fields that change how the answer is sent, not the image.
TRANSPORT_FIELDS = frozenset({"stream", "response_format"})


class GenerateRequest(BaseModel):
    """``POST /v1/images/generations``: one prompt, ``n`` images.

    Field names are the API's own; undocumented fields are kept and forwarded. Values may be rendered templates:
    ``"1024"`` is a number, and fields that are ``None``, ``""``, ``"None"``, ``"null"`` or NaN are not sent.

    :param model: model id, such as ``deepshi-banana-pro``.
    :param prompt: what to draw; each model limits its length (8,000 to 50,000 characters).
    :param n: number of images, 1 to 4; some models allow only 1.
    :param width: pixels, for models sized by pixel dimensions.
    :param height: pixels, with ``width``.
    :param aspect_ratio: such as ``16:9``, alone or with ``resolution``.
    :param resolution: tier ``1K``, ``2K`` or ``4K``; the tier sets the price.
    :param image_size: preset, such as ``auto_2K`` or ``1024x1024``.
    :param quality: ``low``, ``medium`` or ``high``; higher costs more.
    :param output_format: ``png``, ``jpeg`` or ``webp``.
    :param seed: seed for reproducible results, if the model supports it.
    :param stream: request Server-Sent Events, for slow, high-resolution work; billed the same.
    """

    model_config = ConfigDict(extra="allow", frozen=True, coerce_numbers_to_str=True, defer_build=True)

    path: ClassVar[str] = "/v1/images/generations"
    operation: ClassVar[str] = "generate"
    #: The default model of the operators.
    default_model: ClassVar[str] = "deepshi-banana-pro"
    #: Fields that are sent in another way.
    _apart: ClassVar[frozenset[str]] = frozenset()

    model: Annotated[str, Field(min_length=1)]
    prompt: Annotated[str, Field(min_length=1)]
    n: Annotated[int, Field(ge=1, le=4)] = 1
    width: Annotated[int, Field(ge=1)] | None = None
    height: Annotated[int, Field(ge=1)] | None = None
    aspect_ratio: str | None = None
    resolution: str | None = None
    image_size: str | None = None
    quality: str | None = None
    output_format: str | None = None
    response_format: str | None = None
    seed: int | None = None
    stream: bool = False

    @model_validator(mode="before")
    @classmethod
    def _drop_blanks(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {name: value for name, value in data.items() if not cls._is_dropped(name, value)}

    @classmethod
    def _is_dropped(cls, name: str, value: Any) -> bool:
        if name in cls.model_fields:
            return is_blank(value)
        return value is None or (isinstance(value, str) and value in ("", "None"))

    @model_validator(mode="after")
    def _can_be_sent(self) -> GenerateRequest:
        for name, value in self.wire_fields().items():
            try:
                check_depth(value)
                json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
            except (TypeError, ValueError, RecursionError):
                raise ValueError(f"{name} cannot be sent: {type(value).__name__} cannot be written as JSON") from None
        return self

    def wire_fields(self) -> dict[str, Any]:
        """Return the fields to send, with the API's names."""
        return self.model_dump(exclude_none=True, exclude_defaults=True, exclude=set(self._apart))

    def picture_fields(self) -> dict[str, Any]:
        """Return the fields that change the image or its price."""
        kept = self.model_dump(exclude_none=True, exclude={*self._apart, *TRANSPORT_FIELDS})
        return dict(sorted(kept.items()))

    def fingerprint(self, account: str, input_digests: Sequence[str] = ()) -> str:
        """Return the request's fingerprint, a SHA-256 in hex: equal if and only if the same images are requested.

        :param account: see :attr:`deepshi_provider.client.settings.Settings.account`.
        :param input_digests: SHA-256 (hex) of each input image's content, in order.
        """
        fields = {
            "version": 1,
            "operation": self.operation,
            "account": account,
            "fields": self.picture_fields(),
            "inputs": list(input_digests),
        }
        return hashlib.sha256(_json(fields).encode()).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F]{64}", value) is not None


def _image_list(value: Any) -> Any:
    if isinstance(value, str | os.PathLike):
        value = [value]
    if isinstance(value, Sequence):
        return [str(item) if isinstance(item, os.PathLike) else item for item in value]
    return value


class EditRequest(GenerateRequest):
    """``POST /v1/images/edits``: the fields of a generation, and the images to start from.

    :param images: local paths or URIs of PNG, JPEG or WebP images, 1 to 14 (by model). An item may be a dictionary with
        ``uri`` and ``sha256``, as in the result of an image task; then another image at this URI is not edited.
    :param input_sha256: the hashes from such items, in hex, by URI; not sent.
    """

    path: ClassVar[str] = "/v1/images/edits"
    operation: ClassVar[str] = "edit"
    default_model: ClassVar[str] = "deepshi-image-1"
    _apart: ClassVar[frozenset[str]] = frozenset({"images", "input_sha256"})

    images: Annotated[list[str], BeforeValidator(_image_list), Field(min_length=1, max_length=14)]
    input_sha256: dict[str, str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _take_hashes(cls, data: Any) -> Any:
        items = data.get("images") if isinstance(data, Mapping) else None
        if not isinstance(items, list | tuple):
            return data
        images = [item for item in items if isinstance(item, Mapping) and isinstance(item.get("uri"), str)]
        found: dict[str, str] = {}
        for image in images:
            if _is_sha256(image.get("sha256")):
                sha256 = image["sha256"].lower()
                if found.setdefault(image["uri"], sha256) != sha256:
                    raise ValueError(f"images: {image['uri'][:200]} has two different hashes; it holds one image")
        uris = [item["uri"] if item in images else item for item in items]
        return {**data, "images": uris, "input_sha256": {**(data.get("input_sha256") or {}), **found} or None}

    def form_fields(self) -> dict[str, str]:
        """Return :meth:`wire_fields` as the text of form fields."""
        return {name: _form_text(value) for name, value in self.wire_fields().items()}

    def image_field(self) -> str:
        """Return the name of the form's image parts, as in OpenAI's SDK: ``image`` for one, ``image[]`` for several."""
        return "image" if len(self.images) == 1 else "image[]"


def _form_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


Request = TypeVar("Request", bound=GenerateRequest)


def extra_fields(value: Any) -> Mapping[str, Any]:
    """Return the fields in ``extra_params`` of a row or a fallback: a dictionary, also as text.

    :raises InvalidRequest: it is not a dictionary, or has a field that is a parameter of requests.
    """
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = parsed(value)
        if not isinstance(value, Mapping):
            raise InvalidRequest("extra_params is not a JSON object")
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"extra_params must be a dictionary, got {type(value).__name__}")
    if twice := sorted(value.keys() & {*EditRequest.model_fields, "key", "extra_params"}):
        raise InvalidRequest(f"extra_params names fields of their own: {', '.join(twice)}")
    return value


def build(kind: type[Request], fields: Mapping[str, Any]) -> Request:
    """Return a request from rendered fields.

    :raises InvalidRequest: a field is missing or invalid; the message names each.
    """
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as err:
        raise InvalidRequest(f"The request was not sent: {complaints(err, secret=('prompt',))}") from None
