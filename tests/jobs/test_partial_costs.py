"""A truncated answer has cost at least what it reported; sums and limits count the rest as possible."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk.execution_time.context import set_current_context

from deepshi_provider.costs.sheet import cost_text
from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.jobs import run_job as run
from tests.support import bodies
from tests.support.answering import Answer, AnsweringServer, answering
from tests.support.batches import batch, ended, rows_of
from tests.support.bodies import SSE, completed, event
from tests.support.jobs import make_job
from tests.support.places import LocalPlace
from tests.support.servers import boat
from tests.support.tasks import TaskInstance, context_of
from tests.support.waiting import until

PNG = bodies.picture()
STREAM = f"Content-Type: {SSE}\r\nConnection: close"
REPORTED, PRICE = Decimal("0.01"), Decimal("0.04")

Serve = Callable[[Any], AnsweringServer]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server behind the connection ``deepshi_default``."""
    running = []

    def start(answer: Any) -> AnsweringServer:
        running.append(answering(answer))
        server = running[-1].__enter__()
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", server.connection_json())
        return server

    yield start
    for context in running:
        context.__exit__(None, None, None)


def picture(cost: Decimal, index: int = 0) -> bytes:
    return event(completed(PNG, index=index, usage={"cost": {"total_cost": str(cost)}}))


#: Ends after one of two pictures.
PARTIAL = Answer(body=picture(REPORTED), head=STREAM)
WHOLE = Answer(body=picture(PRICE) + picture(PRICE, 1), head=STREAM)
#: Answers without an image, which may have been paid for although they report a cost of 0.
ZEROS = {
    "no image": Answer(body=b'{"data": [], "usage": {"cost": 0}}'),
    "error event": Answer(body=event({"type": "error", "usage": {"cost": {"total_cost": 0}}}), head=STREAM),
    "gateway": Answer(body=b'{"error": {"message": "late"}, "usage": {"cost": 0}}', status="504 Gateway Timeout"),
}


def partial_after(whole: int) -> Callable[[int, bytes], Answer]:
    """Serve this many whole answers, and then only truncated ones."""
    return lambda number, _: WHOLE if number <= whole else PARTIAL


async def test_the_sheet_has_the_minimum_cost(serve: Serve, local: LocalPlace) -> None:
    serve(PARTIAL)
    manifest = await run(make_job(local, fields={"n": 2}))
    assert manifest.costs is not None
    assert (manifest.costs.cost_usd, manifest.costs.untold, manifest.costs.may_have_cost_usd) == (REPORTED, 1, None)
    assert cost_text(manifest.costs) == "at least $0.01 (1 unreported cost of unknown price)"


async def test_the_sheet_has_the_class_price_as_possible_cost(serve: Serve, local: LocalPlace) -> None:
    serve(partial_after(1))
    await run(make_job(local, fields={"n": 2, "prompt": "first"}))
    manifest = await run(make_job(local, fields={"n": 2}, owner={"task_id": "other"}, reuse=False))
    assert manifest.costs is not None
    assert cost_text(manifest.costs) == "at least $0.01, up to about $0.04 (1 unreported cost)"


def test_a_batch_does_not_learn_a_price_from_a_truncated_answer(serve: Serve, local: LocalPlace) -> None:
    server = serve(PARTIAL)
    operator = batch(local, rows_of(20), n=2, stream=True, max_cost_usd=1, max_concurrency=8)
    _, err = ended(operator)
    assert isinstance(err, AirflowFailException)
    assert "3 requests were or may have been paid for without a reported price" in str(err)
    assert server.posts == 3
    _, err = ended(operator, try_number=2)
    assert (isinstance(err, AirflowFailException), server.posts) == (True, 3), "nor in another try"


