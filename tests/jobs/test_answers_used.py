"""Everything usable in a paid answer reaches record, manifest, XCom and log."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from deepshi_provider.hooks.jobs import run_job as run
from deepshi_provider.jobs.outcome import ImageOutcome
from tests.support import bodies
from tests.support.answering import Answer, AnsweringServer, answering
from tests.support.bodies import SSE, answer_text, completed, event
from tests.support.jobs import make_job
from tests.support.places import LocalPlace, document, state

PNG = bodies.picture()
COST = Decimal("0.000135")
STREAM = f"Content-Type: {SSE}\r\nConnection: close"

Serve = Callable[[Any], AnsweringServer]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server behind the connection ``deepshi_default``."""
    running = []

    def start(answer: Any) -> AnsweringServer:
        running.append(answering(answer))
        server: AnsweringServer = running[-1].__enter__()
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", server.connection_json())
        return server

    yield start
    for context in running:
        context.__exit__(None, None, None)


def record(place: LocalPlace) -> dict[str, Any]:
    (name,) = state(place, "record")
    found: dict[str, Any] = document(place, name)
    return found


async def test_warnings_reach_record_manifest_xcom_and_log_and_stay_when_it_is_reused(
    serve: Serve, local: LocalPlace, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    body = event(completed(PNG)) + event({"error": {"message": "wait", "code": "rate_limit_exceeded"}}, "error")
    server = serve(Answer(body=body, head=STREAM))
    job = make_job(local, fields={"n": 2}, max_resends=0)
    manifest = await run(job)
    assert (manifest.status, len(manifest.images), manifest.cost_usd) == ("success", 1, COST)
    warnings = manifest.as_xcom()["warnings"]
    assert warnings[0] == "Asked for 2 images, got 1"
    assert (record(local)["warnings"], record(local)["cost_is_complete"]) == (warnings, False)
    assert ImageOutcome.model_validate_json(local.read(job.manifest_name)).warnings == warnings
    printed = capsys.readouterr()
    logged = f"{printed.out}{printed.err}{caplog.text}"
    assert [warning for warning in warnings if warning not in logged] == []
    again = await run(make_job(local, fields={"n": 2}, owner={"run_id": "tuesday"}))
    assert (again.reused, again.warnings, server.posts) == (True, warnings, 1)


async def test_a_cost_of_an_answer_without_a_usable_picture_is_in_its_record(serve: Serve, local: LocalPlace) -> None:
    server = serve(Answer(body=event(completed(PNG[:20])) + event({"error": "oh"}, "error"), head=STREAM))
    manifest = await run(make_job(local, fields={"n": 2}, max_resends=0))
    assert (manifest.status, manifest.task_cost_usd, server.posts) == ("failed", COST, 1)
    assert (record(local)["kind"], record(local)["cost_usd"], record(local)["cost_is_complete"]) == (
        "lost",
        str(COST),
        False,
    )


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"k": value}
    return value


HOSTILE: dict[str, Any] = {
    "nested 200 deep": {"x": nested(200)},
    "nested 900 deep": {"x": nested(900)},
    "lists": {"x": json.loads("[" * 300 + "]" * 300)},
    "large integer": {"total_tokens": 2**64},
    "very large integer": {"total_tokens": 10**300},
    "large fraction": {"total_tokens": 1e39},
    "long text": {"note": "x" * 70_000, "more": ["y" * 500] * 100},
    "many keys": {f"key-{number}": "v" * 50 for number in range(900)},
    "long keys": {f"{number}" * 500: 1 for number in range(50)},
    "NUL": {"note\x00": "a\x00b"},
    "surrogate": {"note": "\ud83d"},
}


@pytest.mark.parametrize("usage", HOSTILE.values(), ids=HOSTILE)
async def test_stored_parts_of_an_answer_are_bounded(serve: Serve, local: LocalPlace, usage: dict[str, Any]) -> None:
    serve(Answer(body=answer_text(PNG, usage={**usage, "cost": 0.000135}, model="m" * 5000, created=2**70)))
    job = make_job(local)
    manifest = await run(job)
    assert (manifest.status, manifest.cost_usd, len(manifest.images)) == ("success", COST, 1)
    written = json.dumps(manifest.as_xcom())
    assert len(written) < 10_000
    assert "\\u0000" not in written
    assert "\\ud83d" not in written
    assert ImageOutcome.model_validate_json(local.read(job.manifest_name)).as_xcom() == manifest.as_xcom()
    assert _deepest(manifest.as_xcom()) < 10
    assert _largest(manifest.as_xcom()) < 2**63


COSTS = ["1E-20000000", "1E-9999999999", "1E+9999999999", "9" * 5000, "0." + "0" * 29 + "12", "NaN", "-1", "1_0", "٣"]


@pytest.mark.parametrize("cost", COSTS, ids=range(len(COSTS)))
async def test_an_impossible_cost_is_not_reported(serve: Serve, local: LocalPlace, cost: str) -> None:
    server = serve(Answer(body=answer_text(PNG, usage={"cost": {"total_cost": cost}})))
    manifest = await run(make_job(local))
    assert (manifest.status, manifest.cost_usd, server.posts) == ("success", None, 1)
    assert (record(local)["cost_usd"], record(local)["cost_is_complete"]) == (None, True)


def _deepest(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_deepest, inner), default=0)


def _largest(value: Any) -> float:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = abs(value) if isinstance(value, int | float) else 0
    return max([own, *map(_largest, inner)])
