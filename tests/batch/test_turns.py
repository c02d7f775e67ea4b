"""Several processes run the same batch at once: its limits hold for all of them together."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import StorageFailed
from deepshi_provider.hooks.batch_jobs import run_batch_job
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.jobs.outcome import BatchOutcome
from deepshi_provider.journal.lease import Lease, Times, Watch
from deepshi_provider.journal.turn import Turn
from deepshi_provider.store.store import Store
from tests.services.forks import Forked, last_line_of, start_module
from tests.services.s3_proxy import S3Proxy
from tests.support.batches import BANANA
from tests.support.counts import posts, taken
from tests.support.jobs import make_batch
from tests.support.places import LocalPlace, Place, S3Place, state
from tests.support.waiting import until

pytestmark = pytest.mark.slow

QUICK = Times(lease=3, heartbeat=0.5, poll=0.1)
ROWS = [(f"row-{n}", {**BANANA, "prompt": f"boat {n}", "stream": True}) for n in range(40)]
#: What 25 pictures cost; the limits below allow no 26th.
MOST = Decimal("0.975")


def job_in(place: Place, **more: Any) -> BatchJob:
    return make_batch(place, len(ROWS), **{"max_cost_usd": Decimal("1.00"), "start_over_budget": True, **more})


async def run(job: BatchJob) -> BatchOutcome:
    with RowTable() as rows:
        rows.fill(ROWS)
        return await run_batch_job(job, rows, times=QUICK)


@contextmanager
def started(job: BatchJob) -> Iterator[Forked]:
    given = {"job": job.model_dump(mode="json"), "rows": ROWS, "times": QUICK._asdict()}
    with start_module("tests.support.run_batch", json.dumps(given)) as process:
        try:
            yield process
        finally:
            process.kill()


async def paused(process: Forked, emulator: Emulator) -> int:
    """Pause a process after some pictures; return the number of requests when the last one is answered."""
    await until("some pictures", lambda: emulator.stats()["images"] >= 4)
    process.send_signal(signal.SIGSTOP)
    await until("the last answer", lambda: emulator.stats()["in_flight"] == 0)
    return posts(emulator)


async def outcome_of(process: Forked) -> BatchOutcome:
    return BatchOutcome.model_validate_json(await asyncio.to_thread(last_line_of, process))


def runs_in(path: Path) -> dict[str, Any]:
    """Return the fields of a job whose run has the limit."""
    return {"max_cost_usd": None, "max_run_cost_usd": Decimal("1.00"), "runs_uri": path.as_uri()}


@pytest.mark.parametrize("limited", ["task", "run"])
async def test_one_batch_that_runs_twice_at_once_keeps_its_limit(
    emulator: Emulator, place: Place, tmp_path: Path, limited: str
) -> None:
    emulator.settings(latency=[0.05, 0.2])
    job = job_in(place, **(runs_in(tmp_path) if limited == "run" else {}))
    outcomes = await asyncio.gather(run(job), run(job), run(job))
    assert taken(emulator) == MOST
    assert {outcome.created for outcome in outcomes} == {25}
    assert {outcome.skipped for outcome in outcomes} == {15}
    assert {outcome.costs.cost_usd for outcome in outcomes if outcome.costs} == {MOST}
    assert (state(place, "lease"), len(state(place, "turn"))) == ([], 1)


async def test_without_a_limit_two_processes_work_at_once(emulator: Emulator, local: Place) -> None:
    """Claims keep them from buying the same row."""
    emulator.settings(latency=0.2)
    job = job_in(local, max_cost_usd=None)
    first = asyncio.create_task(run(job))
    await until("the first pictures", lambda: emulator.stats()["images"] >= 4)
    second = asyncio.create_task(run(job))
    while not second.done():
        assert state(local, "turn") == []
        await asyncio.sleep(0.02)
    assert ((await first).created, (await second).created, posts(emulator)) == (40, 40, 40)


async def test_the_turn_of_a_killed_process_is_taken_over(emulator: Emulator, local: Place) -> None:
    emulator.settings(latency=0.2)
    with started(job_in(local)) as process:
        await until("some pictures", lambda: emulator.stats()["images"] >= 8)
        process.kill()
        process.wait()
    await until("the last answer", lambda: emulator.stats()["in_flight"] == 0)
    assert len(state(local, "turn")) == 1
    outcome = await run(job_in(local, owner={"try_number": 2}))
    assert outcome.costs is not None
    assert outcome.costs.cost_usd is not None
    assert outcome.costs.may_have_cost_usd is not None
    assert taken(emulator) <= outcome.costs.cost_usd + outcome.costs.may_have_cost_usd <= Decimal("1.00")
    assert outcome.error is not None
    assert outcome.error["type"] == "BudgetExceeded"
    assert len(state(local, "turn")) == 1


async def test_a_turn_that_cannot_be_read_is_of_a_process_that_may_be_alive(
    emulator: Emulator, local: LocalPlace
) -> None:
    """Some file systems show a file before it has its content."""
    job = job_in(local)
    path = local.path / "_deepshi" / f"{job.owner.task_key}.1.turn.json"
    path.parent.mkdir(parents=True)
    path.touch()
    begun = time.monotonic()
    outcome = await run(job)
    assert time.monotonic() - begun >= QUICK.lease
    assert (outcome.created, taken(emulator)) == (25, MOST)


async def test_a_process_that_was_paused_waits_for_its_successor_and_counts_what_it_spent(
    emulator: Emulator, local: Place
) -> None:
    emulator.settings(latency=0.2)
    with started(job_in(local)) as process:
        sent = await paused(process, emulator)
        second = asyncio.create_task(run(job_in(local)))
        await until("the successor's pictures", lambda: emulator.stats()["images"] >= sent + 4)
        process.send_signal(signal.SIGCONT)
        first = await outcome_of(process)
        await second
    assert taken(emulator) <= Decimal("1.00")
    assert first.error is not None
    assert first.error["type"] == "BudgetExceeded"
    assert len(state(local, "turn")) == 1


async def test_a_process_that_was_paused_counts_what_its_killed_successor_had_under_way(
    emulator: Emulator, local: Place
) -> None:
    """Its own rows wait for the turn at that moment, without claims."""
    emulator.settings(latency=0.5)
    with started(job_in(local)) as process:
        sent = await paused(process, emulator)
        with started(job_in(local)) as successor:
            await until("the successor's pictures", lambda: emulator.stats()["images"] >= sent + 4)
            await until("the next requests", lambda: emulator.stats()["in_flight"] == 4)
            successor.kill()
            successor.wait()
        process.send_signal(signal.SIGCONT)
        outcome = await outcome_of(process)
    assert outcome.costs is not None
    assert outcome.costs.cost_usd is not None
    assert outcome.costs.may_have_cost_usd is not None
    assert outcome.unknown_outcomes >= 1
    assert taken(emulator) <= outcome.costs.cost_usd + outcome.costs.may_have_cost_usd <= Decimal("1.00")


async def test_requests_of_a_process_that_was_paused_count_once_in_its_next_turn(
    emulator: Emulator, local: Place
) -> None:
    emulator.settings(latency=[0.2, 0.6])
    with started(job_in(local)) as process:
        await until("some pictures", lambda: emulator.stats()["images"] >= 4)
        emulator.settings(latency=20)
        sent = posts(emulator)
        await until("a slow request", lambda: posts(emulator) > sent)
        process.send_signal(signal.SIGSTOP)
        emulator.settings(latency=0.2)
        with started(job_in(local)) as successor:
            await until("the successor's pictures", lambda: emulator.stats()["images"] >= sent + 4)
            successor.kill()
            successor.wait()
        process.send_signal(signal.SIGCONT)
        outcome = await outcome_of(process)
    assert outcome.costs is not None
    assert outcome.costs.cost_usd is not None
    assert outcome.costs.may_have_cost_usd is not None
    assert outcome.costs.cost_usd + outcome.costs.may_have_cost_usd == MOST
    assert taken(emulator) <= MOST


async def test_a_recount_that_failed_is_made_by_the_next_call(local: LocalPlace) -> None:
    store = Store(local.uri)
    calls: list[int] = []

    async def recount() -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            raise StorageFailed("The store is gone")

    async with Lease(store) as lease, Turn(store, "a" * 16, lease, Watch(store), QUICK) as turn:
        with pytest.raises(StorageFailed):
            await turn.take(recount)
        assert [await turn.take(recount), await turn.take(recount)] == [True, False]
    assert calls == [0, 1]


@pytest.mark.s3
async def test_turns_hold_on_a_store_that_creates_an_object_twice(
    emulator: Emulator, s3_place: S3Place, proxy: S3Proxy
) -> None:
    proxy.ignores_conditions = True
    job = job_in(s3_place, output_conn_id=proxy.conn_id, max_concurrency=16)
    first, second = await asyncio.gather(run(job), run(job))
    assert taken(emulator) == MOST
    assert (first.created, second.created) == (25, 25)