def test_a_batch_counts_the_possible_cost_of_a_truncated_answer(serve: Serve, local: LocalPlace) -> None:
    server = serve(partial_after(1))
    operator = batch(local, rows_of(20), n=2, stream=True, max_cost_usd="0.2", max_concurrency=1)
    _, err = ended(operator)
    assert "$0.08 of max_cost_usd $0.2 are spent" not in str(err)
    assert server.posts == 5, "each may have cost $0.04"
    _, err = ended(operator, try_number=2)
    assert (isinstance(err, AirflowFailException), server.posts) == (True, 5)


async def test_a_run_counts_the_possible_cost_of_a_truncated_answer(
    serve: Serve, local: LocalPlace, tmp_path: Path
) -> None:
    server = serve(partial_after(1))
    terms: dict[str, Any] = {"max_run_cost_usd": Decimal("0.12"), "runs_uri": (tmp_path / "runs").as_uri()}
    ends = []
    for number in range(5):
        place = LocalPlace(tmp_path / str(number))
        job = make_job(place, fields={"n": 2}, owner={"task_id": f"task-{number}"}, **terms)
        ends.append((await run(job)).status)
    assert (ends, server.posts) == (["success"] * 3 + ["failed"] * 2, 3)


def test_a_run_counts_a_hooks_purchase_in_a_truncated_answer(
    local: LocalPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(PARTIAL) as server, set_current_context(context_of(TaskInstance(task_id="script", map_index=None))):
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", server.connection_json(output_uri=local.uri))
        DeepshiHook().generate(boat(n=2, stream=True)).close()
    (entry,) = local.names()
    assert re.search(r"\.0\.01_0_1x[0-9a-f]{16}_0\.json$", entry)


async def test_a_run_counts_the_possible_cost_of_a_cancelled_task(
    serve: Serve, local: LocalPlace, tmp_path: Path
) -> None:
    """Its next try would count it too, but there may be none while other tasks go on."""
    server = serve(lambda number, _: WHOLE if number == 1 else Answer(body=b"", head=STREAM, hold=True))
    terms: dict[str, Any] = {"max_run_cost_usd": Decimal("0.1"), "runs_uri": (tmp_path / "runs").as_uri()}
    first = make_job(LocalPlace(tmp_path / "first"), fields={"n": 2}, owner={"task_id": "first"}, **terms)
    assert (await run(first)).status == "success"
    task = asyncio.create_task(run(make_job(local, fields={"n": 2}, **terms)))
    await until("the request", lambda: server.posts == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    last = await run(make_job(LocalPlace(tmp_path / "x"), fields={"n": 2}, owner={"task_id": "last"}, **terms))
    assert (last.status, server.posts) == ("failed", 2)
    assert last.error is not None
    assert "$0.04 and perhaps $0.04 more of max_run_cost_usd $0.1 are spent" in last.error["message"]


@pytest.mark.parametrize("answer", ZEROS.values(), ids=ZEROS)
def test_the_zero_of_an_unknown_outcome_is_no_price(serve: Serve, local: LocalPlace, answer: Answer) -> None:
    server = serve(lambda number, _: answer if number == 1 else WHOLE)
    operator = batch(local, rows_of(20), n=2, max_cost_usd="0.05", max_concurrency=8, max_resends=0)
    _, err = ended(operator)
    assert "$0.04 and perhaps $0.04 more of max_cost_usd $0.05 are spent" in str(err)
    assert server.posts == 2


@pytest.mark.parametrize("answer", ZEROS.values(), ids=ZEROS)
def test_a_hooks_unknown_outcome_is_in_its_sheet(
    local: LocalPlace, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    ti = TaskInstance(task_id="script", map_index=None)
    with answering(answer) as server, set_current_context(context_of(ti)):
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", server.connection_json(output_uri=local.uri))
        with pytest.raises(DeepshiError) as caught:
            DeepshiHook().generate(boat(n=2))
    assert (caught.value.charged, ti.sheets[-1].unknown_outcomes) == ("unknown", 1)
    (entry,) = local.names()
    assert not entry.startswith("_deepshi_prices"), "no price is learnt"
