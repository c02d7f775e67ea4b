"""A distant object store: a proxy that delays each S3 call and limits the bandwidth of each connection.

``python -m benchmarks.slow_store PORT`` prints its own port; for each line on its standard input it prints the number
of calls so far.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time

#: Delay of each call in seconds.
DELAY = 0.05
#: Bytes per second of each connection, in each direction.
RATE = 80e6
_PIECE = 256 * 1024


class _Connection:
    """A client's connection, and the matching one to the server."""

    calls = 0

    def __init__(self) -> None:
        self._may_call = True

    async def serve(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward bytes both ways until one side closes."""
        upstream, to_upstream = await asyncio.open_connection("127.0.0.1", port, limit=_PIECE)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(self._requests(reader, to_upstream), self._answers(upstream, writer))

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_PIECE):
            if self._may_call:
                self._may_call = False
                _Connection.calls += 1
                await asyncio.sleep(DELAY)
            await _carry(data, writer)
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_PIECE):
            # After that the client continues the same call.
            self._may_call = not data.startswith(b"HTTP/1.1 100")
            await _carry(data, writer)
        writer.close()


async def _carry(data: bytes, writer: asyncio.StreamWriter) -> None:
    begun = time.monotonic()
    writer.write(data)
    await writer.drain()
    await asyncio.sleep(max(0.0, len(data) / RATE - (time.monotonic() - begun)))


def _report() -> None:
    for _ in sys.stdin:
        print(_Connection.calls, flush=True)


async def _main(port: int) -> None:
    server = await asyncio.start_server(
        lambda reader, writer: _Connection().serve(port, reader, writer), "127.0.0.1", 0, limit=_PIECE, backlog=512
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    threading.Thread(target=_report, daemon=True).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
