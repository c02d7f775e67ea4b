"""Compares the images received with the request."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.api.spellings import media_type_of, pair, pixels

#: Tolerance for the aspect ratio: models round to their own grid, up to 3 % for 5:4.
_RATIO_TOLERANCE = 0.05
#: Tolerance for the number of pixels of a tier: 1K is about 1024 x 1024 for any aspect ratio.
_TIER_TOLERANCE = 2.0


class Pixels(Protocol):
    """An image as received."""

    @property
    def index(self) -> int:
        """Its position among the request's images."""

    @property
    def media_type(self) -> str:
        """Detected from its first bytes."""

    @property
    def width(self) -> int:
        """Pixels."""

    @property
    def height(self) -> int:
        """Pixels."""

    @property
    def sha256(self) -> str:
        """Hash of its bytes, in hex."""


def mismatches(request: GenerateRequest, images: Sequence[Pixels], one_colour: Collection[int] = ()) -> list[str]:
    """Return the differences between images and request, as sentences without a full stop.

    :param one_colour: indices of images of a single colour.
    """
    found = [wrong_number(request.n, len(images))] if len(images) != request.n else []
    first: dict[str, int] = {}
    for image in images:
        found += _of_image(request, image)
        if image.index in one_colour:
            found.append(f"Image {image.index} is all one colour")
        twin = first.setdefault(image.sha256, image.index)
        if twin != image.index:
            found.append(f"Images {twin} and {image.index} are the same, byte for byte")
    return found


def added(warnings: Sequence[str], more: Sequence[str]) -> list[str]:
    """Return the warnings, followed by those of ``more`` that are new."""
    return list(dict.fromkeys([*warnings, *more]))


def wrong_number(wanted: int, count: int) -> str:
    """Return the warning about a wrong number of images."""
    return f"Asked for {wanted} {'image' if wanted == 1 else 'images'}, got {count}"


def _of_image(request: GenerateRequest, image: Pixels) -> Iterator[str]:
    name, size = f"Image {image.index}", f"{image.width}x{image.height} pixels"
    width, height = _pixels_asked(request)
    if (width or image.width, height or image.height) != (image.width, image.height):
        yield f"{name} has {size}, asked for {width or 'any'}x{height or 'any'}"
    across, down = pair(request.aspect_ratio) or (0, 0)
    ratio = across / down if across and down else None
    if ratio and abs(image.width / image.height / ratio - 1) > _RATIO_TOLERANCE:
        yield f"{name} has {size}, which is not {request.aspect_ratio}"
    tier = re.fullmatch(r"\s*(\d{1,2})\s*K\s*", request.resolution or "", re.IGNORECASE | re.ASCII)
    nominal = (int(tier[1]) * 1024) ** 2 if tier else 0
    if nominal and not 1 / _TIER_TOLERANCE <= image.width * image.height / nominal <= _TIER_TOLERANCE:
        yield f"{name} has {size}, which is not {request.resolution}"
    wanted = media_type_of(request.output_format)
    if wanted and image.media_type != wanted:
        yield f"{name} is {image.media_type}, asked for {wanted}"


def _pixels_asked(request: GenerateRequest) -> tuple[int | None, int | None]:
    size = request.image_size or request.picture_fields().get("size")  # OpenAI's name
    return pixels(str(size)) or (request.width, request.height)
