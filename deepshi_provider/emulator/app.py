"""The ASGI application: all paths, and the handling that all requests share."""

from __future__ import annotations

import sys
import time
import uuid
from typing import cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .control import Control
from .errors import ApiError
from .images import ImagesEndpoint
from .models_endpoint import ModelsEndpoint
from .state import State


def build_app(state: State) -> ASGIApp:
    """Return the emulator as an application for :class:`.server.EmulatorServer`."""
    routes = [
        Route("/v1/models", ModelsEndpoint(state), methods=["GET"]),
        Route("/v1/images/generations", ImagesEndpoint(state, edits=False), methods=["POST"]),
        Route("/v1/images/edits", ImagesEndpoint(state, edits=True), methods=["POST"]),
        *Control(state).routes(),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _answer_http_error})
    return _Attendant(app, state)


async def _answer_http_error(_request: Request, error: Exception) -> Response:
    """Answer unknown paths and methods in the API's form."""
    known = cast(HTTPException, error)  # Starlette's type for handlers is wider
    answer = ApiError(known.status_code, known.detail)
    return JSONResponse(answer.body(), known.status_code, headers=known.headers)


class _Attendant:
    """Gives every request an id, counts it and logs it."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{uuid.uuid4().hex}"
        scope["state"]["request_id"] = request_id
        ledger = None if scope["path"].startswith("/emulator/") else self._state.ledger
        if ledger is not None:
            ledger.called(scope["method"], scope["path"])
        started, status = time.monotonic(), "-"

        async def named_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                message["headers"].append((b"x-request-id", request_id.encode()))
                if ledger is not None:
                    ledger.answered(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, named_send)
        finally:
            seconds = time.monotonic() - started
            _log(f"{scope['method']} {scope['path']} {status} {seconds:.3f}s {request_id}")


def _log(line: str) -> None:
    """Write one line to stderr; stdout is for the ready line, which programs read."""
    sys.stderr.write(line.encode("ascii", "backslashreplace").decode() + "\n")
