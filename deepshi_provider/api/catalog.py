"""The models of a key and the fields they accept, from ``GET /v1/models``.

The catalog's exact shape is not documented (API.md, "GET /v1/models"), so reading it never raises, and values in an
unknown form count as unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeGuard

from pydantic import BaseModel, ConfigDict, Field

SIZING_FIELDS = ("width", "height", "aspect_ratio", "resolution", "image_size")

_LARGEST_NUMBER = 2.0**53
_ALLOWED = ("enum", "values", "allowed", "options")
_MINIMUM = ("minimum", "min")
_MAXIMUM = ("maximum", "max")
#: Placeholder values: a list with one of them allows any value.
_OPEN = frozenset({"*", "any", "custom", "other", "...", "…"})
#: Modalities of a model other than images.
_OTHER_MODALITIES = frozenset({"text", "audio", "video", "speech", "embedding", "embeddings", "file"})
_NEXT_PAGE = ("has_more", "next", "next_page", "next_page_token", "next_cursor", "next_token")
_MEGABYTE = 2**20
_IMAGE_BYTES = {
    **dict.fromkeys(("max_image_bytes", "max_file_bytes", "max_bytes", "max_image_size_bytes"), 1),
    **dict.fromkeys(("max_image_mb", "max_file_mb", "max_mb", "max_image_size_mb", "max_file_size_mb"), _MEGABYTE),
}
_MOST_IMAGES = ("max_images", "max_reference_images", "max_input_images", "image_cap", "cap", "limit", "max")


class Parameter(BaseModel):
    """The values that a model accepts for one field; ``None`` is unknown.

    :param type: the catalog's name of the type, such as ``integer``.
    :param allowed: the accepted values, as text.
    :param default: the value if the field is not sent, as text.
    :param is_clear: whether all parts of its catalog entry that are used here have a known form.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    type: str | None = None
    allowed: tuple[str, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None
    default: str | None = None
    is_clear: bool = Field(default=True, exclude=True, repr=False)


class ModelInfo(BaseModel):
    """One entry of the catalog; ``None`` is unknown.

    :param id: the value of ``model`` in requests.
    :param parameters: the fields that it accepts.
    :param can_edit: whether it accepts input images.
    :param max_input_images: maximum number of input images of one edit.
    :param max_input_bytes: maximum bytes of each input image.
    :param prompt_max_length: maximum characters of the prompt.
    :param makes_images: whether it is an image model; the catalog lists text models too.
    :param entry: the unchanged entry.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    id: str
    parameters: dict[str, Parameter] | None = None
    can_edit: bool | None = None
    max_input_images: int | None = None
    max_input_bytes: int | None = None
    prompt_max_length: int | None = None
    makes_images: bool | None = None
    entry: dict[str, Any]

    @property
    def sizing(self) -> tuple[str, ...]:
        """The sizing fields that the model accepts; empty if unknown."""
        parameters = self.parameters or {}
        fields = tuple(field for field in SIZING_FIELDS if field in parameters)
        return fields if all(parameters[field].is_clear for field in fields) else ()


class Catalog(NamedTuple):
    """An answer of ``GET /v1/models``.

    :param models: models by id, in the catalog's order.
    :param is_complete: whether it certainly lists all image models that the key may use: some image models have a known
        form, and there is no further page.
    :param mentioned: all texts in it, in lower case: a model may be listed under a name that is not its id.
    """

    models: Mapping[str, ModelInfo] = MappingProxyType({})
    is_complete: bool = False
    mentioned: frozenset[str] = frozenset()

    @classmethod
    def read(cls, document: Any) -> Catalog:
        """Return the catalog in a document; never raises."""
        models = {model.id: model for model in read_catalog(document)}
        has_more = isinstance(document, Mapping) and any(document.get(name) for name in _NEXT_PAGE)
        makes_images = any(model.makes_images or model.sizing for model in models.values())
        texts = frozenset(text.lower() for text in _texts(document))
        return cls(models=models, is_complete=makes_images and not has_more, mentioned=texts)

    def sizing_of(self, model: str) -> tuple[str, ...]:
        """Return the sizing fields that a model accepts; empty if unknown."""
        return self.models[model].sizing if model in self.models else ()

    def lacks(self, model: str) -> bool:
        """Return whether the key certainly cannot use a model, under this name or with a vendor prefix."""
        if not self.is_complete:
            return False
        name = model.lower()
        short = name.rpartition("/")[2]
        return not any(text in (name, short) or text.endswith(f"/{name}") for text in self.mentioned)


def read_catalog(document: Any) -> list[ModelInfo]:
    """Return the models in an answer of ``GET /v1/models``; never raises."""
    entries = (document.get("data") or document.get("models")) if isinstance(document, Mapping) else document
    if isinstance(entries, Mapping):
        entries = [{"id": name, **entry} for name, entry in entries.items() if isinstance(entry, Mapping)]
    if not isinstance(entries, list):
        return []
    return [_model(e) for e in entries if isinstance(e, Mapping) and isinstance(e.get("id"), str)]


def _texts(document: Any) -> Iterator[str]:
    """Yield each text in a document, including field names."""
    left = [document]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            left += [*value, *value.values()]
        elif isinstance(value, list):
            left += value


def _model(entry: Mapping[str, Any]) -> ModelInfo:
    edit = entry.get("edit")
    block: Mapping[str, Any] = edit if isinstance(edit, Mapping) else {}
    return ModelInfo(
        id=entry["id"],
        parameters=_parameters(entry.get("parameters")),
        can_edit=_can_edit(entry),
        max_input_images=_count(block, _MOST_IMAGES),
        max_input_bytes=_image_bytes(block),
        prompt_max_length=_count(entry, ("prompt_max_length",)),
        makes_images=_has_images(entry, "output"),
        entry={str(key): value for key, value in entry.items()},
    )


def _can_edit(entry: Mapping[str, Any]) -> bool | None:
    edit = entry.get("edit")
    if isinstance(edit, bool):
        return edit
    if isinstance(edit, Mapping) and edit:
        return edit.get("supported") is not False and edit.get("enabled") is not False
    # An edit block of unknown form may mean yes.
    return False if not edit and _has_images(entry, "input") is False else None


def _image_bytes(block: Mapping[str, Any]) -> int | None:
    found = ((_count(block, (name,)), unit) for name, unit in _IMAGE_BYTES.items())
    return next((count * unit for count, unit in found if count), None)


def _parameters(given: Any) -> dict[str, Parameter] | None:
    if isinstance(given, list):
        named = [item for item in given if isinstance(item, Mapping) and isinstance(item.get("name"), str)]
        return {item["name"]: _parameter(item) for item in named} or None
    if isinstance(given, Mapping):
        return {str(name): _parameter(value) for name, value in given.items()} or None
    return None


def _parameter(given: Any) -> Parameter:
    if not isinstance(given, Mapping):
        return Parameter(is_clear=given is None)
    kind, default = given.get("type"), given.get("default")
    minimum, maximum = _number(given, _MINIMUM), _number(given, _MAXIMUM)
    is_odd = maximum is not None and (maximum <= 0 or (minimum is not None and maximum < minimum))
    if is_odd:
        minimum = maximum = None  # these have another meaning
    allowed = _allowed(given)
    values = [given.get(name) for name in (*_ALLOWED, *_MINIMUM, *_MAXIMUM)]
    understood = sum(limit is not None for limit in (allowed, minimum, maximum))
    return Parameter(
        type=kind if isinstance(kind, str) else None,
        allowed=allowed,
        minimum=minimum,
        maximum=maximum,
        default=_text(default) if _is_plain(default) else None,
        is_clear=understood >= sum(value is not None and value != [] for value in values),
    )


def _allowed(given: Mapping[str, Any]) -> tuple[str, ...] | None:
    lists = (given.get(key) for key in _ALLOWED)
    found = next((value for value in lists if isinstance(value, list) and value), None)
    if found is None or not all(map(_is_plain, found)):
        return None
    allowed = tuple(map(_text, found))
    return None if any(text.lower() in _OPEN for text in allowed) else allowed


def _has_images(entry: Mapping[str, Any], direction: str) -> bool | None:
    """Return whether a model accepts (``input``) or makes (``output``) images; ``None`` if unknown."""
    architecture = entry.get("architecture")
    for place in (entry, architecture if isinstance(architecture, Mapping) else {}):
        given = place.get(f"{direction}_modalities")
        modalities = place.get("modalities")
        if given is None and isinstance(modalities, Mapping):
            given = modalities.get(direction)
        elif given is None and direction == "output" and isinstance(modalities, list) and "image" in modalities:
            given = modalities
        if not isinstance(given, list) or not given or not all(isinstance(item, str) for item in given):
            continue
        if any("image" in item.lower() for item in given):
            return True
        if all(item.lower() in _OTHER_MODALITIES for item in given):
            return False
    return None


def _is_plain(value: Any) -> TypeGuard[str | int | float]:
    return isinstance(value, str | bool) or _is_number(value)


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
