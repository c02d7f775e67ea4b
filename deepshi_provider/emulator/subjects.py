"""Draws the subject in the middle of a picture, chosen by a word in the prompt, or by the prompt's hash."""

from __future__ import annotations

from collections.abc import Callable

from PIL import ImageDraw

#: Positions in the palette.
WHITE, SUBJECT, SHADE = 0, 1, 2

_WORDS = {
    "boat": "boat ship sail sailing yacht harbour harbor sea ocean lake",
    "house": "house home cottage cabin castle city town village shop street",
    "tree": "tree trees forest wood woods park garden jungle",
    "balloon": "balloon balloons sky cloud clouds air flying bird birds",
    "mug": "mug cup coffee tea jar bowl pot glass bottle product",
    "lamp": "lamp light lantern desk table chair furniture",
    "flower": "flower flowers rose tulip vase bouquet plant",
    "mountain": "mountain mountains peak hill hills snow desert",
    "shoe": "shoe shoes sneaker sneakers boot boots",
}
_NAMED = {word: name for name, words in _WORDS.items() for word in words.split()}
#: Subjects for prompts without a known word.
_ANY = ("boat", "house", "tree", "balloon", "mountain", "flower")


class Place:
    """The position of a subject: its middle, its foot, and its size, in pixels of the picture."""

    def __init__(self, draw: ImageDraw.ImageDraw, x: float, foot: float, size: float) -> None:
        self.draw = draw
        self._x, self._foot, self._size = x, foot, size

    def at(self, *points: tuple[float, float]) -> list[tuple[float, float]]:
        """Return points given in units of the size: to the right of the middle, and up from the foot."""
        return [(self._x + self._size * right, self._foot - self._size * up) for right, up in points]

    def shape(self, colour: int, *points: tuple[float, float]) -> None:
        """Fill a polygon."""
        self.draw.polygon(self.at(*points), fill=colour)

    def round(self, colour: int, right: float, up: float, width: float, height: float | None = None) -> None:
        """Fill an ellipse around a point."""
        (x, y), radius = (
            self.at((right, up))[0],
            (self._size * width, self._size * (width if height is None else height)),
        )
        self.draw.ellipse((x - radius[0], y - radius[1], x + radius[0], y + radius[1]), fill=colour)

    def line(self, colour: int, width: float, *points: tuple[float, float]) -> None:
        """Draw a line."""
        self.draw.line(self.at(*points), fill=colour, width=max(1, int(self._size * width)))


def subject_of(words: list[str], number: int) -> str:
    """Return the subject of the first known word, or one chosen by a number."""
    return next((_NAMED[word] for word in words if word in _NAMED), _ANY[number % len(_ANY)])


def draw_subject(name: str, place: Place) -> None:
    """Draw a subject."""
    _DRAWN[name](place)


def _boat(p: Place) -> None:
    p.shape(SHADE, (-0.6, 0.22), (0.6, 0.22), (0.4, 0), (-0.42, 0))
    p.shape(SUBJECT, (-0.02, 1.08), (-0.02, 0.28), (-0.5, 0.28))
    p.shape(SHADE, (0.03, 0.96), (0.03, 0.28), (0.45, 0.28))
    p.line(WHITE, 0.025, (0, 1.1), (0, 0.22))


def _house(p: Place) -> None:
    p.shape(SUBJECT, (-0.45, 0), (0.45, 0), (0.45, 0.5), (-0.45, 0.5))
    p.shape(SHADE, (-0.58, 0.48), (0, 0.95), (0.58, 0.48))
    p.shape(SHADE, (0.22, 0.7), (0.36, 0.6), (0.36, 0.95), (0.22, 0.95))
    p.shape(WHITE, (-0.3, 0.2), (-0.1, 0.2), (-0.1, 0.4), (-0.3, 0.4))
    p.shape(WHITE, (0.1, 0), (0.28, 0), (0.28, 0.36), (0.1, 0.36))


