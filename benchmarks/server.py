"""A server that only sends prebuilt answers, and so uses little processor time beside the clients.

``python -m benchmarks.server DIRECTORY`` prints its ports for HTTPS and HTTP, and writes the certificate of its
authority to ``ca.pem`` in the directory. A prompt with ``<n> bytes`` is answered with the files of that length from
:func:`benchmarks.pictures.write_answers` in the directory, after ``<seconds> s`` if the prompt contains that.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import ssl
from functools import cache
from pathlib import Path

import trustme

_BYTES = re.compile(rb"(\d+) bytes")
_SECONDS = re.compile(rb"([\d.]+) s\b")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream": ?true')
#: Bytes per encryption call.
_PIECE = 256 * 1024
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
    writer.write(_head(_CONTENT_TYPES[path.suffix], path.stat().st_size))
    if writer.get_extra_info("ssl_object"):  # where asyncio's sendfile reads 16 KiB at a time
        content = memoryview(_content(path))
        for start in range(0, len(content), _PIECE):
            writer.write(content[start : start + _PIECE])
            await writer.drain()
        return
    with path.open("rb") as file:
        await asyncio.get_running_loop().sendfile(writer.transport, file)


@cache
def _content(path: Path) -> bytes:
    return path.read_bytes()


def _head(content_type: str, length: int) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n".encode()


def _certificate(directory: Path) -> ssl.SSLContext:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def _main(directory: Path) -> None:
    ports = []
    for context in (_certificate(directory), None):
        server = await asyncio.start_server(
            lambda r, w: _serve(directory, r, w), "127.0.0.1", 0, backlog=512, ssl=context
        )
        ports.append(server.sockets[0].getsockname()[1])
    print(*ports, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("directory", type=Path)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(arguments.parse_args().directory))
