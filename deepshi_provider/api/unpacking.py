"""Unpacks the body of an answer if its first bytes are those of gzip, regardless of its headers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from deepshi_provider.exceptions import OutcomeUnknown

#: First bytes of a gzip member (RFC 1952, section 2.3.1); JSON and event streams never begin with them.
_GZIP = b"\x1f\x8b"
#: Maximum bytes unpacked per step, since a few bytes may expand a thousandfold.
_STEP = 64 * 1024
#: Makes ``zlib`` accept gzip.
_WBITS = 31


class Unpacker:
    """Unpacks a body in pieces."""

    def __init__(self) -> None:
        self._beginning = b""
        self._is_known = False
        self._gzip: zlib._Decompress | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the unpacked bytes of a piece, in steps of a bounded size.

        :raises OutcomeUnknown: the gzip data is broken.
        """
        if not self._is_known:
            data = self._beginning + data
            if len(data) < len(_GZIP) and _GZIP.startswith(data):
                self._beginning = data
                return
            self._is_known = True
            self._gzip = zlib.decompressobj(_WBITS) if data.startswith(_GZIP) else None
        if self._gzip is None:
            yield data
            return
        try:
            yield from self._unpacked(data)
        except zlib.error as err:
            raise OutcomeUnknown(f"The answer's gzip data is broken ({err}); the image may have been paid for") from err

    def _unpacked(self, data: bytes) -> Iterator[bytes]:
        member = self._gzip
        while member and data:
            yield member.decompress(data, _STEP)
            data = member.unconsumed_tail
            if member.eof:  # another member may follow; other bytes after the end are ignored
                data = member.unused_data
                member = self._gzip = zlib.decompressobj(_WBITS)
                if data and not data.startswith(_GZIP[: len(data)]):
                    return
