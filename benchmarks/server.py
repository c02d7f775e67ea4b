"""A server that only sends prebuilt answers, by ``sendfile``: its own cost is small, so that clients are what is seen.

``python -m benchmarks.server DIRECTORY`` prints its port. A prompt that says ``<n> bytes`` is answered with the files
of that length which :func:`benchmarks.pictures.write_answers` has put into the directory, after ``<seconds> s`` if it
says so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
from pathlib import Path

_BYTES = re.compile(rb"(\d+) bytes")
_SECONDS = re.compile(rb"([\d.]+) s\b")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream": ?true')
_CONTENT_TYPES = {".json": "application/json", ".sse": "text/event-stream"}
_MODELS = json.dumps({"object": "list", "data": [{"id": "bench", "object": "model"}]}).encode()


async def _serve(directory: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1])) if length else b""
            if seconds := _SECONDS.search(body):
                await asyncio.sleep(float(seconds[1]))
            await _answer(directory, head, body, writer)
            if b"connection: close" in head.lower():
                break
    writer.close()


async def _answer(directory: Path, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
    if head.startswith(b"GET /v1/models"):
        writer.write(_head("application/json", len(_MODELS)) + _MODELS)
        return
    size = _BYTES.search(body)
    path = directory / f"{size[1].decode() if size else 0}.{'sse' if _STREAM.search(body) else 'json'}"
    with path.open("rb") as file:
        writer.write(_head(_CONTENT_TYPES[path.suffix], path.stat().st_size))
        await asyncio.get_running_loop().sendfile(writer.transport, file)


def _head(content_type: str, length: int) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n".encode()


async def _main(directory: Path) -> None:
    server = await asyncio.start_server(lambda r, w: _serve(directory, r, w), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("directory", type=Path)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(arguments.parse_args().directory))
