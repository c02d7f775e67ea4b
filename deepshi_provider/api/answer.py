"""Reads the body of a 2xx answer, JSON or event stream, in pieces, and returns verified images and their cost.

The answer is paid for, so everything usable is kept: images are returned even if others are missing or broken, if an
error follows them, or if the body ends too early. Only an answer without any usable image is an error.
"""

from __future__ import annotations

import functools
from typing import Any

from deepshi_provider.api.decoder import JsonDecoder
from deepshi_provider.api.errors import error_from_document
from deepshi_provider.api.received import Received, Taken, entries_anywhere, entries_of, is_filled, receive
from deepshi_provider.api.spool import IMAGE_LIMIT, NewFile, Spool
from deepshi_provider.api.sse import Event, SseDecoder
from deepshi_provider.exceptions import DeepshiError, InvalidResponse, OutcomeUnknown

#: Bytes that may precede the content: white space and a byte order mark.
_BLANK = b" \t\r\n\xef\xbb\xbf"
#: First bytes of an event stream: a comment, or one of the fields ``event``, ``data``, ``id`` and ``retry``. Servers
#: and proxies may send any content type.
_STREAM = b":edir"
#: Names that count as no name.
_NO_KIND = ("", "message")


class AnswerReader:
    """Reads the body of one 2xx answer. The first byte shows whether it is JSON or an event stream.

    :param wanted: number of images requested.
    :param image_limit: maximum bytes of an image.
    :param new_file: makes the files for images; see :class:`~deepshi_provider.api.spool.Spool`.
    """

    def __init__(self, wanted: int, *, image_limit: int = IMAGE_LIMIT, new_file: NewFile | None = None) -> None:
        self._spools: list[Spool] = []
        self._taken = Taken(wanted=wanted)
        new_spool = functools.partial(_new_spool, self._spools, image_limit, new_file)
        self._json = JsonDecoder(new_spool)
        self._sse = SseDecoder(new_spool)
        self._is_stream: bool | None = None
        self._is_over = False

    @property
    def complete(self) -> bool:
        """Whether the answer is complete: later errors of the connection no longer matter."""
        return self._is_over or self._json.done or len(self._taken.pictures) >= self._taken.wanted

    def feed(self, data: bytes) -> None:
        """Read the next piece of the body. Does not raise; :meth:`close` does."""
        if self._is_stream is None:
            data = data.lstrip(_BLANK)
            if data:
                self._is_stream = data[0] in _STREAM
        if not data or self.complete:
            return
        try:
            if self._is_stream:
                self._take_events(data)
            else:
                self._json.feed(data)
        except DeepshiError as err:  # a limit was exceeded
            self._fail(err)
            self._is_over = True

    def close(self, lost: DeepshiError | None = None) -> Received:
        """Return the images; call it at the end of the body, or once :attr:`complete`.

        :param lost: the error that ended the body early, if one did.
        :raises DeepshiError: there is no usable image; ``charged`` and ``cost_usd`` show what was paid.
        """
        if self._is_stream:
            self._end_stream(lost)
        else:
            self._end_json(lost)
        received = receive(self._taken)
        kept = {id(image.spool) for image in received.images}
        self._close([spool for spool in self._spools if id(spool) not in kept])
        return received

    def discard(self) -> None:
        """Delete everything received."""
        for spool in self._spools:
            spool.close()

    def _end_json(self, lost: DeepshiError | None) -> None:
        error = None
        try:
            document = self._json.close()
        except DeepshiError as err:
            document, error = self._json.beginning(), lost or err
            self._fail(error)
        self._take_document(document, is_whole=error is None)
        self._taken.is_cost_final = self._taken.cost_usd is not None  # one document, one price

    def _end_stream(self, lost: DeepshiError | None) -> None:
        if not self.complete or self._taken.error:
            begun = self._sse.begun
            self._taken.has_previews |= bool(begun)
            self._taken.has_broken_result |= begun.endswith(".completed")
            for event in self._sse.close():
                self._take(event._replace(error=event.error and (lost or event.error)))
        if not self.complete:
            ended = "The stream ended without its final event; the image may have been paid for"
            self._fail(lost or OutcomeUnknown(ended))

    def _take_events(self, data: bytes) -> None:
        for event in self._sse.feed(data):
            self._take(event)
            if self.complete:
                return
        event_or_none = self._sse.take_pending(lambda event: _is_completed(event) and bool(_kinds(event)))
        if event_or_none:
            self._take(event_or_none)

    def _take(self, event: Event) -> None:
        if isinstance(event.document, list):
            event = event._replace(document={"data": event.document})
        if event.text.strip() == "[DONE]":
            self._is_over = bool(self._taken.pictures or self._taken.error)
        elif any("partial_image" in kind for kind in _kinds(event)) or _is_unnamed_preview(event):
            self._taken.has_previews = True
            self._taken.add_cost(event.document)
            self._close(event.spools)
        elif _is_completed(event):
            if event.error:
                self._fail(event.error)
                self._taken.has_broken_result = True
            self._take_document(event.document, is_whole=event.error is None)
            if event.error is None and not self._taken.pictures and not self._taken.error:
                self._taken.add({}, [{}], is_whole=True)  # a result without an image
        else:
            # Image data under an unknown name, or a broken event, may be paid work too.
            self._taken.has_previews |= bool(event.spools) or (event.error is not None and event.name != "error")
            self._take_error(event)
            self._close(event.spools)

    def _take_document(self, document: Any, *, is_whole: bool) -> None:
        document = {"data": document} if isinstance(document, list) else document
        error = error_from_document(document)
        if error:
            self._fail(error)
        if not isinstance(document, dict):
            self._fail(InvalidResponse("The answer is not a JSON object", charged="unknown"))
            return
        entries = entries_of(document)
        if not any(map(is_filled, entries)):
            entries = [] if error else entries_anywhere(document) or entries
        self._taken.add(document, entries, is_whole=is_whole)

    def _take_error(self, event: Event) -> None:
        document = event.document
        if event.name == "error":
            fields = document if isinstance(document, dict) else {}
            reason = fields.get("error") or document or event.text.strip() or "no reason given"
            document = {**fields, "error": reason}
        error = error_from_document(document)
        if error:
            # Not the end: an image that was paid for may still follow.
            self._taken.error = self._taken.error or error
            self._taken.add(document, [], is_whole=True)
            self._taken.is_cost_final = error.cost_usd is not None and error.cost_usd == self._taken.cost_usd
        else:  # such as an event with only the usage
            self._taken.add_cost(document)

    def _fail(self, error: DeepshiError) -> None:
        """Record a broken result; reading continues, since more paid results may follow."""
        self._taken.error = self._taken.error or error
        self._is_over = self._is_over or self._taken.wanted == 1

    def _close(self, spools: list[Spool]) -> None:
        for spool in spools:
            spool.close()
            self._spools.remove(spool)


def _new_spool(spools: list[Spool], image_limit: int, new_file: NewFile | None) -> Spool:
    """Return a new spool and add it to the list.

    Not a method: the decoders would refer to their reader, a cycle that only the garbage collector frees.
    """
    spool = Spool(image_limit, new_file)
    spools.append(spool)
    return spool


def _kinds(event: Event) -> list[str]:
    """Return the names of an event: its ``event`` field, and ``type`` in its data."""
    inside = event.document.get("type") if isinstance(event.document, dict) else None
    return [kind for kind in (event.name, inside) if isinstance(kind, str) and kind not in _NO_KIND]


def _is_completed(event: Event) -> bool:
    """Return whether an event holds the result; an event without a name does if it has an image."""
    kinds = _kinds(event)
    if kinds:
        return any(kind.endswith(".completed") for kind in kinds)
    return bool(entries_of(event.document)) and not _is_unnamed_preview(event)


def _is_unnamed_preview(event: Event) -> bool:
    return isinstance(event.document, dict) and "partial_image_index" in event.document and not _kinds(event)
