"""Paints pictures that show what they were ordered with, cheaply."""

from __future__ import annotations

import hashlib
import io
import textwrap
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from PIL import Image, ImageDraw, ImageFont

_CANVAS_SIDE = 512  # painted at this size and enlarged, which is a quarter of the work or less
_INK, _PAPER, _FRAME = 0, 1, 2
_OWN_COLOURS = 3
_MOST_LINES = 12
_FORMAT_OPTIONS: dict[str, dict[str, int]] = {
    "png": {"compress_level": 1},
    "jpeg": {"quality": 70},
    "webp": {"method": 0, "quality": 50},
}


@dataclass(frozen=True, kw_only=True)
class Motif:
    """What a picture shows. Equal motifs give equal pictures.

    :param source: an input image of an edit, made small by :func:`shrunken`.
    """

    prompt: str
    caption: str
    width: int
    height: int
    output_format: str
    source: bytes | None = None


@lru_cache(maxsize=64)
def paint(motif: Motif) -> bytes:
    """The encoded picture, of exactly the motif's size."""
    canvas = _paint_canvas(motif).resize((motif.width, motif.height), Image.Resampling.NEAREST)
    if motif.output_format != "png":
        canvas = canvas.convert("RGB")
    target = io.BytesIO()
    canvas.save(target, motif.output_format.upper(), **_FORMAT_OPTIONS[motif.output_format])
    return target.getvalue()


def shrunken(file: BinaryIO) -> bytes:
    """An input image as a small PNG, to be shown inside an edit's picture."""
    with Image.open(file) as image:
        image.draft("RGB", (256, 256))
        small = image.convert("RGB")
        small.thumbnail((192, 192))
    target = io.BytesIO()
    small.save(target, "PNG", compress_level=1)
    return target.getvalue()


def _paint_canvas(motif: Motif) -> Image.Image:
    scale = max(1, max(motif.width, motif.height) // _CANVAS_SIDE)
    width, height = -(-motif.width // scale), -(-motif.height // scale)
    canvas = Image.new("P", (width, height), _PAPER)
    palette = _palette(motif.prompt)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, width - 1, height - 1), outline=_FRAME, width=max(1, width // 64))
    if motif.source is not None:
        palette += _paste(canvas, motif.source)
    canvas.putpalette(palette)
    _write(draw, motif, width, height)
    return canvas


def _palette(prompt: str) -> list[int]:
    """Ink, paper and frame; the paper is dark enough for white ink."""
    paper = [byte // 2 for byte in hashlib.sha256(prompt.encode(errors="replace")).digest()[:3]]
    return [255, 255, 255, *paper, *(side + 90 for side in paper)]


def _paste(canvas: Image.Image, source: bytes) -> list[int]:
    """Puts the input image into the lower right; returns its colours for the palette."""
    with Image.open(io.BytesIO(source)) as image:
        small = image.convert("RGB")
    small.thumbnail((max(1, canvas.width // 2), max(1, canvas.height // 2)))
    few = small.quantize(colors=128)
    shifted = few.point([min(index + _OWN_COLOURS, 255) for index in range(256)])
    canvas.paste(shifted, (canvas.width - few.width, canvas.height - few.height))
    return few.getpalette() or []


def _write(draw: ImageDraw.ImageDraw, motif: Motif, width: int, height: int) -> None:
    size = max(8, width // 24)
    font = _font(size)
    columns, rows = max(1, int(width * 1.7 / size)), max(1, height // (size * 5 // 4) - 2)
    shown = motif.prompt[: columns * rows]
    lines = textwrap.wrap(shown, columns)[: min(rows, _MOST_LINES)]
    draw.multiline_text((size, size), "\n".join([*lines, "", motif.caption]), fill=_INK, font=font)


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
