"""Random odd answers to paid requests, as servers and proxies may send them, each with the server's charge."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tests.support import bodies
from tests.support.answering import Answer

PICTURES = [bodies.picture(kind) for kind in ("PNG", "JPEG", "WEBP")]
#: USD per paid request.
PRICE = Decimal("0.000135")
TYPES = ["application/json", "text/event-stream", "text/plain", "text/html"]
NUMBERS: list[Any] = [
    "1E-20000000",
    "1e999999999",
    -1,
    2**70,
    10**400,
    True,
    None,
    [],
    {},
    "NaN",
    "٣",
    1e-39,
    "9" * 200,
]
ODD: list[Any] = [None, "", 5, [], {}, "x" * 3000, "\x00", "\ud83d", 2**80, -1, True]
#: Error codes: free if no result was sent; free if nothing was sent at all; without a meaning for the charge.
FREE = ["PROMPT_TOO_LONG", "invalid_request_error"]
EARLY = ["rate_limit_exceeded", "moderation_blocked", "429"]
SILENT = ["408", 500, None, "odd", "x" * 500]
#: Codes that end a batch, since all other rows would fail too.
FINAL = ["insufficient_quota", "invalid_api_key"]
_COSTS = re.compile(rb'cost": ?([^,}\]]*)')


@dataclass(frozen=True, kw_only=True)
class Odd:
    """An answer.

    :param usd: the server's charge.
    """

    answer: Answer
    usd: Decimal


class _Server:
    """Makes one answer, and computes its charge."""

    def __init__(self, rng: random.Random, codes: list[Any]) -> None:
        self.rng = rng
        self.codes = codes
        self.price = rng.choice([PRICE, PRICE, PRICE, Decimal(0)])
        self.has_told = False
        self.has_worked = self.has_shown = False
        self.failures: list[Any] = []

    def entry(self) -> Any:
        rng = self.rng
        self.has_worked = True
        image = bodies.text_of(rng.choice(PICTURES))
        odd = [
            {"b64_json": image},
            {"b64_json": image, "index": rng.choice([0, 1, 7, -1, "0", None])},
            {"url": f"data:image/png;base64,{image}"},
            {"b64_json": image[: rng.randrange(len(image))]},
            {"b64_json": rng.choice(ODD)},
            {"url": "https://images.example/1.png?signature=1"},
            rng.choice(ODD),
        ]
        return rng.choice(odd) if rng.random() < 0.5 else {"b64_json": image}

    def usage(self) -> Any:
        rng = self.rng
        cost: Any = rng.choice([float(self.price), str(self.price)]) if rng.random() < 0.7 else rng.choice(NUMBERS)
        nested: Any = rng.choice(ODD)
        for _ in range(rng.choice([0, 1, 150, 350])):
            nested = rng.choice([{"k": nested}, [nested]])
        form = rng.choice([{"cost": {"total_cost": cost}}, {"cost": cost}, {"x": nested, "cost": cost}, nested])
        is_told = isinstance(form, dict) and "cost" in form and cost in (float(self.price), str(self.price))
        self.has_told |= is_told and not isinstance(cost, bool)
        return form

    def error(self) -> Any:
        code = self.rng.choice(self.codes)
        forms = [{"error": {"message": "m", "code": code}}, {"error": "m"}, {"type": "error"}]
        form = self.rng.choice(forms)
        self.failures.append(code if form is forms[0] else None)
        return form

    def taken(self) -> Decimal:
        """The charge: the price, unless the answer is a free one without a price."""
        free = FREE + FINAL + ([] if self.has_shown else EARLY)
        is_free = not self.has_told and not self.has_worked and self.failures[:1] and self.failures[0] in free
        return Decimal(0) if is_free else self.price

    def document(self, entries: list[Any]) -> bytes:
        rng = self.rng
        if rng.random() < 0.9:
            return json.dumps({"data": entries, "usage": self.usage(), "model": rng.choice(["m", *ODD])}).encode()
        if rng.random() < 0.3:
            self.has_worked = False
            return json.dumps(self.error()).encode()
        return json.dumps(rng.choice([entries, *ODD])).encode()

    def stream(self, entries: list[Any]) -> bytes:
        rng = self.rng
        events = []
        for each in entries:
            fields = each if isinstance(each, dict) else {"b64_json": each}
            usage = {} if rng.random() < 0.2 else {"usage": self.usage()}
            events.append(bodies.event({"type": "image_generation.completed", **fields, **usage}))
        if rng.random() < 0.3:
            events.insert(rng.randrange(len(events) + 1), bodies.event(self.error(), "error"))
        if rng.random() < 0.3:
            self.has_shown = True
            preview = {"b64_json": bodies.text_of(PICTURES[0]), "partial_image_index": 0}
            events.insert(0, bodies.event(preview, rng.choice(["image_generation.partial_image", None])))
        if events and rng.random() < 0.2:
            events.append(rng.choice(events))
        if rng.random() < 0.15:  # nothing is read after the last result
            events.insert(0, bodies.event({"usage": self.usage()}, rng.choice([None, "usage"])))
        return b": wait\n\n".join(events) + rng.choice([b"", b"data: [DONE]\n\n", b"garbage"])


def odd_answer(rng: random.Random, n: int, *, stream: bool, in_batch: bool = False) -> Odd:
    """Return an answer to a request for ``n`` images.

    :param in_batch: without errors that end the whole batch.
    """
    server = _Server(rng, FREE + EARLY + SILENT + ([] if in_batch else FINAL))
    entries = [server.entry() for _ in range(rng.choice([n, n, n, 0, 1, 2, 9]))]
    is_stream = stream if rng.random() < 0.9 else not stream
    body = _damaged(rng, server.stream(entries) if is_stream else server.document(entries))
    if is_stream:  # a result of which nothing is left was never made
        server.has_worked &= b"image_generation.completed" in body
        server.has_told &= any(str(server.price).encode() in cost for cost in _COSTS.findall(body))
    kind = f"Content-Type: {rng.choice(TYPES)}"
    framing = rng.choice(
        [
            (f"Content-Length: {len(body)}", body),
            (f"Content-Length: {len(body) + 2}", body),
            ("Connection: close", body),
            ("Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)),
            ("Transfer-Encoding: chunked", b"%x\r\n%s\r\n" % (len(body), body)),
            ("Transfer-Encoding: chunked", b"zz\r\n" + body),
        ]
    )
    return Odd(answer=Answer(body=framing[1], head=f"{kind}\r\n{framing[0]}"), usd=server.taken())


def good_answer() -> Odd:
    """Return an answer with one image and its price."""
    document = {"data": [{"b64_json": bodies.text_of(PICTURES[0])}], "usage": {"cost": str(PRICE)}}
    return Odd(answer=Answer(body=json.dumps(document).encode()), usd=PRICE)


def _damaged(rng: random.Random, body: bytes) -> bytes:
    """Cut or change a body, but never its price, since no client could detect that."""
    at = rng.randrange(len(body) + 1)
    change = rng.random()
    if change < 0.1:
        return body[:at]
    if change < 0.2:
        changed = body[:at] + rng.choice([b'"', b"\\", b"}", b"{", b"\n\n", b"\xff", bytes(50)]) + body[at:]
    elif change < 0.25:
        changed = body[:at] + body[at + rng.randrange(50) :]
    else:
        return body
    return changed if Counter(_COSTS.findall(changed)) <= Counter(_COSTS.findall(body)) else body
