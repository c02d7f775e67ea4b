"""Answers an accepted request, normally or with a queued fault."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from .answers import (
    Encode,
    Wording,
    broken_base64,
    completed_events,
    error_document,
    not_an_image,
    partial_events,
    truncated_image,
    whole_answer,
)
from .errors import ApiError
from .events import Event, EventWriter, break_json
from .exchange import ClientGone, Exchange, content_headers
from .faults import Fault
from .json_pieces import write_json
from .ledger import Outcome
from .studio import Made

EVENT_STREAM = "text/event-stream; charset=utf-8"
_HTML = "<html><head><title>{0}</title></head><body><h1>{0}</h1><p>proxy</p></body></html>\n"
_SPOILERS: dict[str, Encode] = {
    "not_an_image": not_an_image,
    "truncated_image": truncated_image,
    "broken_base64": broken_base64,
}


@dataclass(kw_only=True)
class Delivery:
    """The delivery of one request's answer.

    :param work: makes the pictures and charges for them; continues if the delivery ends.
    :param keepalive: seconds between two comments of a stream.
    """

    exchange: Exchange
    work: asyncio.Task[Made]
    forms: frozenset[str]
    cost_form: str
    keepalive: float
    fault: Fault | None

    async def run(self, *, stream: bool) -> Outcome:
        """Send the answer and return the outcome.

        :raises ClientGone: the client left before the end.
        """
        if self._is("slow") and self.fault is not None:
            self.exchange.bytes_per_second = self.fault.number("bytes_per_second")
        if stream and "json_for_stream" not in self.forms and not self._is("html_200"):
            await self._stream()
        else:
            await self._answer()
        return "delivered" if self._is("slow", "form") or self.fault is None else "faulted"

    async def _answer(self) -> None:
        if self._is("silence"):
            await self.exchange.until_gone()
            raise ClientGone
        await self.exchange.wait(self.work)
        pieces = write_json(whole_answer(self.work.result(), self._wording()))
        await answer_faulty(self.exchange, self.fault, pieces)

    async def _stream(self) -> None:
        if self._cuts("headers"):
            await self.exchange.wait(self.work)
            await self._cut()
            return
        writer = EventWriter(self.forms)
        headers = {"content-type": EVENT_STREAM, "cache-control": "no-cache"}
        await self.exchange.start(200, headers)
        await self.exchange.write([writer.opening() + writer.keepalive()])
        if self._is("silence"):
            await self.exchange.until_gone()
            raise ClientGone
        while not await self.exchange.wait(self.work, self.keepalive):
            await self.exchange.write([writer.keepalive()])
        await self._end_stream(writer)

    async def _end_stream(self, writer: EventWriter) -> None:
        made, wording = self.work.result(), self._wording()
        await self.exchange.write(writer.events(partial_events(made, wording), last=False))
        if self._is("no_terminal"):
            await self.exchange.finish()
            return
        pieces = writer.events(self._last_events(made, wording), broken=self._is("wrong_json"))
        if self._cuts("body"):
            pieces = first_half(pieces)
        await self.exchange.write(pieces)
        if self._is("cut", "late_cut"):
            await self._cut()
        else:
            await self.exchange.finish()

    def _last_events(self, made: Made, wording: Wording) -> list[Event]:
        if self.fault is None or not self._is("error_event"):
            return completed_events(made, wording)
        message = self.fault.text("message") or "the generation failed"
        code = self.fault.text("code") or "internal_error"
        return [("error", error_document(self.fault.text("shape") or "", message, code))]

    def _wording(self) -> Wording:
        wording = Wording(forms=self.forms, cost_form=self.cost_form, without_data=self._is("no_data"))
        if self.fault is None or self.fault.name not in _SPOILERS:
            return wording
        return Wording(forms=self.forms, cost_form=self.cost_form, encode=_SPOILERS[self.fault.name])

    async def _cut(self) -> None:
        await self.exchange.cut(reset=self.fault is not None and self.fault.flag("reset"))

    def _is(self, *names: str) -> bool:
        return self.fault is not None and self.fault.name in names

    def _cuts(self, place: str) -> bool:
        return self.fault is not None and self._is("cut") and self.fault.text("at") == place


async def answer_faulty(exchange: Exchange, fault: Fault | None, pieces: list[bytes]) -> None:
    """Send a JSON answer of known length, as changed by a fault."""
    name = None if fault is None else fault.name
    if fault is not None and name == "cut":
        if fault.text("at") == "body":
            await exchange.start(200, content_headers("application/json", pieces))
            await exchange.write(first_half(pieces))
        await exchange.cut(reset=fault.flag("reset"))
        return
    if name == "html_200":
        await exchange.answer(200, "text/html", [_HTML.format("Please wait").encode()])
        return
    if name == "wrong_json":
        break_json(pieces)
    await exchange.answer(200, "application/json", pieces)


async def answer_status(exchange: Exchange, fault: Fault) -> Outcome:
    """Send the error of a ``status`` fault."""
    status = int(fault.number("status"))
    error = ApiError(
        status,
        fault.text("message") or f"The emulator was told to answer {status}",
        code=fault.text("code"),
        error_type=fault.text("type"),
        retry_after=fault.text("retry_after"),
    )
    bodies = {
        "json": ("application/json", write_json(error.body())),
        "html": ("text/html", [_HTML.format(f"{status} from a proxy").encode()]),
        "empty": ("text/plain", [b""]),
    }
    content_type, pieces = bodies[fault.text("body") or "json"]
    await exchange.start(status, content_headers(content_type, pieces) | error.headers())
    await exchange.write(pieces)
    await exchange.finish()
    return "refused" if status < 500 else "faulted"


def first_half(pieces: list[bytes]) -> list[bytes]:
    """Return the first half of the bytes."""
    left = sum(len(piece) for piece in pieces) // 2
    half: list[bytes] = []
    for piece in pieces:
        half.append(piece[:left])
        left -= len(half[-1])
    return half
