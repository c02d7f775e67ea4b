"""Makes the API's answers as documents, in all forms of API.md."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from .json_pieces import Base64Text
from .pictures import Picture, encoded
from .studio import Made

Json = dict[str, object]
Encode = Callable[[Picture], Base64Text]


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The form of an answer.

    :param forms: names from :data:`.settings.FORMS`.
    :param cost_form: the form of ``usage.cost``.
    :param encode: returns a picture's base64, which a fault may damage.
    :param without_data: leave out the pictures.
    """

    forms: frozenset[str] = frozenset()
    cost_form: str = "object"
    encode: Encode = field(default=lambda picture: picture.base64)
    without_data: bool = False


def whole_answer(made: Made, wording: Wording) -> Json:
    """Return the answer of API.md, *POST /v1/images/generations*."""
    data: list[object] = [_item(made, index, picture, wording) for index, picture in enumerate(made.pictures)]
    if wording.without_data:
        data = []
    if "bare" in wording.forms:
        return {"data": data}
    return {
        "created": int(time.time()),
        "model": made.order.model.id,
        "size": str(made.order.sizing),
        "data": data,
        "usage": _usage(made, wording.cost_form),
    }


def completed_events(made: Made, wording: Wording) -> list[tuple[str, Json]]:
    """Return the final events: one per picture, with the usage in the last, or one for all."""
    name = f"{event_family(made)}.completed"
    if "whole_answer" in wording.forms:
        kind: Json = {"type": name} if "no_event_line" in wording.forms else {}
        return [(name, {**kind, **whole_answer(made, wording)})]
    events: list[tuple[str, Json]] = []
    for index, picture in enumerate(made.pictures):
        body: Json = {"type": name}
        item = _item(made, index, picture, wording)
        if not wording.without_data:
            body |= item
        if "bare" not in wording.forms:
            body |= _event_details(made)
        events.append((name, body))
    if "bare" not in wording.forms:
        events[-1][1]["usage"] = _usage(made, wording.cost_form)
    return events


def partial_events(made: Made, wording: Wording) -> list[tuple[str, Json]]:
    """Return two previews, which are not the result."""
    name = f"{event_family(made)}.partial_image"
    return [
        (
            name,
            {
                "type": name,
                **_image(picture, made, wording),
                "partial_image_index": index,
                **_event_details(made),
            },
        )
        for index, picture in enumerate(made.previews)
    ]


def error_document(shape: str, message: str, code: str) -> Json:
    """Return an error for a stream.

    :param shape: ``object``, ``text`` or ``flat``.
    """
    if shape == "text":
        return {"error": message}
    if shape == "flat":
        return {"type": "error", "message": message, "code": code}
    return {"error": {"message": message, "type": "server_error", "code": code}}


def event_family(made: Made) -> str:
    """Return the first half of the events' names."""
    return "image_edit" if made.order.input_images else "image_generation"


def not_an_image(_picture: Picture) -> Base64Text:
    """Return base64 of a text."""
    return encoded(b"I am sorry, I cannot draw that. " * 64)


def truncated_image(picture: Picture) -> Base64Text:
    """Return the first half of the picture."""
    return encoded(b"".join(picture.parts())[: picture.size_bytes // 2])


def broken_base64(picture: Picture) -> Base64Text:
    """Return the picture with three invalid base64 characters in the middle."""
    pieces = list(picture.base64.pieces)
    middle = len(pieces) // 2
    half = len(pieces[middle]) // 2
    pieces[middle] = pieces[middle][:half] + b"*#!" + pieces[middle][half + 3 :]
    return Base64Text(tuple(pieces))


def _item(made: Made, index: int, picture: Picture, wording: Wording) -> Json:
    item: Json = {} if "no_index" in wording.forms else {"index": index}
    item |= _image(picture, made, wording)
    if made.order.model.revises:
        item["revised_prompt"] = f"A detailed picture of {made.order.prompt}"
    return item


def _image(picture: Picture, made: Made, wording: Wording) -> Json:
    text = wording.encode(picture)
    as_url = made.order.as_url or "url" in wording.forms
    if as_url:
        text = text.after(f"data:{picture.media_type};base64,".encode())
    if "escaped" in wording.forms:
        text = text.escaped()
    return {"url" if as_url else "b64_json": text}


def _event_details(made: Made) -> Json:
    return {
        "created_at": int(time.time()),
        "model": made.order.model.id,
        "size": str(made.order.sizing),
        "quality": made.order.quality,
        "background": "opaque",
        "output_format": made.order.output_format,
    }


def _usage(made: Made, cost_form: str) -> Json:
    """Return (invented) token counts and the exact price."""
    order = made.order
    asked = len(order.prompt) // 4 + 1
    seen = 258 * order.input_images
    drawn = order.n * max(1, order.sizing.pixels // 1024)
    usage: Json = {
        "prompt_tokens": asked + seen,
        "prompt_tokens_details": {
            "cached_tokens": 0,
            "cached_read_tokens": 0,
            "image_tokens": seen,
        },
        "completion_tokens": drawn,
        "completion_tokens_details": {"reasoning_tokens": 0, "image_tokens": drawn},
        "total_tokens": asked + seen + drawn,
    }
    if cost_form != "absent":
        usage["cost"] = _cost(made.cost_usd, cost_form)
    return usage


def _cost(cost_usd: Decimal, cost_form: str) -> object:
    shapes: Json = {
        "object": {"total_cost": cost_usd},
        "number": cost_usd,
        "string": f"{cost_usd:f}",
    }
    return shapes[cost_form]
