"""JSON in pieces → image bytes and a small document.

A picture is tens of megabytes of base64 inside a JSON string. :class:`JsonDecoder` takes JSON in pieces of any size:
base64 under ``b64_json``, or under ``url`` as a ``data:`` URI, is decoded as it arrives and written to a spool; the
rest, a few hundred bytes, is parsed at the end with the spool in the string's place. What is kept per answer is bounded
by :data:`DOCUMENT_LIMIT` and :data:`IMAGES_LIMIT`, whatever arrives.

Standards: JSON is RFC 8259, base64 RFC 4648, ``data:`` URIs RFC 2397.
"""

from __future__ import annotations

import binascii
import json
import re
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pybase64

from deepshi_provider.api.spool import Spool
from deepshi_provider.exceptions import Charged, InvalidResponse, OutcomeUnknown

#: Longest document in bytes, images left out: a revised prompt of 50,000 escaped characters fits.
DOCUMENT_LIMIT = 384 * 1024
#: Most values in a document; parsed values take far more memory than their text.
VALUES_LIMIT = 10_000
#: Most images in one answer; the API makes at most 4.
IMAGES_LIMIT = 8
#: Longest beginning of a ``data:`` URI, such as ``data:image/png;base64,``, in bytes.
HEADER_LIMIT = 256

_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_QUOTE_OR_BACKSLASH = re.compile(rb'["\\]')
_QUOTE_OR_COMMA = re.compile(rb'[",]')
_WHITE_SPACE = b" \t\r\n"


class JsonDecoder:
    """Incremental decoder of one JSON document.

    :param new_spool: called for each image; returns where its bytes go.
    """

    _base64: _Base64Writer

    def __init__(self, new_spool: Callable[[], Spool] = Spool) -> None:
        self.spools: list[Spool] = []
        self._new_spool = new_spool
        self._nonce = uuid.uuid4().hex
        self._document = bytearray()
        self._step = self._outside
        self._string_start = self._string_end = 0
        self._held = b""

    def feed(self, data: bytes) -> None:
        """Take the next piece.

        :raises InvalidResponse: a limit was passed.
        """
        if self._held:
            data, self._held = self._held + data, b""
        at = 0
        while at < len(data):
            at = self._step(data, at)

    def close(self) -> Any:
        """Return the document, with a :class:`~deepshi_provider.api.spool.Spool` for each image's text.

        :raises OutcomeUnknown: the document ends in the middle.
        :raises InvalidResponse: it is not JSON.
        """
        if self._step != self._outside:
            raise OutcomeUnknown("The answer ended in the middle")
        text = self.text
        if sum(text.count(mark) for mark in ",[{") > VALUES_LIMIT:
            raise InvalidResponse("The answer holds more values than any known answer", charged=self._charged)
        try:
            return json.loads(text, object_hook=self._put_spools, parse_float=Decimal, parse_constant=_refuse)
        except json.JSONDecodeError as err:
            if err.pos >= len(text.rstrip()):
                raise OutcomeUnknown("The answer ended in the middle") from None
            raise InvalidResponse("The answer is not JSON", charged=self._charged) from None
        except (ValueError, ArithmeticError, RecursionError):
            raise InvalidResponse("The answer is JSON that cannot be read", charged=self._charged) from None

    def discard(self) -> None:
        """Delete the images received so far."""
        for spool in self.spools:
            spool.close()

    @property
    def text(self) -> str:
        """The document so far, images left out."""
        return self._document.decode("utf-8", "replace")

    @property
    def _charged(self) -> Charged:
        return "yes" if self.spools else "unknown"

    def _put_spools(self, value: dict[str, Any]) -> dict[str, Any]:
        for key in ("b64_json", "url"):
            text = value.get(key)
            if isinstance(text, str) and text.startswith(self._nonce):
                value[key] = self.spools[int(text[len(self._nonce) :])]
        return value

    def _keep(self, data: bytes) -> None:
        self._document += data
        if len(self._document) > DOCUMENT_LIMIT:
            raise InvalidResponse(f"The answer is longer than {DOCUMENT_LIMIT:,} bytes", charged=self._charged)

    # Each step takes the input and a position, does its part, and returns the position after it.

    def _outside(self, data: bytes, at: int) -> int:
        quote = data.find(b'"', at)
        if quote < 0:
            self._keep(data[at:])
            return len(data)
        self._keep(data[at:quote])
        key = self._key()
        if key == "b64_json":
            self._begin_image()
        elif key == "url":
            self._step = self._url_head
        else:
            self._begin_string()
        return quote + 1

    def _begin_string(self) -> None:
        self._keep(b'"')
        self._string_start = len(self._document)
        self._step = self._string

    def _string(self, data: bytes, at: int) -> int:
        found = _QUOTE_OR_BACKSLASH.search(data, at)
        if found is None:
            self._keep(data[at:])
            return len(data)
        self._keep(data[at : found.end()])
        if found.group() == b"\\":
            self._step = self._escaped
        else:
            self._string_end = len(self._document) - 1
            self._step = self._outside
        return found.end()

    def _escaped(self, data: bytes, at: int) -> int:
        self._keep(data[at : at + 1])
        self._step = self._string
        return at + 1

    def _key(self) -> str | None:
        """Return the key whose value begins here, if it is one that may hold an image."""
        end = len(self._document) - 1
        while end >= 0 and self._document[end] in _WHITE_SPACE:
            end -= 1
        if end < 0 or self._document[end] != ord(":") or self._string_end - self._string_start > 64:
            return None
        raw = bytes(self._document[self._string_start : self._string_end])
        return _unescape(raw).decode("utf-8", "replace")

    def _url_head(self, data: bytes, at: int) -> int:
        found = _QUOTE_OR_COMMA.search(data, at)
        if found is None and len(data) - at <= HEADER_LIMIT:
            self._held = data[at:]
            return len(data)
        head = b"" if found is None else _unescape(data[at : found.start()]).lower()
        if found and found.group() == b"," and head.startswith(b"data:") and head.endswith(b";base64"):
            self._begin_image()
            return found.end()
        self._begin_string()
        return at

    def _begin_image(self) -> None:
        if len(self.spools) >= IMAGES_LIMIT:
            raise InvalidResponse(f"The answer holds more than {IMAGES_LIMIT} images")
        self._keep(b'"%s%d"' % (self._nonce.encode(), len(self.spools)))
        self.spools.append(self._new_spool())
        self._base64 = _Base64Writer(self.spools[-1])
        self._step = self._image

    def _image(self, data: bytes, at: int) -> int:
        end = data.find(b'"', at)
        while end >= 0 and _is_escaped(data, end, at):
            end = data.find(b'"', end + 1)
        if end >= 0:
            self._base64.write(data[at:end])
            self._base64.finish()
            self._step = self._outside
            return end + 1
        whole = _end_of_whole_escapes(data, at)
        self._held = data[whole:]
        self._base64.write(data[at:whole])
        return len(data)


