"""Helpers for calls to the emulator: requests, pictures, and a simple reader of events."""

from __future__ import annotations

import base64
import io
import json
import socket
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image

from deepshi_provider.emulator.testing import Emulator

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
BOAT: dict[str, Any] = {
    "model": "deepshi-banana-pro",
    "prompt": "a red boat",
    "width": 64,
    "height": 48,
}
STREAMED_BOAT = {**BOAT, "stream": True}
TWO_BOATS = {"model": "grok-imagine", "prompt": "two boats", "n": 2}


def exact(answer: httpx.Response) -> Any:
    """Return the JSON of an answer, with money as Decimal."""
    return json.loads(answer.content, parse_float=Decimal)


def only_picture(answer: httpx.Response) -> bytes:
    (item,) = answer.json()["data"]
    return base64.b64decode(item["b64_json"], validate=True)


def events(text: str) -> list[tuple[str, str]]:
    """Return ``(event name, data)`` of a stream; the last event needs no blank line."""
    found = []
    name, data = "", list[str]()
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    for line in [*lines, ""]:
        if not line and data:
            found.append((name, "\n".join(data)))
            name, data = "", []
        elif line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data.append(line.removeprefix("data: "))
    return found


def image_file(image_format: str, size: tuple[int, int] = (32, 16), colour: str = "red") -> bytes:
    target = io.BytesIO()
    Image.new("RGB", size, colour).save(target, image_format)
    return target.getvalue()


def part(
    image_format: str = "png", *, name: str = "image", content: bytes | None = None
) -> tuple[str, tuple[str, bytes, str]]:
    """Return one image part of an edit."""
    picture = image_file(image_format) if content is None else content
    return (name, (f"in.{image_format}", picture, f"image/{image_format}"))


def raw_request(emulator: Emulator, fields: dict[str, Any]) -> bytes:
    """Return the bytes of a request."""
    body = json.dumps(fields).encode()
    head = (
        f"POST {GENERATIONS} HTTP/1.1\r\nHost: {urlsplit(emulator.base_url).netloc}\r\n"
        f"Content-Type: application/json\r\n"
        f"Authorization: Bearer {emulator.api_key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def raw_connection(emulator: Emulator) -> socket.socket:
    """Return a socket that is connected to the emulator."""
    address = urlsplit(emulator.base_url)
    assert address.port
    return socket.create_connection((address.hostname, address.port), timeout=10)


def raw_post(emulator: Emulator, fields: dict[str, Any], *, missing_bytes: int = 0) -> socket.socket:
    """Return a socket after sending a request without its last bytes; nothing is read."""
    connection = raw_connection(emulator)
    connection.sendall(raw_request(emulator, fields)[: -missing_bytes or None])
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    """Return all bytes until the other side closes."""
    received = bytearray()
    with connection:
        while chunk := connection.recv(65536):
            received += chunk
    return bytes(received)
