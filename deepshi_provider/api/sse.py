"""Decodes Server-Sent Events in pieces, without waiting for the end of a line.

It follows https://html.spec.whatwg.org/multipage/server-sent-events.html with two exceptions, which save a paid image:
an event that ends with the stream, before its blank line, counts, and a byte order mark may arrive in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from deepshi_provider.api.decoder import JsonDecoder
from deepshi_provider.api.spool import Spool
from deepshi_provider.exceptions import DeepshiError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: Maximum bytes of a line's beginning that are examined; longer lines can only be comments or unknown fields.
_LINE_LIMIT = 1024


class Event(NamedTuple):
    """One event.

    :param name: its ``event:`` field, or ``""``.
    :param document: its data, parsed; the readable beginning if it is cut off or broken.
    :param text: its data as text, without images.
    :param spools: the images in it.
    :param error: why not all of its data can be parsed.
    """

    name: str
    document: Any
    text: str
    spools: list[Spool]
    error: DeepshiError | None = None


class SseDecoder:
    """Incremental decoder of an event stream whose data is JSON with images in it.

    :param new_spool: called for each image; returns a spool for its bytes.
    """

    def __init__(self, new_spool: Callable[[], Spool] = Spool) -> None:
        self._new_spool = new_spool
        self._name = ""
        self._data: JsonDecoder | None = None
        self._line = bytearray()
        self._in_data = False
        self._first_line = True
        self._after_cr = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """Decode the next piece; yield each event as soon as it is complete, since the rest may be broken."""
        at = 1 if self._after_cr and data.startswith(b"\n") else 0
        self._after_cr = self._after_cr and not data
        feed = carriage_return = -1
        while at < len(data):
            # Not a regular expression, which would take longer for an image than all other steps together.
            feed = _find(data, b"\n", at) if feed < at else feed
            carriage_return = _find(data, b"\r", at) if carriage_return < at else carriage_return
            end = min(feed, carriage_return)
            self._take(data[at:end])
            if end == len(data):
                break
            yield from self._end_line()
            crlf = data[end : end + 2] == b"\r\n"
            at = end + 2 if crlf else end + 1
            self._after_cr = at == len(data) and not crlf and end == carriage_return

    def take_pending(self, is_whole: Callable[[Event], bool]) -> Event | None:
        """Return the event that lacks only its blank line, to avoid waiting for that; ``None`` if there is none.

        :param is_whole: decides whether to take it; its name is ``""`` if the name may still follow.
        """
        event = self._event() if self._data and self._data.done else None
        if event is None or not is_whole(event):
            return None
        self._name, self._data = "", None
        return event

    @property
    def begun(self) -> str:
        """The name of an event that has begun but has no data yet; ``""`` if there is none."""
        if self._data:
            return ""
        line = bytes(self._line)
        return self._name or (line.decode("utf-8", "replace") if line[:1] in (b"e", b"d") else "")

    def close(self) -> list[Event]:
        """Return the event that the end of the stream completes, if any."""
        return self._end_line() + self._dispatch()

    def _take(self, piece: bytes) -> None:
        if self._in_data and self._data:
            self._data.feed(piece)
            return
        self._line += piece
        if self._first_line and self._line.startswith(_BYTE_ORDER_MARK):
            del self._line[: len(_BYTE_ORDER_MARK)]
            self._first_line = False
        if self._line.startswith(b"data:"):
            self._data = self._data or JsonDecoder(self._new_spool)
            self._data.feed(bytes(self._line[5:]))
            self._line.clear()
            self._in_data = True
        del self._line[_LINE_LIMIT:]

    def _end_line(self) -> list[Event]:
        self._first_line = False
        if self._in_data and self._data:
            self._in_data = False
            self._data.feed(b"\n")
            return []
        line = bytes(self._line)
        self._line.clear()
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        if field == b"event":
            self._name = value.decode("utf-8", "replace").strip()
        return []

    def _dispatch(self) -> list[Event]:
        event = self._event()
        self._name, self._data = "", None
        return [event] if event else []

    def _event(self) -> Event | None:
        data = self._data
        if data is None:
            return None
        error: DeepshiError | None = None
        try:
            document = data.close()
        except DeepshiError as err:
            document, error = data.beginning(), err
        return Event(name=self._name, document=document, text=data.text, spools=data.spools, error=error)


def _find(data: bytes, byte: bytes, at: int) -> int:
    """Return the next position of a byte, or the end of the data."""
    found = data.find(byte, at)
    return len(data) if found < 0 else found
