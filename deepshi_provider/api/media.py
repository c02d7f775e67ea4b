"""Detects an image's kind (PNG, JPEG or WebP), its size in pixels, and whether it is whole, from its bytes.

The image's structure is followed from the first byte to its end, so bytes after the end do not matter, and neither does
the end of an embedded thumbnail. Formats: the PNG specification (section 5), ITU-T T.81 (annex B), and Google's "WebP
Container Specification" with RFC 6386 and 9649.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}

#: Bytes per read: while searching for a marker, and around the head of a chunk.
_PIECE, _HEAD = 64 * 1024, 4 * 1024
#: Maximum number of reads of an image's parts, which block the event loop; 256 MiB in PNG's usual chunks take 65,000.
_MOST_READS = 200_000
#: A JPEG marker, but not a stuffed 0xFF of the image data, a fill byte or a restart marker.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_TEMPORARY, _DHT, _START, _END, _SCAN, _JPG, _DAC = 0x01, 0xC4, 0xD8, 0xD9, 0xDA, 0xC8, 0xCC
#: Start of frame: the segments that hold a JPEG's size.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {_DHT, _JPG, _DAC}

_CUT_SHORT = "is truncated"
_DAMAGED = "is damaged"

_Size = tuple[int, int]
_NOTHING: _Size = (0, 0)


class Media(NamedTuple):
    """Kind and size of an image.

    Width and height are those of the stored pixels, without EXIF orientation, like the API's ``size``, a request's
    ``width`` and ``height``, and most programs. For an animation, they are those of its canvas.

    :param media_type: ``image/png``, ``image/jpeg`` or ``image/webp``.
    :param width: pixels.
    :param height: pixels.
    """

    media_type: str
    width: int
    height: int


def media_type(head: bytes) -> str | None:
    """Return the media type from the first 12 bytes of a file, or ``None``."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def identify(file: BinaryIO) -> Media:
    """Return kind and size of a whole image, read in pieces of 64 KiB.

    :raises ValueError: it is not an image of a kind that the API makes, or it is truncated or damaged; the message says
        which.
    """
    file.seek(0)
    kind = media_type(file.read(12))
    if kind is None:
        raise ValueError("it is not a PNG, JPEG or WebP image")
    try:
        width, height = _WALKS[kind](_Pieces(file))
        if not (width and height):
            raise ValueError("contains no image")
    except ValueError as err:
        raise ValueError(f"its {kind} data {err}") from None
    return Media(media_type=kind, width=width, height=height)


class _Pieces:
    """A file with one piece at a time in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start = 0
        self._piece = b""
        self._reads = 0

    def read(self, position: int, count: int) -> bytes:
        """Return some bytes of the file.

        :raises ValueError: the file ends too early, or has too many parts.
        """
        self._count()
        offset = position - self._start
        if not 0 <= offset <= len(self._piece) - count:
            self._load(position, _HEAD)
            offset = 0
        found = self._piece[offset : offset + count]
        if len(found) < count:
            raise ValueError(_CUT_SHORT)
        return found

    def marker(self, position: int) -> tuple[int, int]:
        """Return the next JPEG marker and the position of its end.

        :raises ValueError: the file ends too early, or has too many parts.
        """
        self._count()
        found = None
        while not found:
            if not self._start <= position < self._start + len(self._piece) - 1:
                self._load(position, _PIECE)
                if len(self._piece) < 2:
                    raise ValueError(_CUT_SHORT)
            found = _MARKER.search(self._piece, position - self._start)
            # Read one byte again: a marker may begin in one piece and end in the next.
            position = self._start + len(self._piece) - 1
        return self._piece[found.end() - 1], self._start + found.end()

    def _count(self) -> None:
        self._reads += 1
        if self._reads > _MOST_READS:
            raise ValueError("has too many parts")

    def _load(self, position: int, count: int) -> None:
        self._file.seek(position)
        self._start, self._piece = position, self._file.read(count)


def _png(file: _Pieces) -> _Size:
    size, has_data, position = _NOTHING, False, 8
    while True:
        head = file.read(position, 8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if not kind.isalpha():
            raise ValueError(_DAMAGED)
        if kind == b"IHDR":
            fields = file.read(position + 8, 8)
            size = int.from_bytes(fields[:4], "big"), int.from_bytes(fields[4:], "big")
        has_data = has_data or kind == b"IDAT"
        position += length + 12  # plus length, kind and checksum
        if kind == b"IEND":
            file.read(position - 1, 1)
            return size if has_data else _NOTHING


def _jpeg(file: _Pieces) -> _Size:
    size, has_data, position = _NOTHING, False, 2
    while True:
        marker, position = file.marker(position)
        if marker == _END:
            return size if has_data else _NOTHING
        if marker == _START:  # the start of another image, before the end of this one
            raise ValueError(_CUT_SHORT)
        if marker == _TEMPORARY:
            continue
        length = int.from_bytes(file.read(position, 2), "big")
        if marker in _FRAMES:
            fields = file.read(position + 3, 4)
            size = int.from_bytes(fields[2:], "big"), int.from_bytes(fields[:2], "big")
        has_data = has_data or marker == _SCAN
        position += max(2, length)


def _webp(file: _Pieces) -> _Size:
    end = int.from_bytes(file.read(4, 4), "little") + 8
    file.read(end - 1, 1)
    size, has_data, position = _NOTHING, False, 12
    while position + 8 <= end:
        head = file.read(position, 8)
        kind, position = head[:4], position + 8
        has_data = has_data or kind in (b"VP8 ", b"VP8L", b"ANMF")
        if size == _NOTHING and kind in _WEBP_SIZES:
            count, size_of = _WEBP_SIZES[kind]
            size = size_of(file.read(position, count))
        length = int.from_bytes(head[4:], "little")
        if position + length > end:
            raise ValueError(_DAMAGED)
        position += length + length % 2
    return size if has_data else _NOTHING


def _lossy(head: bytes) -> _Size:
    width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    return (width, height) if head[3:6] == b"\x9d\x01\x2a" else _NOTHING


def _lossless(head: bytes) -> _Size:
    bits = int.from_bytes(head[1:], "little")
    return ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1) if head[0] == 0x2F else _NOTHING


def _canvas(head: bytes) -> _Size:
    return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:], "little") + 1


#: Size of a WebP by chunk: number of bytes to read, and their parser. The first chunk counts.
_WEBP_SIZES: dict[bytes, tuple[int, Callable[[bytes], _Size]]] = {
    b"VP8 ": (10, _lossy),
    b"VP8L": (5, _lossless),
    b"VP8X": (10, _canvas),
}
_WALKS = {"image/png": _png, "image/jpeg": _jpeg, "image/webp": _webp}
