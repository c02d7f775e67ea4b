"""Decodes an image's base64 text (RFC 4648) inside a JSON string (RFC 8259), in pieces, into a spool."""

from __future__ import annotations

import binascii
import re

import pybase64

from deepshi_provider.api.spool import Spool
from deepshi_provider.exceptions import InvalidResponse

#: White space in JSON and base64 text.
WHITE_SPACE = b" \t\r\n"
#: Maps the alphabet for URLs (RFC 4648, section 5), which some servers use, to the standard one.
_USUAL = bytes.maketrans(b"-_", b"+/")

_SHORT = {b"\\/": b"/", b"\\n": b"\n", b"\\r": b"\r", b"\\t": b"\t"}
_UNESCAPED_QUOTE = re.compile(rb'(?<!\\)(?:\\\\)*"')
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


class Base64Writer:
    """Decodes base64 into a spool. Errors are recorded there, so that the rest of the answer (the cost) is still read.

    White space is dropped, and missing padding at the end is accepted, since the image was paid for.

    :param spool: gets the image's bytes.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._rest = b""
        self._padded = False
        self._idle_bytes = 0

    def write(self, text: bytes) -> None:
        """Decode the next piece of text; it must not end inside an escape.

        :raises InvalidResponse: as many bytes as the image limit arrived without image data: only white space, or data
            after a problem.
        """
        before = self._spool.size_bytes
        if not self._spool.problem:
            self._decode(self._rest + unescape(text))
        idle = self._spool.problem or self._spool.size_bytes == before
        self._idle_bytes = self._idle_bytes + len(text) if idle else 0
        if self._idle_bytes > self._spool.limit:
            raise InvalidResponse("An image's base64 data does not end; the rest of the answer was not read")

    def finish(self) -> None:
        """Finish decoding at the end of the text."""
        self._spool.complete = True
        if self._rest and not self._spool.problem:
            bare = self._rest.translate(None, WHITE_SPACE)
            self._decode(bare + b"=" * (-len(bare) % 4))

    def _decode(self, text: bytes) -> None:
        usable = len(text) - len(text) % 4
        try:
            data = pybase64.b64decode(text[:usable], validate=True)
        except binascii.Error:
            bare = text.translate(_USUAL, WHITE_SPACE)
            if bare == text:
                self._spool.problem = "its base64 data is invalid"
            else:
                self._decode(bare)
            return
        if self._padded and usable:
            self._spool.problem = "its base64 data continues after the padding"
            return
        self._padded = self._padded or text[:usable].endswith(b"=")
        self._rest = text[usable:]
        self._spool.write(data)


def unescape(text: bytes) -> bytes:
    """Resolve the escapes of a JSON string; characters outside base64's alphabet become ``?``."""
    if b"\\" not in text:
        return text
    if b"\\\\" in text:
        return b"?"
    for escape, meant in _SHORT.items():
        text = text.replace(escape, meant)
    return _ESCAPE.sub(_resolve, text) if b"\\" in text else text


def _resolve(escape: re.Match[bytes]) -> bytes:
    code = int(escape[1] or b"3f", 16)
    return bytes([code]) if code < 128 else b"?"


def end_of_string(text: bytes) -> int:
    """Return the position of the quote that ends a JSON string, or -1; ``text`` begins inside it, not in an escape."""
    end = text.find(b'"')
    if end > 0 and text[end - 1] == ord("\\"):
        found = _UNESCAPED_QUOTE.search(text)
        end = found.end() - 1 if found else -1
    return end


def end_of_whole_escapes(text: bytes) -> int:
    """Return the last position at which a cut does not split an escape sequence."""
    last = text.rfind(b"\\", max(0, len(text) - 6))
    before = text[: max(0, last)]
    is_escaped = (len(before) - len(before.rstrip(b"\\"))) % 2 == 1
    if last < 0 or is_escaped:
        return len(text)
    length = 6 if text[last + 1 : last + 2] == b"u" else 2
    return len(text) if last + length <= len(text) else last
