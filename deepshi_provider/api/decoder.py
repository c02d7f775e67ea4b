"""Decodes JSON in pieces into image bytes and a small document.

An image is tens of megabytes of base64 inside a JSON string. :class:`JsonDecoder` accepts JSON in pieces of any size:
base64 under ``b64_json``, or under ``url`` as a ``data:`` URI, is decoded as it arrives and written to a spool; the
rest, a few hundred bytes, is parsed at the end with the spool in place of the string. The limits below bound the memory
per answer for any input. Bad data around a readable image does not lose the image: long strings are cut, and absurd
numbers and values that are nested too deep become ``None``. The document ends with its last bracket; bytes after that
are ignored.

Standards: JSON is RFC 8259, ``data:`` URIs RFC 2397.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

from deepshi_provider.api.document import DEEPEST, parse, parse_beginning
from deepshi_provider.api.encoded import WHITE_SPACE, Base64Writer, end_of_string, end_of_whole_escapes, unescape
from deepshi_provider.api.spool import Spool
from deepshi_provider.exceptions import Charged, InvalidResponse, OutcomeUnknown

#: Maximum bytes of a document without its images. When parsed, it may take eight times as much.
DOCUMENT_LIMIT = 96 * 1024
#: Size in bytes from which a document keeps only the first :data:`SHORT_STRING` bytes of each string.
TEXT_LIMIT = 80 * 1024
SHORT_STRING = 128
#: Maximum bytes cut off from strings, after which an endless answer is abandoned.
CUT_LIMIT = 16 * 2**20
#: Maximum number of values in a document; parsed values take far more memory than their text.
VALUES_LIMIT = 2_000
#: Maximum number of images kept per answer; the API makes at most 4.
IMAGES_LIMIT = 8
#: Maximum bytes of the head of a ``data:`` URI, such as ``data:image/png;base64,``.
HEADER_LIMIT = 256
#: Bytes of an image's text decoded per step, without and with escapes: resolving escapes takes many times the memory.
_STEP = 64 * 1024
_ESCAPED_STEP = 16 * 1024

#: Maximum bytes of a key that is examined; ``b64_json`` may be written with escapes.
_LONGEST_KEY = 64
_QUOTE_OR_BACKSLASH = re.compile(rb'["\\]')
_BRACKET = re.compile(rb"[\[\]{}]")
_QUOTE_OR_COMMA = re.compile(rb'[",]|\\u002[cC]')


class JsonDecoder:
    """Incremental decoder of one JSON document.

    :param new_spool: called for each image; returns a spool for its bytes.
    :ivar spools: one per image so far; images beyond :data:`IMAGES_LIMIT` share a spool that keeps nothing.
    :ivar done: whether the document is complete.
    """

    _base64: Base64Writer

    def __init__(self, new_spool: Callable[[], Spool] = Spool) -> None:
        self.spools: list[Spool] = []
        self.done = False
        self._new_spool = new_spool
        self._nonce = uuid.uuid4().hex
        self._document = bytearray()
        # Not a bound method: it would make a reference cycle, which only the garbage collector frees.
        self._step: Callable[[JsonDecoder, bytes, int], int] = JsonDecoder._outside
        self._string_start = self._string_end = 0
        self._string_is_cut = False
        self._cut_bytes = self._values = self._depth = 0
        self._key: str | None = None
        self._held = b""

    def feed(self, data: bytes) -> None:
        """Decode the next piece.

        :raises InvalidResponse: a limit was exceeded.
        """
        if self._held:
            data, self._held = self._held + data, b""
        at = 0
        while at < len(data):
            at = self._step(self, data, at)

    def close(self) -> Any:
        """Return the document, with a :class:`~deepshi_provider.api.spool.Spool` for each image's text.

        :raises OutcomeUnknown: the document is cut off.
        :raises InvalidResponse: it is not JSON.
        """
        text = self.text
        if self._step not in (JsonDecoder._outside, JsonDecoder._ended) or self._depth > 0 or not text.strip():
            raise OutcomeUnknown("The answer was cut off; the image may have been paid for")
        try:
            return parse(text, self._put_spools)
        except ValueError:
            raise InvalidResponse("The answer is not valid JSON", charged=self._charged) from None

    def beginning(self) -> Any:
        """Return the readable beginning of a document that is cut off or broken; its last image may be cut off too."""
        in_string = self._step in (JsonDecoder._string, JsonDecoder._escaped)
        end = self._string_start - 1 if in_string else len(self._document)
        return parse_beginning(self._document[:end].decode("utf-8", "replace"), self._put_spools)

    @property
    def text(self) -> str:
        """The document so far, without images."""
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
        if self._depth > DEEPEST:
            return
        self._document += data
        if len(self._document) > DOCUMENT_LIMIT:
            raise InvalidResponse(f"The answer is longer than {DOCUMENT_LIMIT:,} bytes", charged=self._charged)

    # Each step takes the input and a position, processes a part, and returns the position after it.

    def _outside(self, data: bytes, at: int) -> int:
        quote = data.find(b'"', at)
        between = data[at : len(data) if quote < 0 else quote]
        taken = self._structure(between)
        if self.done or quote < 0:
            return at + taken
        self._key = self._last_key()
        if self._key in ("b64_json", "url"):
            self._step = JsonDecoder._image_head
        else:
            self._begin_string()
        return quote + 1

    def _structure(self, between: bytes) -> int:
        """Process the text between two strings; return the position after it, or after the document's end."""
        self._values += between.count(b"{") + between.count(b"[") + between.count(b",")
        if self._values > VALUES_LIMIT:
            raise InvalidResponse("The answer has more values than any valid answer", charged=self._charged)
        begin = 0
        for bracket in _BRACKET.finditer(between):
            at, opens = bracket.start(), bracket.group() in b"{["
            if opens and self._depth == DEEPEST:
                self._keep(between[begin:at] + b"null")
            self._depth += 1 if opens else -1
            if not opens and self._depth == DEEPEST:
                begin = at + 1
            if not opens and self._depth <= 0:
                self._keep(between[begin : at + 1])
                self.done = True
                self._step = JsonDecoder._ended
                return at + 1
        self._keep(between[begin:])
        return len(between)

    def _ended(self, data: bytes, _: int) -> int:
        return len(data)

    def _begin_string(self) -> None:
        self._keep(b'"')
        self._string_start = len(self._document)
        self._string_is_cut = False
        self._step = JsonDecoder._string

    def _string(self, data: bytes, at: int) -> int:
        found = _QUOTE_OR_BACKSLASH.search(data, at)
        end = len(data) if found is None else found.start()
        self._keep_text(data[at:end])
        if found is None:
            return end
        if found.group() == b"\\":
            self._step = JsonDecoder._escaped
        else:
            self._string_end = len(self._document)
            self._keep(b'"')
            self._step = JsonDecoder._outside
        return found.end()

    def _escaped(self, data: bytes, at: int) -> int:
        self._string_is_cut = self._string_is_cut or self._room() < len(rb"\u0000")
        self._keep_text(b"\\" + data[at : at + 1])
        self._step = JsonDecoder._string
        return at + 1

    def _keep_text(self, data: bytes) -> None:
        kept = data[: 0 if self._string_is_cut or self._depth > DEEPEST else self._room()]
        self._string_is_cut = self._string_is_cut or len(kept) < len(data)
        self._cut_bytes += len(data) - len(kept)
        if self._cut_bytes > CUT_LIMIT:
            raise InvalidResponse("The answer has more text than any valid answer", charged=self._charged)
        self._keep(kept)

    def _room(self) -> int:
        length = len(self._document)
        return max(TEXT_LIMIT - length, SHORT_STRING - (length - self._string_start))

    def _last_key(self) -> str | None:
        """Return the key of the value that begins here, if it may hold an image."""
        end = len(self._document) - 1
        while end >= 0 and self._document[end] in WHITE_SPACE:
            end -= 1
        if self._depth > DEEPEST or end < 0 or self._document[end] != ord(":"):
            return None
        if self._string_end - self._string_start > _LONGEST_KEY:
            return None
        raw = bytes(self._document[self._string_start : self._string_end])
        return unescape(raw).decode("utf-8", "replace")

    def _image_head(self, data: bytes, at: int) -> int:
        """Skip the head of a ``data:`` URI, which some servers send under ``b64_json`` too."""
        found = _QUOTE_OR_COMMA.search(data, at, at + HEADER_LIMIT + 1)
        if found is None and len(data) - at <= HEADER_LIMIT:
            self._held = data[at:]
            return len(data)
        head = b"" if found is None else unescape(data[at : found.start()]).lower()
        if found and found.group() != b'"' and head.startswith(b"data:") and head.endswith(b";base64"):
            self._begin_image()
            return found.end()
        if self._key == "b64_json":
            self._begin_image()
        else:
            self._begin_string()
        return at

    def _begin_image(self) -> None:
        number = min(len(self.spools), IMAGES_LIMIT)
        if number == len(self.spools):
            spool = self._new_spool()
            if number == IMAGES_LIMIT:
                spool.give_up(f"the answer has more than {IMAGES_LIMIT} images")
            self.spools.append(spool)
        self._keep(b'"%s%d"' % (self._nonce.encode(), number))
        self._base64 = Base64Writer(self.spools[number])
        self._step = JsonDecoder._image

    def _image(self, data: bytes, at: int) -> int:
        text = data[at : at + _STEP]
        if b"\\" in text:
            text = text[:_ESCAPED_STEP]
        end = end_of_string(text)
        if end >= 0:
            self._base64.write(text[:end])
            self._base64.finish()
            self._step = JsonDecoder._outside
            return at + end + 1
        whole = end_of_whole_escapes(text)
        self._base64.write(text[:whole])
        if at + len(text) < len(data):
            return at + whole
        self._held = text[whole:]
        return len(data)
