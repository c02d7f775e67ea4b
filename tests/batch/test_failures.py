"""Failed rows, stopped batches, and what they report."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from deepshi_provider.batch.manifest import EMPTY_LINE
from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import RowsFailed, StorageFailed
from deepshi_provider.hooks.batch_jobs import run_batch_job as run_batch
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.jobs.outcome import BatchOutcome
from deepshi_provider.journal.entries import Owner
from deepshi_provider.operators.images import DeepshiGenerateImagesOperator
from tests.services.s3_proxy import S3Proxy
from tests.support.answering import Answer, answering
from tests.support.batches import (
    PRICE,
    batch,
    cost_of,
    counts,
    deferred,
    ended,
    lines_of,
    manifests,
    result_of,
    rows_of,
    statuses,
)
from tests.support.bodies import event, picture, text_of
from tests.support.counts import posts, taken
from tests.support.loops import measured_callbacks
from tests.support.places import LocalPlace, Place, images, state
from tests.support.tasks import TaskInstance, context_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def test_failed_rows_are_named_once_all_others_are_done(emulator: Emulator, place: Place) -> None:
    for number in range(1, 8):
        emulator.fault("status", status=400, code="moderation_blocked", prompt=f"number {number}", times=None)
    ti, err = ended(batch(place, rows_of(10)))
    assert isinstance(err, AirflowFailException), "no retry can mend that"
    assert "7 of 10 rows failed (row-" in str(err)
    assert "and 2 more)" in str(err)
    assert manifests(place)[0] in str(err)
    assert statuses(lines_of(place)) == {"created": 3, "failed": 7}
    failed = lines_of(place)[1]
    assert failed == {
        **EMPTY_LINE,
        "key": "row-1",
        "status": "failed",
        "model": "deepshi-banana-pro",
        "prompt": "a boat with the number 1",
        "prompt_hash": failed["prompt_hash"],
        "size_asked": "64x48",
        "cost_usd": Decimal(0),
        "may_have_cost_usd": Decimal(0),
        "attempts": 0,
        "error": "moderation_blocked",
        "seconds": failed["seconds"],
    }
    assert ti.xcoms == {"cost_usd": float(3 * PRICE)}
    assert posts(emulator) == 10, "what can never work is tried once"
    assert [name for name in state(place, "claim") if "row-1." in name] == []


def test_a_temporary_failure_allows_a_retry(emulator: Emulator, local: Place) -> None:
    emulator.fault("status", status=500, prompt="number 1", times=None)
    emulator.fault("status", status=400, prompt="number 2", times=None)
    _, err = ended(batch(local, rows_of(4)), try_number=1)
    assert isinstance(err, RowsFailed), "which Airflow tries again"
    emulator.clear_faults()
    assert counts(result_of(batch(local, rows_of(4)), try_number=2)) == (4, 0, 0, 0)
    assert taken(emulator) == 4 * PRICE == cost_of(lines_of(local))


def test_partial_success_is_in_the_manifest(emulator: Emulator, place: Place) -> None:
    emulator.fault("status", status=400, prompt="number 1")
    value = result_of(batch(place, rows_of(3), on_error="partial"))
    assert counts(value) == (2, 0, 1, 0)
    assert [line["status"] for line in lines_of(place)] == ["created", "failed", "created"]
    assert posts(emulator) == 3


@pytest.mark.parametrize("on_error", ["fail", "partial"])
@pytest.mark.parametrize(
    ("max_failed", "succeeds"),
    [(1, False), (2, True), ("2", True), (0.09, False), (0.1, True), ("0.10", True), (0, False), ("0.0", False)],
)
def test_max_failed_limits_the_number_of_failed_rows(
    emulator: Emulator, local: Place, max_failed: Any, succeeds: bool, on_error: Any
) -> None:
    emulator.fault("status", status=400, prompt="number 1", times=2)  # of numbers 1 and 10 to 19
    ti, err = ended(batch(local, rows_of(20), max_failed=max_failed, on_error=on_error))
    assert isinstance(err, AirflowFailException) is not succeeds
    assert statuses(lines_of(local)) == {"created": 18, "failed": 2}, "all rows are done in any case"
    assert (posts(emulator), ti.xcoms["cost_usd"]) == (20, float(18 * PRICE))
    if succeeds:
        assert counts(ti.xcoms["return_value"]) == (18, 0, 2, 0)


def test_rows_that_were_not_started_do_not_count_as_allowed_failures(emulator: Emulator, local: Place) -> None:
    emulator.fault("status", status=402, code="insufficient_quota", times=None)
    _, err = ended(batch(local, rows_of(20), max_failed=20))
    assert isinstance(err, AirflowFailException)
    assert "rows were not started" in str(err)


@pytest.mark.parametrize(("status", "error"), [(401, "invalid_api_key"), (402, "insufficient_quota")])
def test_an_error_that_affects_all_rows_stops_the_batch(
    emulator: Emulator, local: Place, status: int, error: str
) -> None:
    emulator.fault("status", status=status, code=error, times=None)
    for on_error in ("fail", "partial"):
        emulator_posts = posts(emulator)
        ti, err = ended(batch(local, rows_of(300), max_concurrency=4, on_error=on_error))
        assert isinstance(err, AirflowFailException)
        assert "of 300 rows were not started. Manifest: " in str(err)
        assert f"[HTTP {status}, charged: no" in str(err)
        assert ti.xcoms == {"cost_usd": 0.0}
        assert posts(emulator) - emulator_posts <= 4
    found = statuses(lines_of(local))
    assert found["failed"] <= 4
    assert found["failed"] + found["skipped"] == 300
    assert {line["error"] for line in lines_of(local)} == {None, error}


def test_requests_with_lost_answers_are_repeated_within_max_resends(emulator: Emulator, place: Place) -> None:
    emulator.fault("cut", prompt="number 1")
    emulator.fault("cut", prompt="number 2", times=None)
    ti, err = ended(batch(place, rows_of(4), max_resends=2))
    lines = lines_of(place)
    assert [line["status"] for line in lines] == ["created", "created", "failed", "created"]
    assert lines[2]["charged"] == "unknown"
    assert posts(emulator) == 1 + 2 + 3 + 1
    assert isinstance(err, AirflowFailException), "max_resends allows no further one"
    assert ti.xcoms == {"cost_usd": float(3 * PRICE)} == {"cost_usd": float(cost_of(lines))}
    assert taken(emulator) == 7 * PRICE
    again = batch(place, rows_of(4), max_resends=2, on_error="partial")
    value = result_of(again, try_number=2)
    assert (counts(value), value["unknown_outcomes"], posts(emulator)) == ((3, 0, 1, 0), 4, 7)


def test_paid_answers_without_an_image_are_counted(emulator: Emulator, place: Place) -> None:
    emulator.fault("no_data", prompt="number 1")
    value = result_of(batch(place, rows_of(3)))
    lines = lines_of(place)
    assert cost_of(lines) == taken(emulator) == 4 * PRICE
    assert value["cost_usd"] == float(4 * PRICE)
    assert [line["cost_usd"] for line in lines] == [PRICE, 2 * PRICE, PRICE]
    again = result_of(batch(place, rows_of(3)), try_number=2)
    assert again["cost_usd"] == float(cost_of(lines_of(place))) == float(4 * PRICE)
    other = result_of(batch(place, rows_of(3)), run_id="tuesday")
    assert (counts(other), other["cost_usd"]) == ((0, 3, 0, 0), 0.0)


def test_a_store_that_takes_no_more_images_stops_the_batch(emulator: Emulator, s3_place: Place, proxy: S3Proxy) -> None:
    """Pictures in flight may be lost, but no other is bought."""
    proxy.refuse = r"-0\.png"
    job = job_of(s3_place, rows=50, output_conn_id=proxy.conn_id, max_concurrency=4)
    with RowTable() as rows:
        rows.fill((row["key"], fields_of(row)) for row in rows_of(50))
        summary = asyncio.run(run_batch(job, rows, patience=0.2))
    assert summary.error is not None
    assert (summary.error["type"], summary.retry) == ("StorageFailed", True)
    assert posts(emulator) == 4 == summary.failed
    assert summary.task_cost_usd == taken(emulator) == 4 * PRICE
    lines = lines_of(s3_place)
    assert cost_of(lines) == 4 * PRICE
    assert statuses(lines) == {"failed": 4, "skipped": 46}


def test_costs_are_reported_when_the_manifest_cannot_be_stored(
    emulator: Emulator, s3_place: Place, proxy: S3Proxy
) -> None:
    proxy.refuse = "manifest-"
    job = job_of(s3_place, rows=3, output_conn_id=proxy.conn_id)
    with RowTable() as rows:
        rows.fill((row["key"], fields_of(row)) for row in rows_of(3))
        summary = asyncio.run(run_batch(job, rows, patience=0.2))
    assert summary.error is not None
    assert (summary.error["type"], summary.retry, summary.created) == ("StorageFailed", True, 3)
    assert summary.task_cost_usd == 3 * PRICE == taken(emulator)


def test_a_lost_answer_counts_although_the_store_fails_before_the_next_attempt(
    emulator: Emulator, s3_place: Place, proxy: S3Proxy, thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(read_timeout=2))
    emulator.fault("silence")
    operator = batch(s3_place, rows_of(1), output_conn_id=proxy.conn_id, stream=True, retries=1)
    running = thread.submit(ended, operator)
    wait_until(lambda: emulator.stats()["in_flight"] == 1, timeout=60)
    proxy.no_listing = ""
    ti, err = running.result(timeout=120)
    assert isinstance(err, StorageFailed)
    sheet = ti.sheets[-1]
    assert (sheet.unknown_outcomes, sheet.cost_usd, sheet.may_have_cost_usd) == (1, Decimal(0), None)
    (line,) = lines_of(s3_place)
    assert (line["status"], line["error"], line["charged"]) == ("failed", "StorageFailed", "unknown")
    assert (posts(emulator), len(state(s3_place, "claim"))) == (1, 1)


def test_without_the_index_a_batch_succeeds(emulator: Emulator, s3_place: Place, proxy: S3Proxy) -> None:
    proxy.refuse = r"index\.jsonl"
    assert counts(result_of(batch(s3_place, rows_of(3), output_conn_id=proxy.conn_id))) == (3, 0, 0, 0)
    assert proxy.refused
    assert posts(emulator) == 3


def test_nothing_is_sent_to_a_store_that_cannot_be_written(emulator: Emulator, s3_place: Place, proxy: S3Proxy) -> None:
    proxy.refuse = "."
    ti, err = ended(batch(s3_place, rows_of(30), output_conn_id=proxy.conn_id, retries=1))
    assert isinstance(err, StorageFailed)
    assert (ti.xcoms, posts(emulator)) == ({"cost_usd": 0.0}, 0)


def rendered(operator: DeepshiGenerateImagesOperator) -> tuple[DeepshiGenerateImagesOperator, TaskInstance]:
    """An operator as the task runner has it, so that a test can kill it."""
    ti = TaskInstance(task_id=operator.task_id)
    copy = operator.prepare_for_execution()
    copy.render_template_fields(context_of(ti))
    return copy, ti


def test_a_killed_batch_leaves_claims_and_keeps_what_it_has(
    emulator: Emulator, place: Place, thread: ThreadPoolExecutor
) -> None:
    result_of(batch(place, rows_of(5)))
    emulator.settings(latency=30)
    operator, ti = rendered(batch(place, rows_of(20), max_concurrency=4))
    running: Future[Any] = thread.submit(operator.execute, context_of(ti))
    wait_until(lambda: emulator.stats()["in_flight"] == 4)
    operator.on_kill()
    with pytest.raises(AirflowException, match="was killed"):
        running.result(timeout=120)
    wait_until(lambda: emulator.stats()["disconnects"] == 4)
    assert ti.xcoms == {"cost_usd": float(5 * PRICE)}, "the costs of earlier tries are pushed in time"
    assert (len(state(place, "claim")), len(state(place, "record")), state(place, "lease")) == (9, 5, [])
    emulator.settings(latency=0)
    value = result_of(batch(place, rows_of(20), max_concurrency=4), try_number=2)
    assert (counts(value), value["unknown_outcomes"]) == ((20, 0, 0, 0), 4)
    assert posts(emulator) == 5 + 4 + 15
    assert value["cost_usd"] == float(20 * PRICE) == float(cost_of(lines_of(place)))


def test_a_batch_that_is_killed_before_it_begins_sends_nothing(emulator: Emulator, local: Place) -> None:
    operator, ti = rendered(batch(local, rows_of(5)))
    operator.on_kill()
    with pytest.raises(AirflowException, match="was killed"):
        operator.execute(context_of(ti))
    assert (ti.xcoms, posts(emulator)) == ({"cost_usd": 0.0}, 0), "there was no earlier try"


def test_a_try_that_cannot_start_reports_the_costs_of_earlier_ones(emulator: Emulator, place: Place) -> None:
    result_of(batch(place, rows_of(3)))
    ti, err = ended(batch(place, [{"prompt": ""}]), try_number=2)
    assert isinstance(err, AirflowFailException)
    assert ti.xcoms == {"cost_usd": float(3 * PRICE)}


@pytest.mark.parametrize("same_task", [True, False])
def test_two_batches_on_one_directory_buy_each_row_once(
    emulator: Emulator, place: Place, thread: ThreadPoolExecutor, same_task: bool
) -> None:
    """Two concurrent runs, or two triggerers with the same job."""
    emulator.settings(latency=[0, 0.1])
    runs = [
        thread.submit(result_of, batch(place, rows_of(40), max_concurrency=8), run_id=run_id)
        for run_id in ("monday", "monday" if same_task else "tuesday")
    ]
    values = [run.result(timeout=120) for run in runs]
    assert posts(emulator) == 40
    assert [value["created"] + value["reused"] for value in values] == [40, 40]
    if same_task:
        assert [value["cost_usd"] for value in values] == [float(40 * PRICE)] * 2
        assert float(cost_of(lines_of(place))) == float(40 * PRICE)
    else:
        assert sum(value["created"] for value in values) == 40
        assert round(sum(value["cost_usd"] for value in values), 12) == float(40 * PRICE)


def test_what_another_batch_bought_after_the_listing_is_not_bought_again(
    emulator: Emulator, place: Place, thread: ThreadPoolExecutor
) -> None:
    emulator.settings(latency=1)
    first = thread.submit(result_of, batch(place, [{"key": "x", "prompt": "shared"}]))
    wait_until(lambda: emulator.stats()["in_flight"] == 1)
    emulator.settings(latency=2)
    rows = [{"key": "w", "prompt": "slow"}, {"key": "x", "prompt": "shared"}]
    second = thread.submit(result_of, batch(place, rows, max_concurrency=1), run_id="tuesday")
    assert counts(first.result(timeout=120)) == (1, 0, 0, 0)
    assert counts(second.result(timeout=120)) == (1, 1, 0, 0), "its claim was seen, and its end was not"
    assert posts(emulator) == 2


def test_an_old_listing_is_refreshed_before_a_claim(
    emulator: Emulator, local: Place, thread: ThreadPoolExecutor
) -> None:
    """Slow: the first row takes longer than a listing stays valid."""
    emulator.fault("status", status=400, delay=12)
    both = thread.submit(ended, batch(local, rows_of(2), max_concurrency=1))
    wait_until(lambda: posts(emulator) == 1)
    result_of(batch(local, rows_of(2)[1:]), run_id="tuesday")
    both.result(timeout=120)
    assert posts(emulator) == 2, "the second row was bought in the meantime"
    assert len(state(local, "record")) == 1


def test_a_batch_has_one_lease_which_ends_with_it(emulator: Emulator, place: Place) -> None:
    """Another triggerer must neither think a running batch dead nor a finished one alive."""
    emulator.settings(latency=0.2)
    seen: list[int] = []

    async def scenario() -> set[str]:
        job = job_of(place, rows=20, max_concurrency=10)
        with RowTable() as rows:
            rows.fill((row["key"], fields_of(row)) for row in rows_of(20))
            running = asyncio.create_task(run_batch(job, rows))
            while not running.done():
                seen.append(len([t for t in asyncio.all_tasks() if t.get_name().startswith("deepshi-lease")]))
                await asyncio.sleep(0.01)
        return {task.get_name() for task in asyncio.all_tasks()} - {"Task-1", asyncio.current_task().get_name()}  # type: ignore[union-attr] # in a task

    left = asyncio.run(scenario())
    assert max(seen) == 1
    assert not [name for name in left if "lease" in name]
    assert state(place, "lease") == []


def fields_of(row: dict[str, Any]) -> dict[str, Any]:
    return {"model": "deepshi-banana-pro", "prompt": row["prompt"], "width": 64, "height": 48, "stream": True}


def job_of(place: Place, **more: Any) -> BatchJob:
    fields: dict[str, Any] = {
        "owner": Owner(dag_id="shop", run_id="monday", task_id="catalog"),
        "output_uri": place.uri,
        "output_conn_id": place.conn_id,
        "deepshi_conn_id": "deepshi_default",
        "preflight": "off",
        "generation_timeout": 60,
        "max_concurrency": 8,
    }
    return BatchJob(**{**fields, **more})


def test_a_deferred_batch_has_the_same_results(
    emulator: Emulator, place: Place, new_place: Callable[[str], Place]
) -> None:
    other = new_place("file")
    blocking, _ = ended(batch(other, rows_of(12), max_concurrency=4))
    waiting, _ = deferred(batch(place, rows_of(12), max_concurrency=4, deferrable=True))
    theirs = json.loads(json.dumps(blocking.xcoms).replace(other.uri, place.uri))
    assert waiting.xcoms == theirs
    assert posts(emulator) == 24
    assert images(place) == images(other)
    variable = ("seconds", "sha256", "size_bytes", "uri", "uris")
    ours, others = (
        [{name: value for name, value in line.items() if name not in variable} for line in lines]
        for lines in (lines_of(place), lines_of(other))
    )
    assert ours == others


def test_a_deferred_batch_fails_as_a_blocking_one(emulator: Emulator, local: Place, tmp_path: Any) -> None:
    emulator.fault("status", status=400, times=None, message="no " * 2000)
    other = LocalPlace(tmp_path / "other")
    rows = rows_of(30)
    blocking, error = ended(batch(other, rows, max_concurrency=1))
    waiting, payload = deferred(batch(local, rows, max_concurrency=1, deferrable=True))
    assert str(waiting.xcoms.pop("error")).replace(local.uri, other.uri)[:300] == str(error)[:300]
    assert waiting.xcoms == blocking.xcoms == {"cost_usd": 0.0}
    assert payload["failed"] == 30


def test_a_restarted_deferred_batch_buys_nothing_again(emulator: Emulator, local: Place) -> None:
    """As after the loss of a triggerer: ``run()`` starts again in the same try."""
    operator = batch(local, rows_of(6), deferrable=True)
    first, _ = deferred(operator)
    second, _ = deferred(operator)
    assert first.xcoms == second.xcoms
    assert posts(emulator) == 6


def test_a_batch_does_not_block_the_loop(emulator: Emulator, local: Place) -> None:
    """A triggerer warns after 0.2 s of blocking, and loses all triggers after 30 s."""
    result_of(batch(local, rows_of(600), max_concurrency=50))

    async def scenario() -> BatchOutcome:
        with RowTable() as rows:
            rows.fill((row["key"], fields_of(row)) for row in rows_of(600))
            return await run_batch(job_of(local, rows=600), rows)

    with measured_callbacks() as callbacks:
        assert asyncio.run(scenario()).created == 600
    assert callbacks.longest < callbacks.total / 10, "none works on a large part of the rows"
    assert threading.active_count() < 60


@pytest.mark.parametrize(("is_sent", "charged"), [(False, "no"), (True, "unknown")])
def test_an_unexpected_error_fails_only_its_row(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch, is_sent: bool, charged: str
) -> None:
    send = httpx.AsyncClient.send

    async def failing(client: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        if b"number 1" not in request.content:
            return await send(client, request, **options)
        if is_sent:
            await (await send(client, request, **options)).aclose()
        raise RuntimeError("of a library")

    monkeypatch.setattr(httpx.AsyncClient, "send", failing)
    ti, err = ended(batch(local, rows_of(4), max_resends=0))
    assert isinstance(err, RowsFailed | AirflowFailException)
    assert statuses(lines_of(local)) == {"created": 3, "failed": 1}
    assert [line["charged"] for line in lines_of(local)] == ["yes", charged, "yes", "yes"]
    assert (ti.xcoms["cost_usd"], ti.sheets[-1].unknown_outcomes) == (float(3 * PRICE), int(is_sent))
    assert (posts(emulator), len(state(local, "claim"))) == (3 + is_sent, 3 + is_sent)


def test_row_refused_after_previews_is_not_sent_again(local: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The previews may have been paid for, and so might each repeated refusal."""
    preview = event({"b64_json": text_of(picture())}, "image_generation.partial_image")
    answer = Answer(body=preview + event({"error": {"message": "m", "code": "moderation_blocked"}}, "error"))
    with answering(answer) as server:
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", server.connection_json())
        ti, err = ended(batch(local, rows_of(1), max_resends=2))
    assert isinstance(err, AirflowFailException)
    assert (server.posts, len(state(local, "claim"))) == (1, 1)
    assert (ti.sheets[-1].cost_usd, ti.sheets[-1].unknown_outcomes) == (Decimal(0), 1)


def test_a_rate_limit_at_the_end_of_a_stream_does_not_stop_other_rows(
    local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a preview it concerns only that answer, and must not be retried: the preview may have been paid for."""
    preview = event({"b64_json": text_of(picture())}, "image_generation.partial_image")
    limited = Answer(body=preview + event({"error": {"message": "m", "code": "rate_limit_exceeded"}}, "error"))
    good = Answer(body=event({"b64_json": text_of(picture()), "usage": {"cost": "0.25"}}))

    def choose(_: int, request: bytes) -> Answer:
        return limited if b"number 0" in request else good

    with answering(choose) as server:
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", server.connection_json())
        ti, err = ended(batch(local, rows_of(12), max_resends=0, max_concurrency=2))
    assert isinstance(err, RowsFailed | AirflowFailException)
    assert (server.posts, statuses(lines_of(local))) == (12, {"created": 11, "failed": 1})
    sheet = ti.sheets[-1]
    assert (str(sheet.cost_usd), sheet.unknown_outcomes, str(sheet.may_have_cost_usd)) == ("2.75", 1, "0.25")
