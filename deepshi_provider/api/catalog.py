"""The models of a key and the fields they accept, from ``GET /v1/models``.

The catalog's exact shape is not documented (API.md, "GET /v1/models"), so reading it never raises, and values in an
unknown form count as unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from deepshi_provider.api.parameters import Parameter, count, read_parameters
from deepshi_provider.api.spellings import as_number, plain_name

SIZING_FIELDS = ("width", "height", "aspect_ratio", "resolution", "image_size")

#: Modalities of a model other than images.
_OTHER_MODALITIES = frozenset({"text", "audio", "video", "speech", "embedding", "embeddings", "file"})
#: Names, without separators, that show that there is a further page.
_NEXT_PAGE = frozenset(
    {"hasmore", "next", "nextpage", "nextpagetoken", "nextcursor", "nexttoken", "nexturl", "nextlink", "nextpageurl"}
    | {"istruncated", "truncated", "continuationtoken"}
)
_PAGES = frozenset({"pages", "totalpages", "pagecount", "lastpage"})
_TOTAL = frozenset({"total", "totalcount", "totalitems", "totalresults"})
_MEGABYTE = 2**20
_IMAGE_BYTES = {
    **dict.fromkeys(("max_image_bytes", "max_file_bytes", "max_bytes", "max_image_size_bytes"), 1),
    **dict.fromkeys(("max_image_mb", "max_file_mb", "max_mb", "max_image_size_mb", "max_file_size_mb"), _MEGABYTE),
}
_MOST_IMAGES = ("max_images", "max_reference_images", "max_input_images", "image_cap", "cap", "limit", "max")


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

    def mentions(self, field: str) -> bool:
        """Return whether the entry names a field anywhere: it may list some in a form that is not understood."""
        return any(plain_name(text) == plain_name(field) for text in _texts(self.entry))


class Catalog(NamedTuple):
    """An answer of ``GET /v1/models``.

    :param models: models by id, in the catalog's order.
    :param is_complete: whether it certainly lists all image models that the key may use: some image models have a known
        form, and there is no further page.
    :param mentioned: all texts in it, in lower case: a model may be listed under a name that is not its id.
    :param ambiguous: ids with several entries that differ.
    """

    models: Mapping[str, ModelInfo] = MappingProxyType({})
    is_complete: bool = False
    mentioned: frozenset[str] = frozenset()
    ambiguous: frozenset[str] = frozenset()

    @classmethod
    def read(cls, document: Any) -> Catalog:
        """Return the catalog in a document; never raises."""
        listed = read_catalog(document)
        models = {model.id: model for model in listed}
        makes_images = any(model.makes_images or model.sizing for model in listed)
        return cls(
            models=models,
            is_complete=makes_images and not _has_more(document, len(listed)),
            mentioned=frozenset(text.lower() for text in _texts(document)),
            ambiguous=frozenset(model.id for model in listed if model.entry != models[model.id].entry),
        )

    def entry_of(self, model: str) -> ModelInfo | None:
        """Return the entry of a model, or ``None`` if it has none or several."""
        return None if model in self.ambiguous else self.models.get(model)

    def sizing_of(self, model: str) -> tuple[str, ...]:
        """Return the sizing fields that a model accepts; empty if unknown."""
        entry = self.entry_of(model)
        return entry.sizing if entry else ()

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


def _has_more(document: Any, listed: int) -> bool:
    """Return whether a document shows that it is not all of the list."""
    places = [document] if isinstance(document, Mapping) else []
    for place in places:
        for name, value in place.items():
            word = plain_name(str(name))
            if isinstance(value, Mapping) and name not in ("data", "models"):
                places.append(value)
            most = listed if word in _TOTAL else 1 if word in _PAGES else None
            if value and word in _NEXT_PAGE:
                return True
            if most is not None and (as_number(str(value)) or 0) > most:
                return True
    return False


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
        parameters=read_parameters(entry.get("parameters")),
        can_edit=_can_edit(entry),
        max_input_images=count(block, _MOST_IMAGES),
        max_input_bytes=_image_bytes(block),
        prompt_max_length=count(entry, ("prompt_max_length",)),
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
    found = ((count(block, (name,)), unit) for name, unit in _IMAGE_BYTES.items())
    return next((number * unit for number, unit in found if number), None)


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
