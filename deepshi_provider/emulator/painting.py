"""Paints pictures from prompts, cheaply and reproducibly."""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from PIL import Image, ImageDraw, ImageFont, ImageOps

from .scenes import COLOURS, SKY, Scene, draw_scene, palette, scene_of
from .subjects import SHADE, SUBJECT, WHITE

_CANVAS_SIDE = 512  # painted at this size and enlarged, which is a quarter of the work or less
_MOST_LINES = 3
_FORMAT_OPTIONS: dict[str, dict[str, int]] = {
    "png": {"compress_level": 1},
    "jpeg": {"quality": 70},
    "webp": {"method": 0, "quality": 50},
}


@dataclass(frozen=True, kw_only=True)
class Motif:
    """The content of a picture. Equal motifs give equal pictures.

    :param source: an input image of an edit, scaled down by :func:`shrunken`.
    """

    prompt: str
    caption: str
    width: int
    height: int
    output_format: str
    source: bytes | None = None


@lru_cache(maxsize=64)
def paint(motif: Motif) -> bytes:
    """Return the encoded picture, of exactly the motif's size."""
    canvas = _paint_canvas(motif).resize((motif.width, motif.height), Image.Resampling.NEAREST)
    if motif.output_format != "png":
        canvas = canvas.convert("RGB")
    target = io.BytesIO()
    canvas.save(target, motif.output_format.upper(), **_FORMAT_OPTIONS[motif.output_format])
    return target.getvalue()


def shrunken(file: BinaryIO) -> bytes:
    """Return an input image as a small PNG, to show in an edit's picture."""
    with Image.open(file) as image:
        image.draft("RGB", (320, 320))
        small = image.convert("RGB")
        small.thumbnail((320, 320))
    target = io.BytesIO()
    small.save(target, "PNG", compress_level=1)
    return target.getvalue()


def _paint_canvas(motif: Motif) -> Image.Image:
    scale = max(1, max(motif.width, motif.height) // _CANVAS_SIDE)
    width, height = -(-motif.width // scale), -(-motif.height // scale)
    scene = scene_of(motif.prompt)
    canvas = Image.new("P", (width, height), WHITE)
    colours = palette(scene)
    if motif.source is None:
        draw_scene(canvas, scene)
    else:
        colours += _paste(canvas, motif.source, scene)
    canvas.putpalette(colours)
    _sign(canvas, motif)
    return canvas


def _paste(canvas: Image.Image, source: bytes, scene: Scene) -> list[int]:
    """Fill the canvas with the input image in the light of the edit's scene; return its colours for the palette."""
    with Image.open(io.BytesIO(source)) as image:
        enlarged = ImageOps.fit(image.convert("RGB"), canvas.size, Image.Resampling.BILINEAR)
    tint = Image.new("RGB", canvas.size, tuple(palette(scene)[3 * (SKY if scene.is_dark else SUBJECT) :][:3]))
    few = Image.blend(enlarged, tint, 0.55 if scene.is_dark else 0.35).quantize(colors=255 - COLOURS)
    canvas.paste(few.point([min(index + COLOURS, 255) for index in range(256)]))
    return few.getpalette() or []


def _sign(canvas: Image.Image, motif: Motif) -> None:
    """Write the prompt and the order in small letters into the lower left corner."""
    width, height = canvas.size
    size = max(8, min(14, width // 36))
    columns = max(1, int(width * 1.7 / size) - 2)
    shown = textwrap.wrap(motif.prompt[: columns * _MOST_LINES], columns)[:_MOST_LINES]
    text = "\n".join([*shown, motif.caption])
    draw = ImageDraw.Draw(canvas)
    top = height - size // 2 - (len(shown) + 1) * (size + 4)
    draw.multiline_text((size // 2 + 1, top + 1), text, fill=SHADE, font=_font(size))
    draw.multiline_text((size // 2, top), text, fill=WHITE, font=_font(size))


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
