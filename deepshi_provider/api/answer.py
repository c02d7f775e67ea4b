"""The body of a 2xx answer, JSON or event stream, in pieces → verified images and their price."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from deepshi_provider.api.decoder import JsonDecoder
from deepshi_provider.api.media import Media, identify
from deepshi_provider.api.responses import Answer, Picture, cost_of, error_from_document
from deepshi_provider.api.spool import IMAGE_LIMIT, NewFile, Spool
from deepshi_provider.api.sse import Event, SseDecoder
from deepshi_provider.exceptions import Charged, InvalidResponse, OutcomeUnknown

#: What may stand before the first byte that counts: white space and a byte order mark.
_BLANK = b" \t\r\n\xef\xbb\xbf"
#: The names of an event that has none.
_NO_KIND = ("", "message")


@dataclass(frozen=True, kw_only=True)
class ReceivedImage:
    """One verified image.

    :param index: its position among the request's pictures, from 0.
    :param spool: its bytes.
    """

    index: int
    spool: Spool
    media: Media
    revised_prompt: str | None


@dataclass(frozen=True, kw_only=True)
class Received:
    """A complete answer."""

    answer: Answer
    images: list[ReceivedImage]


class AnswerReader:
    """Takes the body of one 2xx answer.

    :param content_type: of the answer; a streaming request may be answered with plain JSON, whose ``{`` can begin no
        event stream and so counts for more than what it is called.
    :param wanted: how many images were asked for.
    :param image_limit: largest image in bytes.
    :param new_file: where images go; see :class:`~deepshi_provider.api.spool.Spool`.
    """

    def __init__(
        self, content_type: str, wanted: int, *, image_limit: int = IMAGE_LIMIT, new_file: NewFile | None = None
    ) -> None:
        self._wanted = wanted
        self._spools: list[Spool] = []
        self._new_spool = functools.partial(_new_spool, self._spools, image_limit, new_file)
        self._pictures: list[dict[str, Any]] = []
        self._answer: dict[str, Any] = {}
        self._done = False
        is_stream = content_type.partition(";")[0].strip().lower() == "text/event-stream"
        self._json = None if is_stream else JsonDecoder(self._new_spool)
        self._began = False
        self._sse = SseDecoder(self._new_spool)

    @property
    def complete(self) -> bool:
        """Whether all that was asked for has come: what happens to the connection now no longer matters."""
        return self._sse_images() >= self._wanted or self._done

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body.

        :raises DeepshiError: the stream reported an error, or a limit was passed.
        """
        begin = b"" if self._began else data.lstrip(_BLANK)
        if begin.startswith(b"{") and self._json is None:
            self._json = JsonDecoder(self._new_spool)
        self._began = self._began or bool(begin)
        if self._json:
            self._json.feed(data)
        elif not self.complete:
            self._take_events(data)

    def close(self) -> Received:
        """Return the images; call it at the end of the body, or once :attr:`complete`.

        :raises OutcomeUnknown: the body ended before its images did.
        :raises InvalidResponse: the images are not what they should be; its ``cost_usd`` tells what they cost.
        """
        if self._json:
            self._take_answer(self._json.close())
        elif not self.complete:
            for event in self._sse.close():
                self._take(event)
            if not self._pictures and not self._answer:
                raise OutcomeUnknown("The stream ended without its final event; the image may have been paid for")
        return self._verify()

    def discard(self) -> None:
        """Delete everything received."""
        for spool in self._spools:
            spool.close()

    def _sse_images(self) -> int:
        return 0 if self._json else len(self._pictures)

    def _take_events(self, data: bytes) -> None:
        for event in self._sse.feed(data):
            self._take(event)
            if self.complete:
                return

    def _take(self, event: Event) -> None:
        said = event.document.get("type") if isinstance(event.document, dict) else None
        kinds = [kind for kind in (event.name, said) if isinstance(kind, str) and kind not in _NO_KIND]
        if event.text.strip() == "[DONE]":
            self._done = bool(self._pictures)
        elif any("partial_image" in kind for kind in kinds):
            self._close(event.spools)
        elif any(kind.endswith(".completed") for kind in kinds) or (not kinds and _holds_images(event.document)):
            self._take_completed(event)
        else:
            self._raise_error(event)
            self._close(event.spools)

    def _take_completed(self, event: Event) -> None:
        if event.error:
            raise event.error
        self._take_answer(event.document)

    def _raise_error(self, event: Event) -> None:
        document = event.document
        if event.name == "error":
            fields = document if isinstance(document, dict) else {}
            reason = fields.get("error") or document or event.text.strip() or "no reason given"
            document = {**fields, "error": reason}
        error = error_from_document(document)
        if error:
            raise error

    def _close(self, spools: list[Spool]) -> None:
        for spool in spools:
            spool.close()
            self._spools.remove(spool)

    def _take_answer(self, document: Any) -> None:
        pictures = _pictures(document)
        error = error_from_document(document)
        if error and not any(_spool(picture) for picture in pictures):
            raise error
        if not isinstance(document, dict):
            raise InvalidResponse("The answer is not a JSON object", charged="unknown")
        self._pictures += pictures
        said = {"created": document.get("created_at"), **{k: v for k, v in document.items() if v is not None}}
        if cost_of(said.get("usage")) is None and cost_of(self._answer.get("usage")) is not None:
            said.pop("usage", None)
        # With several completed events each tells the request's usage: total_cost is "for this request".
        self._answer |= {k: said[k] for k in ("created", "model", "size", "usage") if said.get(k) is not None}

    def _verify(self) -> Received:
        answer = _parse(Answer, self._answer)
        charged: Charged = "yes" if self._pictures or answer.cost_usd else "unknown"
        if not self._pictures:
            raise InvalidResponse("The answer holds no image", charged=charged, cost_usd=answer.cost_usd)
        images = []
        for position, entry in enumerate(self._pictures):
            spool, media = self._image(position, entry, answer)
            picture = _parse(Picture, entry)
            index = position if picture.index is None else picture.index
            images.append(ReceivedImage(index=index, spool=spool, media=media, revised_prompt=picture.revised_prompt))
        indices = {image.index for image in images}
        if len(indices) < len(images) or not indices <= set(range(max(self._wanted, len(images)))):
            images = [replace(image, index=position) for position, image in enumerate(images)]
        kept = {id(image.spool) for image in images}
        self._close([spool for spool in self._spools if id(spool) not in kept])
        return Received(answer=answer, images=sorted(images, key=lambda image: image.index))

    def _image(self, position: int, entry: dict[str, Any], answer: Answer) -> tuple[Spool, Media]:
        spool = _spool(entry)
        try:
            if spool is None:
                link = entry.get("url")
                is_link = isinstance(link, str) and bool(link)
                raise ValueError(f"it came as a link, not as data: {str(link)[:200]}" if is_link else "it is empty")
            if spool.problem:
                raise ValueError(spool.problem)
            return spool, identify(spool.file, spool.size_bytes)
        except ValueError as err:
            raise InvalidResponse(
                f"Image {position} of the answer cannot be used: {err}. It was paid for and is lost",
                cost_usd=answer.cost_usd,
            ) from None


def _new_spool(spools: list[Spool], image_limit: int, new_file: NewFile | None) -> Spool:
    """Return a spool that is also in the list.

    Not a method: the decoders would hold their reader, and all of it would wait for the garbage collector.
    """
    spool = Spool(image_limit, new_file)
    spools.append(spool)
    return spool


def _holds_images(document: Any) -> bool:
    return bool(_pictures(document)) and "partial_image_index" not in document


def _pictures(document: Any) -> list[dict[str, Any]]:
    said = document.get("data") if isinstance(document, dict) else None
    entries = said if isinstance(said, list) else [said, document]
    found = [entry for entry in entries if isinstance(entry, dict) and ("b64_json" in entry or "url" in entry)]
    return found if isinstance(said, list) else found[:1]


def _spool(picture: dict[str, Any]) -> Spool | None:
    """Return the image itself; servers may send both fields and fill one."""
    values = (picture.get(key) for key in ("b64_json", "url"))
    filled = [value for value in values if isinstance(value, Spool) and (value.size_bytes or value.problem)]
    return min(filled, key=lambda spool: spool.problem is not None, default=None)


def _parse(kind: type[Any], document: dict[str, Any]) -> Any:
    try:
        return kind.model_validate(document)
    except ValidationError as err:  # every field accepts anything, so this is a fault of ours, not of the answer
        message = f"The answer's {kind.__name__} could not be read: {err.error_count()} errors"
        raise InvalidResponse(message) from err
