"""``/emulator/…``: the API with which tests inspect and control the emulator. Needs no key."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .state import State


class Control:
    """The control API of one emulator."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        """Return the routes of the control API."""
        return [
            Route("/emulator/stats", self.stats, methods=["GET"]),
            Route("/emulator/requests", self.requests, methods=["GET"]),
            Route("/emulator/pictures/{request_id}/{index:int}", self.picture, methods=["GET"]),
            Route("/emulator/reset", self.reset, methods=["POST"]),
            Route("/emulator/settings", self.change_settings, methods=["PUT"]),
            Route("/emulator/faults", self.add_fault, methods=["POST"]),
            Route("/emulator/faults", self.clear_faults, methods=["DELETE"]),
        ]

    async def stats(self, _request: Request) -> Response:
        """Return counts of calls and money."""
        return JSONResponse(self._state.ledger.stats())

    async def requests(self, _request: Request) -> Response:
        """Return the journal of requests, in order of arrival."""
        return JSONResponse([entry.as_json() for entry in self._state.ledger.entries])

    async def picture(self, request: Request) -> Response:
        """Return a picture's bytes as delivered, or as they would have been."""
        pictures = self._state.studio.recent.get(request.path_params["request_id"], [])
        index = request.path_params["index"]
        if index >= len(pictures):
            return JSONResponse({"error": "the picture does not exist"}, 404)
        content = b"".join(pictures[index].parts())
        return Response(content, media_type=pictures[index].media_type)

    async def reset(self, _request: Request) -> Response:
        """Reset everything to the command line's values."""
        self._state.reset()
        return JSONResponse({})

    async def change_settings(self, request: Request) -> Response:
        """Change some settings; return all of them."""
        try:
            self._state.change(await _json_object(request))
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(self._state.settings.as_json())

    async def add_fault(self, request: Request) -> Response:
        """Queue a fault; return its parameters."""
        try:
            fault = self._state.faults.add(await _json_object(request))
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({"fault": fault.name, "times": fault.times, **fault.params})

    async def clear_faults(self, _request: Request) -> Response:
        """Remove all faults."""
        self._state.faults.clear()
        return JSONResponse({})


async def _json_object(request: Request) -> dict[str, object]:
    content = await request.json()
    if not isinstance(content, dict):
        raise ValueError("the body must be a JSON object")
    return content
