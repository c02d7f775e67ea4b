"""Adds a note and padding to an encoded picture, by the rules of its container.

PNG takes ancillary chunks before ``IEND`` (PNG specification, 4.7), JPEG takes ``COM`` segments
before ``SOS`` (ITU-T T.81, B.2.4), WebP takes unknown chunks in its extended format (RFC 9649, 2.7).
Padding comes behind the part that tells the picture's size, where real metadata is found too.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache

from .pictures import Picture, noise

_BLOCK = noise(192 * 1024)
# Three whole COM segments: 2 (marker) + 65,533 (length field and data) bytes each, a multiple of 3.
_JPEG_BLOCK = b"".join(b"\xff\xfe\xff\xfd" + _BLOCK[start : start + 65_531] for start in (0, 65_531, 131_062))


def assemble(encoded: bytes, output_format: str, note: bytes, total: int | None) -> Picture:
    """Return the picture with a note inside, padded to exactly ``total`` bytes.

    :param note: makes two purchases of the same picture differ, as real ones do.
    :param total: length in bytes; a picture that is already longer is not changed.
    """
    add = _CONTAINERS[output_format]
    picture = add(encoded, note, total)
    if total is None or picture.size_bytes >= total:
        return picture
    # The gap is too small for a padding chunk with its header, so the note fills it.
    gap = total - picture.size_bytes
    odd = gap % 2 if output_format == "webp" else 0
    filled = add(encoded, note + b" " * (gap - odd), None)
    return dataclasses.replace(filled, tail=bytes(odd))  # see _webp


def _png(encoded: bytes, note: bytes, total: int | None) -> Picture:
    body, end = encoded[:-12], encoded[-12:]
    text = b"tEXtComment\0" + note
    body += struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    length = (total or 0) - len(body) - len(end) - 12
    if length < 0:
        return Picture(media_type="image/png", head=body + end)
    lead, repeat, rest = _split(len(body) + 8, length)
    crc = zlib.crc32(_BLOCK[:rest], _crc_of_blocks(lead, repeat))
    return Picture(
        media_type="image/png",
        head=body + struct.pack(">I", length) + b"dpAd" + bytes(lead),
        block=_BLOCK,
        repeat=repeat,
        tail=_BLOCK[:rest] + struct.pack(">I", crc) + end,
    )


@lru_cache(maxsize=256)
def _crc_of_blocks(lead: int, repeat: int) -> int:
    crc = zlib.crc32(b"dpAd" + bytes(lead))
    for _ in range(repeat):
        crc = zlib.crc32(_BLOCK, crc)
    return crc


def _split(offset: int, length: int) -> tuple[int, int, int]:
    """Return the bytes before the first block, which must start at a multiple of 3, blocks, and bytes after."""
    lead = min(-offset % 3, length)
    repeat, rest = divmod(length - lead, len(_BLOCK))
    return lead, repeat, rest


def _jpeg(encoded: bytes, note: bytes, total: int | None) -> Picture:
    start_of_scan = _start_of_scan(encoded)
    body = encoded[:start_of_scan] + _segment(note)
    end = encoded[start_of_scan:]
    room = (total or 0) - len(body) - len(end)
    lead = 4 + (-len(body) - 4) % 3
    repeat, rest = divmod(room - lead, len(_JPEG_BLOCK))
    if 0 < rest < 4:  # too short for a segment: one block fewer, cut into others
        repeat, rest = repeat - 1, rest + len(_JPEG_BLOCK)
    if room < 4:
        return Picture(media_type="image/jpeg", head=body + end)
    if repeat < 1:
        return Picture(media_type="image/jpeg", head=body + _segments(room) + end)
    return Picture(
        media_type="image/jpeg",
        head=body + _segment(bytes(lead - 4)),
        block=_JPEG_BLOCK,
        repeat=repeat,
        tail=_segments(rest) + end,
    )


def _start_of_scan(encoded: bytes) -> int:
    position = 2
    while encoded[position + 1] != 0xDA:
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
    return position


def _segment(data: bytes) -> bytes:
    return b"\xff\xfe" + struct.pack(">H", len(data) + 2) + data


def _segments(length: int) -> bytes:
    """Return COM segments of ``length`` bytes in total, which is 0 or at least 4."""
    made = b""
    while length:
        size = min(length, 65_535)
        if 0 < length - size < 4:
            size -= 4
        made += _segment(_BLOCK[: size - 4])
        length -= size
    return made


def _webp(encoded: bytes, note: bytes, total: int | None) -> Picture:
    body = _extended_header(encoded) + encoded[12:] + _chunk(b"dpNT", note)
    length = ((total or 0) - 12 - len(body) - 8) // 2 * 2
    if length < 0:
        return Picture(media_type="image/webp", head=_riff(len(body)) + body)
    lead, repeat, rest = _split(12 + len(body) + 8, length)
    # Chunks have even lengths, so an odd total needs one byte behind the RIFF, which readers skip.
    odd = b"\0" if total and total % 2 else b""
    return Picture(
        media_type="image/webp",
        head=_riff(len(body) + 8 + length) + body + _chunk_head(b"dpAD", length) + bytes(lead),
        block=_BLOCK,
        repeat=repeat,
        tail=_BLOCK[:rest] + odd,
    )


def _extended_header(encoded: bytes) -> bytes:
    """Return a ``VP8X`` chunk for a picture in the simple lossy format that Pillow writes."""
    width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", encoded, 26))
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return _chunk(b"VP8X", bytes(4) + sides)


def _riff(length: int) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + length) + b"WEBP"


def _chunk_head(name: bytes, length: int) -> bytes:
    return name + struct.pack("<I", length)


def _chunk(name: bytes, data: bytes) -> bytes:
    return _chunk_head(name, len(data)) + data + b"\0" * (len(data) % 2)


_CONTAINERS: dict[str, Callable[[bytes, bytes, int | None], Picture]] = {
    "png": _png,
    "jpeg": _jpeg,
    "webp": _webp,
}