def _tree(p: Place) -> None:
    p.shape(SHADE, (-0.06, 0), (0.06, 0), (0.06, 0.35), (-0.06, 0.35))
    for up, wide in ((0.2, 0.45), (0.45, 0.36), (0.7, 0.26)):
        p.shape(SUBJECT, (-wide, up), (wide, up), (0, up + 0.45))
        p.shape(SHADE, (wide * 0.1, up), (wide, up), (0, up + 0.45))


def _balloon(p: Place) -> None:
    p.line(SHADE, 0.02, (-0.2, 0.75), (-0.09, 0.42))
    p.line(SHADE, 0.02, (0.2, 0.75), (0.09, 0.42))
    p.round(SUBJECT, 0, 0.95, 0.4, 0.42)
    p.round(SHADE, 0, 0.95, 0.2, 0.42)
    p.round(SUBJECT, 0, 0.95, 0.08, 0.42)
    p.shape(SHADE, (-0.1, 0.42), (0.1, 0.42), (0.08, 0.26), (-0.08, 0.26))


def _mug(p: Place) -> None:
    p.round(SHADE, 0.4, 0.36, 0.2)
    p.round(WHITE, 0.4, 0.36, 0.12)
    p.shape(SUBJECT, (-0.4, 0.65), (0.4, 0.65), (0.36, 0.06), (-0.36, 0.06))
    p.round(SUBJECT, 0, 0.06, 0.36, 0.06)
    p.round(SHADE, 0, 0.65, 0.4, 0.08)
    for right in (-0.14, 0.1):
        p.line(WHITE, 0.03, (right, 0.78), (right + 0.06, 0.88), (right - 0.02, 0.98), (right + 0.05, 1.08))


def _lamp(p: Place) -> None:
    p.round(SHADE, 0, 0.03, 0.3, 0.05)
    p.line(SHADE, 0.05, (0, 0.05), (-0.2, 0.5), (0.12, 0.88))
    p.shape(SUBJECT, (0.0, 0.98), (0.22, 0.8), (0.5, 0.78), (0.14, 1.12))
    p.round(WHITE, 0.34, 0.79, 0.07)


def _flower(p: Place) -> None:
    p.line(SHADE, 0.04, (0, 0.05), (0, 0.8))
    p.round(SHADE, 0.14, 0.38, 0.13, 0.06)
    p.round(SHADE, -0.14, 0.28, 0.13, 0.06)
    for right, up in ((0.17, 0.9), (-0.17, 0.9), (0, 1.04), (0.11, 0.72), (-0.11, 0.72)):
        p.round(SUBJECT, right, up, 0.14)
    p.round(WHITE, 0, 0.86, 0.09)


def _mountain(p: Place) -> None:
    p.shape(SHADE, (-0.2, 0), (0.9, 0), (0.4, 0.75))
    p.shape(SUBJECT, (-0.85, 0), (0.55, 0), (-0.1, 1.05))
    p.shape(SHADE, (-0.1, 1.05), (0.55, 0), (0.0, 0))
    p.shape(WHITE, (-0.1, 1.05), (-0.28, 0.79), (-0.16, 0.84), (-0.08, 0.74), (0.02, 0.84), (0.07, 0.78))


def _shoe(p: Place) -> None:
    p.shape(WHITE, (-0.55, 0), (0.6, 0), (0.62, 0.12), (-0.56, 0.12))
    p.shape(SUBJECT, (-0.55, 0.12), (0.62, 0.12), (0.5, 0.3), (0.15, 0.38), (-0.1, 0.66), (-0.5, 0.62))
    p.shape(SHADE, (0.62, 0.12), (0.5, 0.3), (0.3, 0.34), (0.34, 0.12))
    for right in (-0.02, 0.07, 0.16):
        p.line(WHITE, 0.025, (right - 0.1, 0.4), (right + 0.04, 0.5))


_DRAWN: dict[str, Callable[[Place], None]] = {
    "boat": _boat,
    "house": _house,
    "tree": _tree,
    "balloon": _balloon,
    "mug": _mug,
    "lamp": _lamp,
    "flower": _flower,
    "mountain": _mountain,
    "shoe": _shoe,
}
