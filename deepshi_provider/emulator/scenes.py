"""Draws small landscapes for prompts: colour words choose the colours, and the prompt's hash the rest."""

from __future__ import annotations

import colorsys
import hashlib
import math
import random
import re
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .subjects import SHADE, SUBJECT, WHITE, Place, draw_subject, subject_of

Hsv = tuple[float, float, float]

#: Hue (0 to 1), saturation and value of colour words in prompts; the first one in a prompt counts.
_COLOURS: dict[str, Hsv] = {
    "red": (0.0, 0.80, 0.85),
    "orange": (0.08, 0.85, 0.95),
    "brown": (0.07, 0.55, 0.55),
    "wooden": (0.08, 0.55, 0.62),
    "wood": (0.08, 0.55, 0.62),
    "oak": (0.09, 0.50, 0.70),
    "walnut": (0.07, 0.55, 0.45),
    "beige": (0.10, 0.25, 0.90),
    "gold": (0.13, 0.75, 0.90),
    "golden": (0.13, 0.75, 0.90),
    "yellow": (0.15, 0.80, 0.95),
    "green": (0.36, 0.65, 0.65),
    "teal": (0.48, 0.65, 0.65),
    "turquoise": (0.48, 0.60, 0.80),
    "blue": (0.60, 0.75, 0.85),
    "navy": (0.63, 0.75, 0.45),
    "purple": (0.77, 0.60, 0.70),
    "violet": (0.77, 0.60, 0.80),
    "pink": (0.92, 0.50, 0.95),
    "white": (0.60, 0.03, 0.98),
    "grey": (0.60, 0.04, 0.60),
    "gray": (0.60, 0.04, 0.60),
    "silver": (0.60, 0.06, 0.80),
    "black": (0.62, 0.20, 0.22),
}
_DARK = frozenset({"night", "midnight", "dark", "moon", "moonlight", "stars", "evening"})
_WARM = frozenset({"sunset", "sunrise", "dusk", "dawn", "autumn", "desert", "candlelight"})
_STUDIO = frozenset({"studio", "background", "backdrop", "packshot"})

#: Positions in the palette after white, the subject and its shade: the light in the sky, hills, then sky and water.
LIGHT, HILLS = 3, 4
_HILL_COUNT = 3
_BANDS = 24
SKY = HILLS + _HILL_COUNT
WATER = SKY + _BANDS
#: Number of colours that a scene uses; the rest of the palette is free.
COLOURS = WATER + _BANDS

Rgb = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The look of a scene.

    :param is_dark: whether it is night, with stars.
    :param backdrop: colour behind a subject in a studio; ``None`` for a landscape.
    :param is_coloured: whether the prompt names the subject's colour.
    :param thing: the subject in the middle.
    """

    hue: float
    subject: Hsv
    backdrop: Hsv | None
    is_coloured: bool
    is_dark: bool
    is_warm: bool
    thing: str
    seed: int


def scene_of(prompt: str, look: tuple[int, int] = (0, 0)) -> Scene:
    """Return the scene of a prompt; equal prompts and looks have equal scenes."""
    text = prompt if look == (0, 0) else f"{prompt} {look}"
    digest = hashlib.sha256(text.encode(errors="replace")).digest()
    words = re.findall(r"[a-z]+", prompt.lower())
    behind = {number for number in range(len(words) - 1) if words[number + 1] == "background"}
    plain = [_COLOURS[words[number]] for number in sorted(behind) if words[number] in _COLOURS]
    named = [_COLOURS[word] for number, word in enumerate(words) if word in _COLOURS and number not in behind]
    return Scene(
        hue=digest[0] / 255,
        subject=named[0] if named else (digest[1] / 255, 0.60, 0.85),
        backdrop=None if _STUDIO.isdisjoint(words) else next(iter(plain), (digest[9] / 255, 0.12, 0.96)),
        is_coloured=bool(named),
        is_dark=not _DARK.isdisjoint(words),
        is_warm=not _WARM.isdisjoint(words),
        thing=subject_of(words, digest[8]),
        seed=int.from_bytes(digest[2:8], "big"),
    )


def palette(scene: Scene) -> list[int]:
    """Return the scene's colours for Pillow, three numbers each."""
    hue, saturation, value = scene.subject
    sky = 0.05 + 0.05 * scene.hue if scene.is_warm else 0.52 + 0.14 * scene.hue
    top, horizon = ((sky, 0.75, 0.16), (sky, 0.55, 0.42)) if scene.is_dark else ((sky, 0.50, 0.80), (sky, 0.14, 0.98))
    land, green = 0.70 if scene.is_dark else 0.30 + 0.30 * scene.hue, 0.28
    dim = 0.45 if scene.is_dark else 1.0
    if scene.backdrop:
        land, green, bright = scene.backdrop
        top, horizon = (land, green, 0.84 * bright * dim), (land, 0.6 * green, bright * dim)
    colours = [
        (255, 255, 255),
        _rgb(hue, saturation, value * (0.85 if scene.is_dark else 1.0)),
        _rgb(hue, min(1.0, saturation + 0.1), value * 0.6),
        _rgb(0.14, 0.20 if scene.is_dark else 0.35, 1.0),
        *(_rgb(land, green + 0.08 * k, (0.72 - 0.16 * k) * dim) for k in range(_HILL_COUNT)),
        *_gradient(top, horizon),
        *_gradient((sky, 0.45, horizon[2] * 0.92), (sky, 0.75, top[2] * 0.55)),
    ]
    return [channel for colour in colours for channel in colour]


