"""JSON with exact decimals and large base64 texts, as pieces that are never joined."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class Base64Text:
    """A string of a document, in pieces that need no escaping and may be shared by many answers."""

    pieces: tuple[bytes, ...]

    def escaped(self) -> Base64Text:
        r"""Return the text with ``/`` as ``\/`` and ``+`` as ``\u002B``, as some writers do."""
        return Base64Text(tuple(piece.replace(b"/", rb"\/").replace(b"+", rb"\u002B") for piece in self.pieces))

    def after(self, prefix: bytes) -> Base64Text:
        """Return the text with a prefix."""
        return Base64Text((prefix, *self.pieces))


def write_json(document: object, *, comma: bytes = b", ") -> list[bytes]:
    """Return a document as pieces.

    :param document: values that :mod:`json` accepts, :class:`decimal.Decimal` (written with all
        digits) and :class:`Base64Text`.
    :param comma: separator between two members; may contain line ends.
    """
    pieces: list[bytes] = []
    small = bytearray()
    for token in _tokens(document, comma):
        if isinstance(token, bytes):
            small += token
            continue
        pieces += [bytes(small), *token.pieces]
        small = bytearray()
    return [*pieces, bytes(small)]


def _tokens(value: object, comma: bytes) -> Iterator[bytes | Base64Text]:
    if isinstance(value, Base64Text):
        yield b'"'
        yield value
        yield b'"'
    elif isinstance(value, Decimal):
        yield f"{value:f}".encode()
    elif isinstance(value, dict):
        yield b"{"
        for position, (key, member) in enumerate(value.items()):
            yield (comma if position else b"") + json.dumps(key).encode() + b": "
            yield from _tokens(member, comma)
        yield b"}"
    elif isinstance(value, list):
        yield b"["
        for position, member in enumerate(value):
            yield comma if position else b""
            yield from _tokens(member, comma)
        yield b"]"
    else:
        yield json.dumps(value).encode()
