"""Different spellings of one value: ``jpg`` and ``image/jpeg``, ``1024x768`` and ``1024*768``, ``4:3`` and ``4/3``."""

from __future__ import annotations

import re

from deepshi_provider.api.media import EXTENSIONS

#: Two numbers, as in sizes and aspect ratios; the other separators do not occur in sizes.
_PAIR = re.compile(
    r"\s*(\d{1,6}(?:\.\d{1,6})?)\s*(?:[x\u00d7*,]|([:/_]))\s*(\d{1,6}(?:\.\d{1,6})?)\s*(?:px)?\s*", re.ASCII | re.I
)
_FORMATS = {"jpg": "image/jpeg", "jpe": "image/jpeg"} | {kind.partition("/")[2]: kind for kind in EXTENSIONS}


def canonical(value: str | float) -> str:
    """Return the same text for all spellings of a value."""
    text = str(value)
    if sides := pair(text):
        return f"{sides[0]!r}:{sides[1]!r}"
    if (number := as_number(text)) is not None:
        return repr(number)
    return media_type_of(text) or plain_name(text)


def pair(text: str | None) -> tuple[float, float] | None:
    """Return the two numbers of a size or an aspect ratio, or ``None`` if the text is neither."""
    found = _PAIR.fullmatch(text or "")
    return (float(found[1]), float(found[3])) if found else None


def pixels(text: str | None) -> tuple[int, int] | None:
    """Return width and height of a size such as ``1024x768``, or ``None`` if the text is no size, such as ``16:9``."""
    found = _PAIR.fullmatch(text or "")
    if found is None or found[2] or not found[1].isdecimal() or not found[3].isdecimal():
        return None
    return int(found[1]), int(found[3])


def as_number(text: str) -> float | None:
    """Return the number that a text is, or ``None``."""
    try:
        return float(text)
    except ValueError:
        return None


def plain_name(text: str) -> str:
    """Return a name in lower case without separators: ``aspect_ratio`` and ``aspectRatio`` are the same."""
    return re.sub(r"[\s_-]", "", text.lower())


def media_type_of(text: str | None) -> str | None:
    """Return the media type of an ``output_format``, or ``None`` if the API does not document it."""
    word = (text or "").strip().lower().removeprefix("image/")
    return _FORMATS.get(word.removeprefix("."))
