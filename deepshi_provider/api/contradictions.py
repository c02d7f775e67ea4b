"""Finds contradictions between a request and the catalog before the request is paid for.

A request is refused only if it contradicts an explicit entry of the catalog. Fields without an entry, or with one of
unknown form, pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from deepshi_provider.api.catalog import SIZING_FIELDS, Catalog, ModelInfo
from deepshi_provider.api.media import Media
from deepshi_provider.api.parameters import Parameter, limits
from deepshi_provider.api.requests import TRANSPORT_FIELDS, EditRequest, GenerateRequest
from deepshi_provider.api.texts import did_you_mean

#: Maximum ``n`` for models whose catalog entry has no limit (API.md, "generations").
_DOCUMENTED_N = {"deepshi-banana-pro": 1, "deepshi-image-1": 1}
#: Fields of one sizing style: a catalog entry with one of them does not exclude the others.
_STYLES = ({"width", "height"}, {"aspect_ratio", "resolution"})
#: Fields that only image models have.
_PICTURE_FIELDS = frozenset({*SIZING_FIELDS, "quality", "output_format"})
#: Fields whose values the catalog does not list.
_NO_CHOICE = frozenset({"prompt", "model", "images", *TRANSPORT_FIELDS})
#: Maximum number of models, or fields, in a sentence.
_NAMED = 12


class Complaint(NamedTuple):
    """One problem of a request.

    :param field: the request's field.
    :param text: a sentence without a full stop: the field, its value, the allowed values, and the default.
    :param is_certain: whether the request contradicts the catalog; otherwise it is only a likely mistake.
    """

    field: str
    text: str
    is_certain: bool = True

    def __str__(self) -> str:
        return self.text


def complaints(
    request: GenerateRequest, catalog: Catalog, input_bytes: Sequence[int] = (), source: Media | None = None
) -> list[Complaint]:
    """Return the contradictions between a request and the catalog.

    :param input_bytes: length of each input image, if already read.
    :param source: kind and size of the first input image, if known.
    """
    model = catalog.entry_of(request.model)
    if model is None:
        unlisted = [_unlisted(request.model, catalog)] if catalog.lacks(request.model) else []
        return [*unlisted, *_n_complaints(request, None), *_lone_sides(request)]
    if model.makes_images is False and not _PICTURE_FIELDS & (model.parameters or {}).keys():
        return [Complaint(field="model", text=f"model is {model.id}, which makes no images.{_image_models(catalog)}")]
    return [
        *_sizing_complaints(request, model),
        *_value_complaints(request, model),
        *_n_complaints(request, (model.parameters or {}).get("n")),
        *_prompt_complaints(request, model),
        *_edit_complaints(request, model, catalog, input_bytes),
        *_ignored_fields(request, model),
        *_other_size(request, model, source),
    ]


def has_size(request: GenerateRequest) -> bool:
    """Return whether a request asks for a size in any way."""
    return any(getattr(request, field) is not None for field in SIZING_FIELDS) or "size" in request.picture_fields()


def _unlisted(model: str, catalog: Catalog) -> Complaint:
    names = [name for name, info in catalog.models.items() if info.makes_images is not False]
    meant = did_you_mean(model, names)
    return Complaint(
        field="model",
        text=f"model is {model[:100]}, which is not in the catalog of this key.{meant}{_image_models(catalog)}",
    )


def _image_models(catalog: Catalog) -> str:
    names = [name for name, info in catalog.models.items() if info.makes_images is not False]
    return f" It lists {', '.join(names[:_NAMED])}{', …' if len(names) > _NAMED else ''}" if names else ""


def _sizing_complaints(request: GenerateRequest, model: ModelInfo) -> Iterator[Complaint]:
    taken = set(model.sizing)
    if not taken:
        yield from _lone_sides(request)
        return
    # An aspect ratio alone is a separate style.
    taken |= {name for style in _STYLES if taken & (style - {"aspect_ratio"}) for name in style}
    own = " and ".join(field for field in SIZING_FIELDS if field in taken)
    sizes = "; ".join(filter(None, (_named(name, model) for name in model.sizing)))
    for field in SIZING_FIELDS:
        value = getattr(request, field)
        if value is not None and field not in taken:
            text = f"{field} is {value}, but {model.id} is sized by {own} and ignores {field}"
            is_certain = not model.mentions(field)
            yield Complaint(field=field, text=f"{text} ({sizes})" if sizes else text, is_certain=is_certain)
            sizes = ""  # only in the first complaint
    if "width" in taken:
        yield from _lone_sides(request, model)


def _lone_sides(request: GenerateRequest, model: ModelInfo | None = None) -> Iterator[Complaint]:
    """Yield a complaint about a width without a height, or a height without a width.

    :param model: the model, if it is sized by both.
    """
    if model and request.aspect_ratio is not None and "aspect_ratio" in model.sizing:
        return  # it determines the other side
    for given, missing in (("width", "height"), ("height", "width")):
        value = getattr(request, given)
        if value is not None and getattr(request, missing) is None:
            text = f"{given} is {value} and {missing} is missing: pictures are sized by both"
            named = _named(missing, model) if model else ""
            yield Complaint(field=missing, text=f"{text} ({named})" if named else text, is_certain=model is not None)


def _value_complaints(request: GenerateRequest, model: ModelInfo) -> Iterator[Complaint]:
    fields = request.wire_fields()
    for name, parameter in (model.parameters or {}).items():
        if name in fields and name not in _NO_CHOICE and parameter.refuses(fields[name]):
            text = f"{name} is {str(fields[name])[:100]}, {model.id} takes {limits(parameter)}{_default(parameter)}"
            yield Complaint(field=name, text=text)


def _n_complaints(request: GenerateRequest, parameter: Parameter | None) -> Iterator[Complaint]:
    is_silent = parameter is None or (parameter.allowed is None and parameter.maximum is None)
    most = _DOCUMENTED_N.get(request.model) if is_silent else None
    if most is not None and request.n > most:
        yield Complaint(field="n", text=f"n is {request.n}, {request.model} takes {most} (default 1)")


def _prompt_complaints(request: GenerateRequest, model: ModelInfo) -> Iterator[Complaint]:
    most = model.prompt_max_length
    if most is not None and len(request.prompt) > most:
        text = f"prompt has {len(request.prompt):,} characters, {model.id} takes at most {most:,}"
        yield Complaint(field="prompt", text=text)


def _edit_complaints(
    request: GenerateRequest, model: ModelInfo, catalog: Catalog, input_bytes: Sequence[int]
) -> Iterator[Complaint]:
    if not isinstance(request, EditRequest):
        return
    count = len(request.images)
    if model.can_edit is False:
        others = [name for name, info in catalog.models.items() if info.can_edit]
        text = f"images has {count}, but {model.id} cannot edit images"
        yield Complaint(field="images", text=f"{text}; {', '.join(others[:_NAMED])} can" if others else text)
        return
    if model.max_input_images is not None and count > model.max_input_images:
        text = f"images has {count} input images, {model.id} takes at most {model.max_input_images}"
        yield Complaint(field="images", text=text)
    most = model.max_input_bytes
    for number, size in enumerate(input_bytes, start=1):
        if most is not None and size > most:
            text = f"images: number {number} has {size:,} bytes, {model.id} takes at most {most:,}"
            yield Complaint(field="images", text=text)


def _ignored_fields(request: GenerateRequest, model: ModelInfo) -> Iterator[Complaint]:
    """Yield complaints about fields that the entry does not list, if it lists some that this provider knows.

    Undocumented fields pass: the user has chosen them for this model.
    """
    listed = model.parameters or {}
    if not listed.keys() & (_PICTURE_FIELDS | {"n", "seed"}):
        return
    given = {"n": None if request.n == 1 else request.n} | {
        name: getattr(request, name) for name in ("seed", "quality", "output_format")
    }
    for name, value in given.items():
        if value is not None and name not in listed:
            fields = ", ".join(list(listed)[:_NAMED])
            text = f"{name} is {str(value)[:100]}, and {model.id} will ignore it: the catalog lists only {fields}"
            yield Complaint(field=name, text=text, is_certain=False)


def _other_size(request: GenerateRequest, model: ModelInfo, source: Media | None) -> Iterator[Complaint]:
    """Yield a complaint about an edit without a size if the model's default is not the size of the input image."""
    if source is None or has_size(request):
        return
    parameters = model.parameters or {}
    width, height = (parameters[side].default if side in parameters else None for side in ("width", "height"))
    is_known = width is not None and height is not None and width.isdigit() and height.isdigit()
    if is_known and (width, height) != (str(source.width), str(source.height)):
        text = (
            f"width and height are missing: {model.id} returns its default of {width}x{height} pixels, and the input "
            f"image has {source.width}x{source.height}"
        )
        yield Complaint(field="width", text=text, is_certain=False)


def _named(name: str, model: ModelInfo) -> str:
    parameter = (model.parameters or {}).get(name)
    allowed = limits(parameter)
    return f"{name} takes {allowed}{_default(parameter)}" if parameter and allowed else ""


def _default(parameter: Parameter | None) -> str:
    return f" (default {parameter.default})" if parameter and parameter.default is not None else ""
