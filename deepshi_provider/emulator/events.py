"""Server-Sent Events (WHATWG HTML, 9.2) as pieces, in the forms that API.md lists."""

from __future__ import annotations

from .json_pieces import write_json

Event = tuple[str, dict[str, object]]
_DONE = b"data: [DONE]"


class EventWriter:
    """Writes one stream.

    :param forms: names from :data:`.settings.FORMS`.
    """

    def __init__(self, forms: frozenset[str]) -> None:
        self._forms = forms
        self._eol = b"\r\n" if "crlf" in forms else b"\n"

    def opening(self) -> bytes:
        """Return the beginning of the stream."""
        return b"\xef\xbb\xbf" if "bom" in self._forms else b""

    def keepalive(self) -> bytes:
        """Return a comment."""
        blank = b"" if "comment_no_blank" in self._forms else self._eol
        return b": keepalive" + self._eol + blank

    def events(self, events: list[Event], *, broken: bool = False, last: bool = True) -> list[bytes]:
        """Return several events.

        :param broken: end every event's JSON with a mistake.
        :param last: whether the stream ends with them.
        """
        pieces: list[bytes] = []
        for name, document in events:
            pieces += self._event(name, document, broken)
        if last and "done" in self._forms:
            pieces.append(_DONE + self._eol + self._eol)
        if last and "no_final_blank" in self._forms:
            pieces[-1] = pieces[-1].removesuffix(self._eol)
        return pieces

    def _event(self, name: str, document: dict[str, object], broken: bool) -> list[bytes]:
        head = b"" if "no_event_line" in self._forms else b"event: " + name.encode() + self._eol
        comma = b", "
        if "multi_data" in self._forms:
            comma = b"," + self._eol + b"data: "
        pieces = write_json(document, comma=comma)
        if broken:
            break_json(pieces)
        return [head + b"data: " + pieces[0], *pieces[1:], self._eol + self._eol]


def break_json(pieces: list[bytes]) -> None:
    """Insert a syntax error at the end of a document, after its pictures."""
    pieces[-1] = pieces[-1][:-1] + b",, oops}"
