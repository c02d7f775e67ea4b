"""The body of a 2xx answer, JSON or event stream, in pieces → verified images and their price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from deepshi_provider.api.decoder import JsonDecoder
from deepshi_provider.api.media import Media, identify
from deepshi_provider.api.responses import Answer, Picture, error_from_document
from deepshi_provider.api.spool import IMAGE_LIMIT, Spool
from deepshi_provider.api.sse import Event, SseDecoder
from deepshi_provider.exceptions import Charged, DeepshiError, InvalidResponse, OutcomeUnknown


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

    :param content_type: of the answer; a streaming request may be answered with plain JSON.
    :param wanted: how many images were asked for.
    :param image_limit: largest image in bytes.
    """

    def __init__(self, content_type: str, wanted: int, *, image_limit: int = IMAGE_LIMIT) -> None:
        self._wanted = wanted
        self._image_limit = image_limit
        self._spools: list[Spool] = []
        self._pictures: list[dict[str, Any]] = []
        self._answer: dict[str, Any] = {}
        self._done = False
        is_stream = content_type.partition(";")[0].strip().lower() == "text/event-stream"
        self._json = None if is_stream else JsonDecoder(self._new_spool)
        self._sse = SseDecoder(self._new_spool)

    @property
    def complete(self) -> bool:
        """Whether all that was asked for has come: what happens to the connection now no longer matters."""
        return self._sse_images() >= self._wanted or self._done

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body.

        :raises DeepshiError: the stream reported an error, or a limit was passed.
        """
        if self._json:
            self._json.feed(data)
            return
        for event in self._sse.feed(data):
            if self.complete:
                self._close(event.spools)
            else:
                self._take(event)

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

    def _new_spool(self) -> Spool:
        spool = Spool(self._image_limit)
        self._spools.append(spool)
        return spool

    def _sse_images(self) -> int:
        return 0 if self._json else len(self._pictures)

    def _take(self, event: Event) -> None:
        document = event.document
        kind = event.name or (document.get("type") if isinstance(document, dict) else None) or ""
        kind = kind if isinstance(kind, str) else ""
        if event.text.strip() == "[DONE]":
            self._done = bool(self._pictures)
        elif kind.endswith(".completed") or (not kind and _holds_images(document)):
            self._take_completed(event)
        elif "partial_image" not in kind:
            self._raise_error(event, kind)
            self._close(event.spools)
        else:
            self._close(event.spools)

    def _take_completed(self, event: Event) -> None:
        if event.error:
            raise event.error
        self._take_answer(event.document)

    def _raise_error(self, event: Event, kind: str) -> None:
        document = event.document
        if kind == "error" and not isinstance(document, dict):
            document = {"error": event.text[:500] or "no reason given"}
        error = error_from_document({"type": kind, **document} if isinstance(document, dict) else document)
        if error:
            raise error

    def _close(self, spools: list[Spool]) -> None:
        for spool in spools:
            spool.close()
            self._spools.remove(spool)

    def _take_answer(self, document: Any) -> None:
        error = error_from_document(document)
        if error:
            raise error
        if not isinstance(document, dict):
            raise InvalidResponse("The answer is not a JSON object", charged="unknown")
        said = document.get("data")
        entries = said if isinstance(said, list) else [document]
        self._pictures += [e for e in entries if isinstance(e, dict) and ("b64_json" in e or "url" in e)]
        # With several completed events each tells the request's usage: total_cost is "for this request".
        known = {k: document[k] for k in ("model", "size", "usage") if document.get(k) is not None}
        created = document.get("created", document.get("created_at"))
        self._answer |= known | ({"created": created} if created is not None else {"created": None})

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
        if len({image.index for image in images}) < len(images) or min(i.index for i in images) < 0:
            images = [_at(position, image) for position, image in enumerate(images)]
        kept = {id(image.spool) for image in images}
        self._close([spool for spool in self._spools if id(spool) not in kept])
        return Received(answer=answer, images=sorted(images, key=lambda image: image.index))

    def _image(self, position: int, entry: dict[str, Any], answer: Answer) -> tuple[Spool, Media]:
        found = [entry.get(key) for key in ("b64_json", "url")]
        spool = next((value for value in found if isinstance(value, Spool)), None)
        try:
            if spool is None:
                link = next((value for value in found if isinstance(value, str)), None)
                raise ValueError(f"it came as a link, not as data: {link[:200]}" if link else "it is empty")
            if spool.problem:
                raise ValueError(spool.problem)
            return spool, identify(spool.file, spool.size_bytes)
        except ValueError as err:
            raise InvalidResponse(
                f"Image {position} of the answer cannot be used: {err}. It was paid for and is lost",
                cost_usd=answer.cost_usd,
            ) from None


def _holds_images(document: Any) -> bool:
    return isinstance(document, dict) and any(key in document for key in ("data", "b64_json", "url"))


def _at(position: int, image: ReceivedImage) -> ReceivedImage:
    return ReceivedImage(index=position, spool=image.spool, media=image.media, revised_prompt=image.revised_prompt)


def _parse(kind: type[Any], document: dict[str, Any]) -> Any:
    try:
        return kind.model_validate(document)
    except ValidationError as err:  # every field accepts anything, so this is a fault of ours, not of the answer
        raise DeepshiError(f"The answer's {kind.__name__} could not be read: {err.error_count()} errors") from err
