"""A picture of a single colour is detected, whichever program wrote it."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deepshi_provider.api.one_colour import SMALLEST_SIDE, is_one_colour

FORMATS = ["PNG", "JPEG", "WEBP"]
MODES = ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def found(data: bytes, kind: str = "PNG") -> bool:
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    return is_one_colour(io.BytesIO(data), f"image/{kind.lower()}", width, height, len(data))


def filtered(image: Image.Image, filters: list[int]) -> bytes:
    """An RGB PNG whose rows cycle through these filters of the PNG specification."""
    width, height = image.size
    rows = [image.crop((0, y, width, y + 1)).tobytes() for y in range(height)]
    body = bytearray()
    above = bytes(width * 3)
    for y, row in enumerate(rows):
        kind = filters[y % len(filters)]
        body.append(kind)
        for x, value in enumerate(row):
            left, corner = (row[x - 3], above[x - 3]) if x >= 3 else (0, 0)
            body.append((value - _predicted(kind, left, above[x], corner)) % 256)
        above = row

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = zlib.compress(bytes(body))
    pieces = b"".join(chunk(b"IDAT", packed[at : at + 7]) for at in range(0, len(packed), 7))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + pieces + chunk(b"IEND", b"")


def _predicted(kind: int, left: int, above: int, corner: int) -> int:
    estimate = left + above - corner
    nearest = min((abs(estimate - value), n, value) for n, value in enumerate((left, above, corner)))[2]
    return [0, left, above, (left + above) // 2, nearest][kind]


@given(st.tuples(*[st.integers(0, 255)] * 3), st.lists(st.integers(0, 4), min_size=1, max_size=9), st.booleans())
def test_every_filter_of_png_is_understood(colour: tuple[int, int, int], filters: list[int], plain: bool) -> None:
    image = Image.new("RGB", (17, 16), colour)
    if not plain:
        image.putpixel((random.Random(str(filters)).randrange(17), 15), tuple(255 - value for value in colour))
    data = filtered(image, filters)
    with Image.open(io.BytesIO(data)) as again:
        assert again.convert("RGB").tobytes() == image.tobytes(), "the test's own writer is right"
    assert found(data) is plain


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_png_is_understood(mode: str) -> None:
    plain = Image.new(mode, (100, 50), 1)
    assert found(encoded(plain))
    drawn = plain.copy()
    drawn.paste(0, (40, 20, 60, 30))
    assert not found(encoded(drawn))


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("side", [SMALLEST_SIDE, 640, 2000])
def test_plain_pictures_are_found_in_all_formats(kind: str, side: int) -> None:
    for colour in ("black", "white", (123, 45, 67)):
        assert found(encoded(Image.new("RGB", (side, side), colour), kind), kind)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_with_a_line_or_a_gradient_is_not_plain(kind: str) -> None:
    line = Image.new("RGB", (640, 480), "white")
    line.paste((0, 0, 0), (0, 200, 640, 216))
    gradient = Image.linear_gradient("L").resize((640, 480)).convert("RGB")
    for image in (line, gradient):
        assert not found(encoded(image, kind), kind)


def test_a_swatch_may_be_plain() -> None:
    assert not found(encoded(Image.new("RGB", (SMALLEST_SIDE - 1, 400), "red")))


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_or_damaged_pictures_raise_nothing(kind: str) -> None:
    data = encoded(Image.new("RGB", (640, 480), "red"), kind)
    for end in (0, 7, 20, 40, len(data) // 2, len(data) - 1):
        is_one_colour(io.BytesIO(data[:end]), f"image/{kind.lower()}", 640, 480, end)
        is_one_colour(io.BytesIO(data[:end] + b"\xff" * 50), f"image/{kind.lower()}", 640, 480, end)


@pytest.mark.slow
def test_only_the_first_rows_of_a_picture_with_content_are_read() -> None:
    noise = Image.effect_noise((2000, 2000), 90).convert("RGB")
    data = encoded(noise)
    file = io.BytesIO(data)
    assert not is_one_colour(file, "image/png", 2000, 2000, len(data))
    assert file.tell() < 200_000 < len(data)
