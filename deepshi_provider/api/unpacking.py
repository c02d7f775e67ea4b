"""The body of an answer as it travelled → without gzip, as its first bytes show, whatever a header says."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from deepshi_provider.exceptions import OutcomeUnknown

#: How a gzip member begins (RFC 1952, section 2.3.1); no JSON and no event stream does.
_GZIP = b"\x1f\x8b"
#: Most bytes that are unpacked at once: a few bytes may hold thousands of times as many.
_STEP = 64 * 1024
#: ``zlib`` then takes gzip.
_WBITS = 31


class Unpacker:
    """Takes a body in pieces, and gives them back unpacked."""

    def __init__(self) -> None:
        self._beginning = b""
        self._is_known = False
        self._gzip: zlib._Decompress | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what a piece holds, in steps of a bounded size.

        :raises OutcomeUnknown: it is broken.
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
            if member.eof:  # another member may follow; all else behind the end says nothing
                data = member.unused_data
                member = self._gzip = zlib.decompressobj(_WBITS)
                if data and not data.startswith(_GZIP[: len(data)]):
                    return
