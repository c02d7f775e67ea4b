"""Detects images of a single colour, which some models return instead of a real image.

A PNG is compared row by row without decoding: the rows of a plain image are known in advance for each of the five
filters (PNG specification, section 9), so the check ends at the first row that differs, usually after a few kilobytes.
JPEG and WebP are decoded with Pillow if they are small enough: plain ones have at most 0.035 bytes per pixel.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

#: Minimum number of pixels; a swatch or an icon may well be plain.
SMALLEST_SIDE = 16

#: Maximum bytes per pixel, plus bytes for the head, of images that are decoded.
_DENSITY, _HEAD = 0.05, 4_000
#: Maximum pixels of a WebP that is decoded: 16 MiB of memory. A JPEG is decoded at an eighth of its size.
_MOST_WEBP = 2**22
#: Maximum difference between values: WebP at quality 80 changes a colour by up to 6, more at lower ones; JPEG by 0.
_LOSSY = 8
_PIECE = 64 * 1024
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def is_one_colour(file: BinaryIO, media_type: str, width: int, height: int, size_bytes: int) -> bool:
    """Return whether all pixels of a whole image are the same; ``False`` also if the check would be expensive.

    Reads the file, and blocks for at most some tenths of a second.
    """
    if min(width, height) < SMALLEST_SIDE:
        return False
    try:
        if media_type == "image/png":
            return _is_plain_png(file)
        if size_bytes > _HEAD + _DENSITY * width * height:
            return False
        return (media_type == "image/jpeg" or width * height <= _MOST_WEBP) and _is_plain_when_decoded(file)
    except Exception:  # noqa: BLE001 -- decoders may raise anything, and the image is paid for
        return False


def _is_plain_when_decoded(file: BinaryIO) -> bool:
    from PIL import Image

    file.seek(0)
    with Image.open(file, formats=["JPEG", "WEBP"]) as image:
        image.draft(image.mode, (max(1, image.width // 8), max(1, image.height // 8)))
        extrema: Any = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(high - low <= _LOSSY for low, high in bands)


def _is_plain_png(file: BinaryIO) -> bool:
    chunks = _chunks(file)
    _, head = next(chunks)
    width, height = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:8], "big")
    depth, colour, interlaced = head[8], head[9], head[12]
    if interlaced:
        return False
    bits = _CHANNELS[colour] * depth
    stride = 1 + -(-width * bits // 8)
    whole = width * bits // 8  # some bits of the last byte may be unused
    rows = _rows((piece for kind, piece in chunks if kind == b"IDAT"), stride)
    first = next(rows)
    pixel = first[1 : 1 + max(1, bits // 8)]
    if bits < 8 and not _is_repeated(pixel[0], bits):
        return False
    beginning, others = _expected(pixel, whole, is_first=True), _expected(pixel, whole, is_first=False)
    if first[1 : 1 + whole] != beginning[first[0]]:
        return False
    count = 1
    for row in rows:
        if row[1 : 1 + whole] != others[row[0]]:
            return False
        count += 1
    return count == height


def _expected(pixel: bytes, length: int, *, is_first: bool) -> list[bytes]:
    """Return a row of a plain image for each filter; the first row has no row above it."""

    def row(begin: bytes, then: bytes) -> bytes:
        return (begin + then * (length // len(pixel)))[:length]

    nothing = bytes(len(pixel))
    half = bytes(value - value // 2 for value in pixel)
    if is_first:
        return [row(pixel, pixel), row(pixel, nothing), row(pixel, pixel), row(pixel, half), row(pixel, nothing)]
    return [row(pixel, pixel), row(pixel, nothing), row(nothing, nothing), row(half, nothing), row(nothing, nothing)]


def _is_repeated(byte: int, bits: int) -> bool:
    pixel = byte >> (8 - bits)
    return byte == sum(pixel << shift for shift in range(0, 8, bits))


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and data of a PNG's chunks, long ones in pieces."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        left, kind = int.from_bytes(head[:4], "big"), head[4:]
        while left > 0 and (piece := file.read(min(left, _PIECE))):
            left -= len(piece)
            yield kind, piece
        file.read(4)  # the checksum


def _rows(compressed: Iterator[bytes], stride: int) -> Iterator[bytes]:
    """Yield the rows of an image with their filters, with one piece at a time in memory."""
    stream, row = zlib.decompressobj(), b""
    for piece in compressed:
        left = piece
        while left and not stream.eof:
            row += stream.decompress(left, max(_PIECE, stride))
            left = stream.unconsumed_tail
            whole = len(row) // stride * stride
            for start in range(0, whole, stride):
                yield row[start : start + stride]
            row = row[whole:]
