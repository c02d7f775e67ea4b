"""PNG files of an exact length and the answers with them, created once as files."""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from pathlib import Path

#: Bytes of a PNG chunk that are not its data: length, name and checksum.
_CHUNK = 12
_WIDTH = 1024


def png(size_bytes: int) -> bytes:
    """Return a valid PNG of noise with exactly this length, at least 4 KiB."""
    row = 1 + 3 * _WIDTH
    height = max(1, (size_bytes - 1024) * 1000 // (row * 1001))
    noise = random.Random(size_bytes)  # noqa: S311 -- the same noise in every run
    rows = b"".join(b"\0" + noise.randbytes(row - 1) for _ in range(height))
    head = struct.pack(">IIBBBBB", _WIDTH, height, 8, 2, 0, 0, 0)
    before = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows, 0))
    end = _chunk(b"IEND", b"")
    return before + _chunk(b"paDd", bytes(size_bytes - len(before) - len(end) - _CHUNK)) + end


def write_answers(directory: Path, size_bytes: int) -> Path:
    """Write the picture and both forms of its answer as files; return the picture's path.

    ``<size>.png`` is the picture, ``<size>.json`` and ``<size>.sse`` are the bodies of API.md's answers.
    """
    path = directory / f"{size_bytes}.png"
    if path.exists():
        return path
    picture = png(size_bytes)
    encoded = base64.b64encode(picture).decode()
    usage = {"total_tokens": 7, "cost": {"total_cost": 0.01}}
    answer = {"created": 1782595538, "model": "bench", "data": [{"index": 0, "b64_json": encoded}], "usage": usage}
    event = {"type": "image_generation.completed", "b64_json": encoded, "created_at": 1782595538, "usage": usage}
    (directory / f"{size_bytes}.json").write_text(json.dumps(answer))
    stream = f"event: image_generation.completed\ndata: {json.dumps(event)}\n\ndata: [DONE]\n\n"
    (directory / f"{size_bytes}.sse").write_text(stream)
    path.write_bytes(picture)
    return path


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
