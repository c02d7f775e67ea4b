"""The speed of the server with clients that only read, which is the limit for all other figures."""

from __future__ import annotations

import json
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit


def ceiling(url: str, ca_file: str, size: int, connections: int) -> float:
    """Return GiB of pictures per second that the server sends over TLS to clients that discard them."""
    context = ssl.create_default_context(cafile=ca_file)
    with ThreadPoolExecutor(min(8, connections)) as pool:
        begun = time.perf_counter()
        list(pool.map(lambda _: _read(url, context, size), range(connections)))
        return connections * size / 2**30 / (time.perf_counter() - begun)


def _read(url: str, context: ssl.SSLContext, size: int) -> None:
    parts = urlsplit(url)
    body = json.dumps({"prompt": f"{size} bytes", "stream": True})
    head = "POST /v1/images/generations HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n"
    buffer = bytearray(2**20)
    address = (str(parts.hostname), int(parts.port or 443))
    with context.wrap_socket(socket.create_connection(address), server_hostname=address[0]) as server:
        server.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        while server.recv_into(buffer):
            pass
