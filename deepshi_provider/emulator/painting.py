"""Paints pictures from prompts, cheaply and reproducibly."""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from PIL import Image, ImageDraw, ImageFont, ImageOps

from .scenes import COLOURS, SKY, Scene, draw_scene, draw_table, palette, scene_of
from .subjects import SHADE, SUBJECT, WHITE

_CANVAS_SIDE = 512  # painted at this size and enlarged, which is a quarter of the work or less
_MOST_LINES = 3
#: Share of the height for the caption: lines that do not fit are left out, and an edit paints over that of its source.
_CAPTION_SHARE = 0.22
_FORMAT_OPTIONS: dict[str, dict[str, int]] = {
    "png": {"compress_level": 1},
    "jpeg": {"quality": 70},
    "webp": {"method": 0, "quality": 50},
}


@dataclass(frozen=True, kw_only=True)
class Motif:
    """The content of a picture. Equal motifs give equal pictures.

    :param look: the request's number and the image's position in it; others look different.
    :param source: an input image of an edit, scaled down by :func:`shrunken`.
    """

    prompt: str
    look: tuple[int, int] = (0, 0)
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
    scene = scene_of(motif.prompt, motif.look)
    canvas = Image.new("P", (width, height), WHITE)
    colours = palette(scene)
    if motif.source is None:
        draw_scene(canvas, scene)
    else:
        colours += _paste(canvas, motif.source, scene, motif.look)
    canvas.putpalette(colours)
    _sign(canvas, motif, on_white=bool(scene.backdrop and not scene.is_dark and not motif.source))
    return canvas


def _paste(canvas: Image.Image, source: bytes, scene: Scene, look: tuple[int, int]) -> list[int]:
    """Put the input image, in the light of the edit's scene, behind a table; return its colours for the palette."""
    with Image.open(io.BytesIO(source)) as image:
        enlarged = ImageOps.fit(image.convert("RGB"), canvas.size, Image.Resampling.BILINEAR)
    variant = sum(look)
    if variant % 2:
        enlarged = ImageOps.mirror(enlarged)
    tint = Image.new("RGB", canvas.size, tuple(palette(scene)[3 * (SKY if scene.is_dark else SUBJECT) :][:3]))
    share = (0.55 if scene.is_dark else 0.35) + 0.08 * (variant // 2 % 3)
    few = Image.blend(enlarged, tint, share).quantize(colors=255 - COLOURS)
    canvas.paste(few.point([min(index + COLOURS, 255) for index in range(256)]))
    draw_table(canvas, scene, 1 - _CAPTION_SHARE)
    return few.getpalette() or []


def _sign(canvas: Image.Image, motif: Motif, *, on_white: bool) -> None:
    """Write the prompt and the order in small letters into the lower left corner."""
    width, height = canvas.size
    size = max(8, min(14, width // 36))
    columns = max(1, int(width * 1.7 / size) - 2)
    room = int((height * _CAPTION_SHARE - size) / (size + 4))
    shown = textwrap.wrap(motif.prompt[: columns * _MOST_LINES], columns)[: min(_MOST_LINES, max(room - 1, 1))]
    lines = [*shown, motif.caption][:room]
    text = "\n".join(lines)
    draw = ImageDraw.Draw(canvas)
    top = height - size // 2 - len(lines) * (size + 4)
    if not on_white:
        draw.multiline_text((size // 2 + 1, top + 1), text, fill=SHADE, font=_font(size))
    draw.multiline_text((size // 2, top), text, fill=SHADE if on_white else WHITE, font=_font(size))


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