def draw_scene(image: Image.Image, scene: Scene) -> None:
    """Draw into an image of mode ``P`` with the scene's :func:`palette`: sky, light, hills, water and a subject."""
    draw = ImageDraw.Draw(image)
    chance = random.Random(scene.seed)  # noqa: S311 -- the same scene each time
    if scene.backdrop:
        _draw_studio(draw, chance, image.size, scene.thing)
        return
    width, height = image.size
    horizon = int(height * chance.uniform(0.55, 0.66))
    _bands(draw, width, 0, horizon, SKY)
    if scene.is_dark:
        for _ in range(40):
            x, y = chance.uniform(0, width), chance.uniform(0, horizon * 0.8)
            draw.point((x, y), fill=WHITE)
    radius = min(width, height) * chance.uniform(0.05, 0.10)
    x, y = width * chance.uniform(0.15, 0.85), horizon * chance.uniform(0.2, 0.7)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=LIGHT)
    for k in range(_HILL_COUNT):
        _hill(draw, chance, width, horizon, height * (0.24 - 0.07 * k), HILLS + k)
    _bands(draw, width, horizon, height, WATER)
    for _ in range(12):  # the light on the water
        glint = chance.uniform(horizon + 1, max(horizon + 2, height))
        reach = radius * chance.uniform(0.3, 1.2)
        draw.line((x - reach, glint, x + reach, glint), fill=LIGHT)
    size = min(width, height) * chance.uniform(0.32, 0.42)
    foot = horizon + (height - horizon) * 0.5
    draw_subject(scene.thing, Place(draw, width * chance.uniform(0.35, 0.65), foot, size))


def draw_table(image: Image.Image, scene: Scene, top: float) -> None:
    """Draw a table over the lower part of an image of mode ``P``, in the colour that the prompt names.

    :param top: share of the height above it.
    """
    width, height = image.size
    draw = ImageDraw.Draw(image)
    edge = int(height * top)
    front, ledge = (SHADE, SUBJECT) if scene.is_coloured else (HILLS + 2, HILLS + 1)
    draw.rectangle((0, edge, width, height), fill=front)
    draw.rectangle((0, edge, width, edge + max(1, height // 60)), fill=ledge)


def _draw_studio(draw: ImageDraw.ImageDraw, chance: random.Random, size: tuple[int, int], thing: str) -> None:
    """Draw the subject and its shadow before a backdrop that becomes the floor."""
    width, height = size
    floor = int(height * chance.uniform(0.60, 0.68))
    _bands(draw, width, 0, floor, SKY)
    _bands(draw, width, floor, height, SKY)
    tall = min(width, height) * chance.uniform(0.40, 0.56)
    x, foot = width * chance.uniform(0.36, 0.64), height * 0.74
    draw.ellipse((x - tall * 0.6, foot - tall * 0.05, x + tall * 0.6, foot + tall * 0.07), fill=HILLS + 1)
    draw_subject(thing, Place(draw, x, foot, tall))


def _rgb(hue: float, saturation: float, value: float) -> Rgb:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, max(0.0, min(1.0, saturation)), max(0.0, min(1.0, value)))
    return round(red * 255), round(green * 255), round(blue * 255)


def _gradient(first: tuple[float, float, float], last: tuple[float, float, float]) -> list[Rgb]:
    steps = [k / (_BANDS - 1) for k in range(_BANDS)]
    return [_rgb(*(a + (b - a) * step for a, b in zip(first, last, strict=True))) for step in steps]


def _bands(draw: ImageDraw.ImageDraw, width: int, top: int, bottom: int, first: int) -> None:
    for k in range(_BANDS):
        begin, end = top + (bottom - top) * k // _BANDS, top + (bottom - top) * (k + 1) // _BANDS
        if end > begin:
            draw.rectangle((0, begin, width, end - 1), fill=first + k)


def _hill(
    draw: ImageDraw.ImageDraw, chance: random.Random, width: int, horizon: int, height: float, colour: int
) -> None:
    phase, waves = chance.uniform(0, 6), chance.uniform(1.2, 3.0)
    steps = 24
    ridge = [
        (
            width * k / steps,
            horizon - height * (0.55 + 0.45 * math.sin(phase + waves * math.tau * k / steps / 1.7)),
        )
        for k in range(steps + 1)
    ]
    draw.polygon([(0, horizon), *ridge, (width, horizon)], fill=colour)
