"""``POST /v1/images/generations`` and ``/v1/images/edits``."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from .delivery import Delivery, answer_status
from .errors import ApiError
from .exchange import ClientGone, Exchange
from .faults import Fault
from .fields import Fields
from .ledger import Entry, Ledger, Outcome
from .orders import Order, check_order
from .reading import check_images, read_form, read_json
from .settings import Settings, checked_forms
from .state import State
from .studio import Made


class ImagesEndpoint:
    """An ASGI application for one of the two paths.

    :param edits: whether requests are forms with images.
    """

    def __init__(self, state: State, *, edits: bool) -> None:
        self._state = state
        self._edits = edits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and record it in the journal."""
        request = Request(scope, receive)
        ledger, exchange = self._state.ledger, Exchange(request, send)
        entry = Entry(
            id=scope["state"]["request_id"],
            path=scope["path"],
            user_agent=request.headers.get("user-agent"),
        )
        ledger.open(entry)
        outcome: Outcome = "faulted"  # if the emulator itself fails
        left = False
        try:
            outcome = await self._serve(exchange, request, entry, ledger)
        except (ClientGone, ClientDisconnect):
            left = True
            outcome = "faulted" if entry.fault == "silence" else "disconnected"
        finally:
            exchange.close()
            entry.status = exchange.status
            ledger.close(entry, outcome, client_left=left)

    async def _serve(self, exchange: Exchange, request: Request, entry: Entry, ledger: Ledger) -> Outcome:
        try:
            order = await self._accept(exchange, request, entry)
        except ApiError as error:
            await exchange.answer_error(error)
            return "refused"
        entry.n, entry.stream = order.n, order.stream
        fault = self._state.faults.take(entry.path, order.prompt, stream=order.stream)
        if fault is None:
            return await self._deliver(exchange, order, entry, ledger, None)
        entry.fault = fault.name
        if fault.name != "status":
            return await self._deliver(exchange, order, entry, ledger, fault)
        if fault.flag("charged"):
            work = self._start(order, entry, ledger, latency=fault.number("delay"))
            await exchange.wait(work)
        else:
            await exchange.pause(fault.number("delay"))
        return await answer_status(exchange, fault)

    async def _accept(self, exchange: Exchange, request: Request, entry: Entry) -> Order:
        """Read and check a request, and record it in the journal, even if it is refused."""
        form = malformed = None
        try:
            if self._edits:
                form = await read_form(request, entry)
            else:
                await read_json(request, entry)
        except ApiError as error:
            malformed = error
        exchange.watch()
        self._state.authorize(request.headers.get("authorization"))
        self._check_rate()
        if malformed is not None:
            raise malformed
        if form is None:
            return check_order(Fields(entry.fields, textual=False), input_images=None)
        try:
            count, source = await check_images(form)
        finally:
            await form.close()
        order = check_order(Fields(entry.fields, textual=True), input_images=count)
        return dataclasses.replace(order, source=source)

    def _check_rate(self) -> None:
        seconds = self._state.bucket.take(time.monotonic())
        if seconds:
            message = "too many requests per second"
            raise ApiError(429, message, retry_after=str(math.ceil(seconds)))

    async def _deliver(
        self, exchange: Exchange, order: Order, entry: Entry, ledger: Ledger, fault: Fault | None
    ) -> Outcome:
        settings = self._state.settings
        exchange.piece_bytes = settings.piece_bytes
        forms = settings.form
        if fault is not None and fault.name == "form":
            forms = checked_forms("form", fault.params["form"])
        work = self._start(
            order,
            entry,
            ledger,
            latency=settings.draw_latency(),
            charged=fault is None or fault.flag("charged", default=True),
            previews=order.stream and "partial_images" in forms,
            settings=settings,
        )
        delivery = Delivery(
            exchange=exchange,
            work=work,
            forms=forms,
            cost_form=settings.cost_form,
            keepalive=settings.keepalive,
            fault=fault,
        )
        return await delivery.run(stream=order.stream)

    def _start(
        self,
        order: Order,
        entry: Entry,
        ledger: Ledger,
        *,
        latency: float,
        charged: bool = True,
        previews: bool = False,
        settings: Settings | None = None,
    ) -> asyncio.Task[Made]:
        def charge(made: Made) -> None:
            if charged:
                ledger.charge(entry, made.cost_usd, len(made.pictures))

        return self._state.studio.start(
            entry.id,
            order,
            latency=latency,
            picture_bytes=(settings or self._state.settings).picture_bytes,
            previews=previews,
            charge=charge,
        )
