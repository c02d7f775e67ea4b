"""Random answers through the whole job: never a raw exception, never a dollar that is neither recorded nor reported."""

from __future__ import annotations

import asyncio
import json
import os
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from deepshi_provider.hooks.jobs import run_job as run
from deepshi_provider.journal.entries import Manifest
from tests.support import bodies
from tests.support.answering import Answer, answering
from tests.support.jobs import make_job
from tests.support.places import LocalPlace, document, state

PICTURES = [bodies.picture(kind) for kind in ("PNG", "JPEG", "WEBP")]
PRICE = "0.000135"
COUNT = int(os.environ.get("DEEPSHI_TEST_ANSWERS", "500"))
TYPES = ["application/json", "text/event-stream", "text/plain", "text/html"]
NUMBERS: list[Any] = [
    "1E-20000000",
    "1e999999999",
    -1,
    2**70,
    10**400,
    0,
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


def entry(rng: random.Random) -> Any:
    image = bodies.text_of(rng.choice(PICTURES))
    return rng.choice(
        [
            {"b64_json": image},
            {"b64_json": image, "index": rng.choice([0, 1, 7, -1, "0", None])},
            {"url": f"data:image/png;base64,{image}"},
            {"b64_json": image[: rng.randrange(len(image))]},
            {"b64_json": rng.choice(ODD)},
            {"url": "https://images.example/1.png?signature=1"},
            rng.choice(ODD),
        ]
        if rng.random() < 0.5
        else [{"b64_json": image}]
    )


def usage(rng: random.Random) -> Any:
    cost = PRICE if rng.random() < 0.7 else rng.choice(NUMBERS)
    nested: Any = rng.choice(ODD)
    for _ in range(rng.choice([0, 1, 150, 350])):
        nested = rng.choice([{"k": nested}, [nested]])
    return rng.choice([{"cost": {"total_cost": cost}}, {"cost": cost}, {"x": nested, "cost": cost}, nested])


def error(rng: random.Random) -> Any:
    codes = ["rate_limit_exceeded", "moderation_blocked", "429", "408", 500, None, "odd", "x" * 500]
    return rng.choice([{"error": {"message": "m", "code": rng.choice(codes)}}, {"error": "m"}, {"type": "error"}])


def body_of(rng: random.Random, n: int, *, stream: bool) -> bytes:
    entries = [entry(rng) for _ in range(rng.choice([n, n, n, 0, 1, 2, 9]))]
    if not stream:
        document: Any = {"data": entries, "usage": usage(rng), "model": rng.choice(["m", *ODD])}
        return json.dumps(document if rng.random() < 0.9 else rng.choice([error(rng), entries, *ODD])).encode()
    events = []
    for each in entries:
        fields = each if isinstance(each, dict) else {"b64_json": each}
        events.append(bodies.event({"type": "image_generation.completed", **fields, "usage": usage(rng)}))
    if rng.random() < 0.3:
        events.insert(rng.randrange(len(events) + 1), bodies.event(error(rng), "error"))
    if events and rng.random() < 0.2:
        events.append(rng.choice(events))
    return b": wait\n\n".join(events) + rng.choice([b"", b"data: [DONE]\n\n", b"garbage"])


def damaged(rng: random.Random, body: bytes) -> bytes:
    at = rng.randrange(len(body) + 1)
    change = rng.random()
    if change < 0.1:
        return body[:at]
    if change < 0.2:
        return body[:at] + rng.choice([b'"', b"\\", b"}", b"{", b"\n\n", b"\xff", bytes(50)]) + body[at:]
    return body[:at] + body[at + rng.randrange(50) :] if change < 0.25 else body


def answer_of(rng: random.Random, n: int, *, stream: bool) -> Answer:
    body = damaged(rng, body_of(rng, n, stream=stream if rng.random() < 0.9 else not stream))
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
    return Answer(body=framing[1], head=f"{kind}\r\n{framing[0]}")


def check(manifest: Manifest, place: LocalPlace, posts: int) -> None:
    """Each request that was sent is recorded, or its claim stands; unless the server said that it was free."""
    records = [document(place, name) for name in state(place, "record")]
    claims = state(place, "claim")
    settled = len(records) + len([name for name in claims if not _has_record(place, name)])
    is_free = manifest.error is not None and manifest.error["charged"] == "no"
    assert settled + is_free >= 1
    assert posts == 1 or is_free
    known = [Decimal(record["cost_usd"]) for record in records if record["cost_usd"] is not None]
    assert sum(known, Decimal(0)) == (manifest.task_cost_usd or 0)
    assert len(json.dumps(manifest.as_xcom())) < 40_000
    assert len(json.dumps(manifest.as_event(None))) < 5_000
    if manifest.status == "success":
        # Not the whole: what is taken out of the middle of a JPEG's data leaves no trace.
        heads = {picture[:3] for picture in PICTURES}
        assert {place.read(image.uri.rpartition("/")[2])[:3] for image in manifest.images} <= heads
    if manifest.error:
        assert "not foreseen" not in manifest.error["message"]


def _has_record(place: LocalPlace, claim: str) -> bool:
    return any(name.startswith(claim.removesuffix("claim.json")) for name in state(place, "record"))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
async def test_any_answer_ends_in_a_manifest_that_accounts_for_the_money(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = set()
    for number in range(part, COUNT, 5):
        rng = random.Random(number)
        n, stream = rng.choice([1, 1, 2, 4]), rng.random() < 0.5
        place = LocalPlace(tmp_path / str(number))
        with answering(answer_of(rng, n, stream=stream)) as server:
            monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", server.connection_json(max_retries=1))
            job = make_job(place, fields={"n": n, "stream": stream}, max_resends=0)
            manifest = await asyncio.wait_for(run(job), 60)
            try:
                check(manifest, place, server.posts)
            except AssertionError as err:
                raise AssertionError(f"answer {number}: {err}; {manifest.model_dump_json()[:2000]}") from err
        ended.add(manifest.status if manifest.error is None else manifest.error["type"])
    assert {"success", "OutcomeUnknown", "InvalidResponse"} <= ended