class _Base64Writer:
    """Decodes base64 into a spool; a fault is noted there, so that the rest of the answer (the cost) is still read.

    White space is dropped and missing padding at the end is forgiven: the image was paid for.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._rest = b""
        self._padded = False

    def write(self, text: bytes) -> None:
        if self._spool.problem:
            return
        if b"\\" in text:
            text = _unescape(text)
        self._decode(self._rest + text)

    def finish(self) -> None:
        self._spool.complete = True
        if self._rest and not self._spool.problem:
            bare = self._rest.translate(None, _WHITE_SPACE)
            self._decode(bare + b"=" * (-len(bare) % 4))

    def _decode(self, text: bytes) -> None:
        usable = len(text) - len(text) % 4
        try:
            data = pybase64.b64decode(text[:usable], validate=True)
        except binascii.Error:
            bare = text.translate(None, _WHITE_SPACE)
            if len(bare) == len(text):
                self._spool.problem = "its base64 text is broken"
            else:
                self._decode(bare)
            return
        if self._padded and usable:
            self._spool.problem = "its base64 text goes on after the padding"
            return
        self._padded = self._padded or text[:usable].endswith(b"=")
        self._rest = text[usable:]
        self._spool.write(data)


def _unescape(text: bytes) -> bytes:
    """Resolve the escapes of a JSON string; what is outside ASCII becomes ``?``, which is in no base64 text."""
    if b"\\\\" not in text:
        text = text.replace(b"\\/", b"/")
    return _ESCAPE.sub(_resolve, text) if b"\\" in text else text


def _resolve(escape: re.Match[bytes]) -> bytes:
    hexadecimal, short = escape.groups()
    if hexadecimal:
        code = int(hexadecimal, 16)
        return bytes([code]) if code < 128 else b"?"
    return {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"/": b"/"}.get(short, b"?")


def _is_escaped(data: bytes, at: int, start: int) -> bool:
    backslashes = at
    while backslashes > start and data[backslashes - 1] == ord("\\"):
        backslashes -= 1
    return (at - backslashes) % 2 == 1


def _end_of_whole_escapes(data: bytes, start: int) -> int:
    """Return where to cut so that no escape sequence is torn apart."""
    last = data.rfind(b"\\", max(start, len(data) - 6))
    if last < 0 or _is_escaped(data, last, start):
        return len(data)
    length = 6 if data[last + 1 : last + 2] == b"u" else 2
    return len(data) if last + length <= len(data) else last


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
