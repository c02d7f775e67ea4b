"""``GET /v1/models``."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from .catalog_json import models_document
from .delivery import answer_faulty, answer_status
from .errors import ApiError
from .exchange import ClientGone, Exchange
from .faults import Fault
from .json_pieces import write_json
from .state import State


class ModelsEndpoint:
    """An ASGI application for the catalog."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Only faults whose ``path`` is this path apply to it."""
        request = Request(scope, receive)
        exchange = Exchange(request, send)
        try:
            await request.body()
            exchange.watch()
            self._state.authorize(request.headers.get("authorization"))
            await self._answer(exchange, self._state.faults.take(scope["path"], None))
        except ApiError as error:
            await exchange.answer_error(error)
        except (ClientGone, ClientDisconnect):
            pass  # a list of models is free, so its delivery is not recorded
        finally:
            exchange.close()

    async def _answer(self, exchange: Exchange, fault: Fault | None) -> None:
        document = models_document(self._state.settings.catalog_shape)
        name = None if fault is None else fault.name
        if fault is not None and name == "status":
            await exchange.pause(fault.number("delay"))
            await answer_status(exchange, fault)
            return
        if name == "silence":
            await exchange.until_gone()
            return
        if fault is not None and name == "slow":
            exchange.bytes_per_second = fault.number("bytes_per_second")
        if name == "no_data":
            document["data"] = []
        await answer_faulty(exchange, fault, write_json(document))
