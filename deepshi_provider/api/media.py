"""What an image is, by its own bytes: PNG, JPEG or WebP, its size in pixels, and whether it is whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}

#: Where the end mark of a PNG or JPEG must begin, in bytes from the end; some programs append a few bytes.
_TAIL = 4096
_END_MARKS = {"image/png": b"IEND\xaeB`\x82", "image/jpeg": b"\xff\xd9"}


@dataclass(frozen=True, kw_only=True)
class Media:
    """Kind and size of an image.

    :param media_type: ``image/png``, ``image/jpeg`` or ``image/webp``.
    :param width: pixels.
    :param height: pixels.
    """

    media_type: str
    width: int
    height: int


def media_type(head: bytes) -> str | None:
    """Return the media type that the first 12 bytes of a file tell, or ``None``."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def identify(file: BinaryIO, size_bytes: int) -> Media:
    """Return what a whole image is.

    :raises ValueError: it is no image of a kind that the API makes, or it is cut short; the message says which.
    """
    file.seek(0)
    head = file.read(12)
    kind = media_type(head)
    if kind is None:
        raise ValueError("it is not a PNG, JPEG or WebP image")
    if not _is_whole(file, size_bytes, kind, head):
        raise ValueError(f"its {kind} data is cut short")
    import imagesize  # not while DAGs are parsed: it brings an XML parser

    file.seek(0)
    width, height = imagesize.get(file)
    if width <= 0 or height <= 0:
        raise ValueError(f"its {kind} data tells no size")
    return Media(media_type=kind, width=int(width), height=int(height))


def _is_whole(file: BinaryIO, size_bytes: int, kind: str, head: bytes) -> bool:
    if kind == "image/webp":
        return int.from_bytes(head[4:8], "little") + 8 <= size_bytes
    file.seek(max(0, size_bytes - _TAIL))
    return _END_MARKS[kind] in file.read(_TAIL)
