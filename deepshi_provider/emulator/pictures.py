"""A finished picture as the parts that are sent.

A padded picture is ``head + BLOCK x repeat + tail``. The block is the same for all pictures of a
format and its length is a multiple of three, so that its base64 is made once for the whole process:
two hundred clients that each receive 64 MiB share one 256 KiB string.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from .json_pieces import Base64Text

_CHUNK = 192 * 1024  # bytes of a picture that become one 256 KiB piece of base64


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One encoded picture.

    :param media_type: such as ``image/png``.
    :param head: bytes that only this picture has; a multiple of three long if a block follows.
    :param block: padding that all pictures of the format share.
    :param repeat: how often the block follows the head.
    :param tail: the end.
    """

    media_type: str
    head: bytes = field(repr=False)
    block: bytes = field(default=b"", repr=False)
    repeat: int = 0
    tail: bytes = field(default=b"", repr=False)

    @property
    def size_bytes(self) -> int:
        """Total length in bytes."""
        return len(self.head) + self.repeat * len(self.block) + len(self.tail)

    def parts(self) -> Iterator[bytes]:
        """Yield the bytes in order."""
        yield self.head
        for _ in range(self.repeat):
            yield self.block
        yield self.tail

    @cached_property
    def base64(self) -> Base64Text:
        """Return the picture as base64 text."""
        if not self.repeat:
            return encoded(self.head + self.tail)
        blocks = (block_base64(self.block),) * self.repeat
        return Base64Text((*encoded(self.head).pieces, *blocks, base64.b64encode(self.tail)))


def encoded(content: bytes) -> Base64Text:
    """Return bytes as base64 text in pieces of at most 256 KiB."""
    starts = range(0, len(content), _CHUNK)
    return Base64Text(tuple(base64.b64encode(content[start : start + _CHUNK]) for start in starts))


@lru_cache(maxsize=8)
def block_base64(block: bytes) -> bytes:
    """Return a padding block as base64; there are only a few blocks."""
    return base64.b64encode(block)


def noise(length: int) -> bytes:
    """Return pseudorandom bytes that are the same in every process, so that hashes can be compared."""
    return hashlib.shake_128(b"deepshi emulator padding").digest(length)
