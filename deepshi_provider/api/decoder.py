"""JSON in pieces → image bytes and a small document.

A picture is tens of megabytes of base64 inside a JSON string. :class:`JsonDecoder` takes JSON in pieces of any size:
base64 under ``b64_json``, or under ``url`` as a ``data:`` URI, is decoded as it arrives and written to a spool; the
rest, a few hundred bytes, is parsed at the end with the spool in the string's place. What is kept per answer is bounded
by the limits below, whatever arrives, and an image that can be read is not given up for what stands around it: long
strings are cut, and numbers that make no sense and what is nested too deep are ``None``. The document ends where its
last bracket closes; what follows is not looked at.

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

#: Longest document in bytes, images left out. Parsed, it may take eight times as much.
DOCUMENT_LIMIT = 96 * 1024
#: Length in bytes from which on a document keeps only the first :data:`SHORT_STRING` bytes of a string.
TEXT_LIMIT = 80 * 1024
SHORT_STRING = 128
#: Most bytes of strings that are cut off; an answer that does not end is given up here.
CUT_LIMIT = 16 * 2**20
#: Most values in a document; parsed values take far more memory than their text.
VALUES_LIMIT = 2_000
#: Most images of one answer that are kept; the API makes at most 4.
IMAGES_LIMIT = 8
#: Longest beginning of a ``data:`` URI, such as ``data:image/png;base64,``, in bytes.
HEADER_LIMIT = 256
#: Bytes of an image's text that are decoded at once, without and with escapes in it: resolving them takes many times as
#: much memory.
_STEP = 64 * 1024
_ESCAPED_STEP = 16 * 1024

#: Longest key that is looked at, in bytes; ``b64_json`` may be written with escapes.
_LONGEST_KEY = 64
_QUOTE_OR_BACKSLASH = re.compile(rb'["\\]')
_BRACKET = re.compile(rb"[\[\]{}]")
_QUOTE_OR_COMMA = re.compile(rb'[",]|\\u002[cC]')


class JsonDecoder:
    """Incremental decoder of one JSON document.

    :param new_spool: called for each image; returns where its bytes go.
    :ivar spools: one per image so far; those beyond :data:`IMAGES_LIMIT` share one that keeps nothing.
    :ivar done: whether the document is whole.
    """

    _base64: Base64Writer

    def __init__(self, new_spool: Callable[[], Spool] = Spool) -> None:
        self.spools: list[Spool] = []
        self.done = False
        self._new_spool = new_spool
        self._nonce = uuid.uuid4().hex
        self._document = bytearray()
        # Not a bound method: it would hold this object, which then waits for the garbage collector.
        self._step: Callable[[JsonDecoder, bytes, int], int] = JsonDecoder._outside
        self._string_start = self._string_end = 0
        self._string_is_cut = False
        self._cut_bytes = self._values = self._depth = 0
        self._key: str | None = None
        self._held = b""

    def feed(self, data: bytes) -> None:
        """Take the next piece.

        :raises InvalidResponse: a limit was passed.
        """
        if self._held:
            data, self._held = self._held + data, b""
        at = 0
        while at < len(data):
            at = self._step(self, data, at)

    def close(self) -> Any:
        """Return the document, with a :class:`~deepshi_provider.api.spool.Spool` for each image's text.

        :raises OutcomeUnknown: the document ends in the middle.
        :raises InvalidResponse: it is not JSON.
        """
        text = self.text
        if self._step not in (JsonDecoder._outside, JsonDecoder._ended) or self._depth > 0 or not text.strip():
            raise OutcomeUnknown("The answer ended in the middle; the image may have been paid for")
        try:
            return parse(text, self._put_spools)
        except ValueError:
            raise InvalidResponse("The answer is not JSON that can be read", charged=self._charged) from None

    def beginning(self) -> Any:
        """Return what there is of a document that is cut or broken; its last image may be cut, too."""
        in_string = self._step in (JsonDecoder._string, JsonDecoder._escaped)
        end = self._string_start - 1 if in_string else len(self._document)
        return parse_beginning(self._document[:end].decode("utf-8", "replace"), self._put_spools)

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
        if self._depth > DEEPEST:
            return
        self._document += data
        if len(self._document) > DOCUMENT_LIMIT:
            raise InvalidResponse(f"The answer is longer than {DOCUMENT_LIMIT:,} bytes", charged=self._charged)

    # Each step takes the input and a position, does its part, and returns the position after it.

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
        """Take what stands between two strings; return the position behind it, or behind the end of the document."""
        self._values += between.count(b"{") + between.count(b"[") + between.count(b",")
        if self._values > VALUES_LIMIT:
            raise InvalidResponse("The answer holds more values than any known answer", charged=self._charged)
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
            raise InvalidResponse("The answer holds more text than any known answer", charged=self._charged)
        self._keep(kept)

    def _room(self) -> int:
        length = len(self._document)
        return max(TEXT_LIMIT - length, SHORT_STRING - (length - self._string_start))

    def _last_key(self) -> str | None:
        """Return the key whose value begins here, if it is one that may hold an image."""
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
        """Pass over the beginning of a ``data:`` URI, which some servers put under ``b64_json`` too."""
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
                spool.give_up(f"more than {IMAGES_LIMIT} images came")
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
