"""Several processes, or one twice, carry out the same request: it is paid for once."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.batch_jobs import run_batch_job as run_batch
from deepshi_provider.hooks.jobs import run_job as run
from deepshi_provider.jobs.job import Job
from deepshi_provider.jobs.outcome import ImageOutcome
from deepshi_provider.journal.lease import Times
from tests.services.forks import Forked, last_line_of, start_module
from tests.services.s3_proxy import S3Proxy
from tests.support.counts import posts, taken
from tests.support.jobs import BOAT, make_batch, make_job
from tests.support.places import Place, S3Place, document, images, state
from tests.support.waiting import until

pytestmark = pytest.mark.slow

QUICK = Times(lease=2, heartbeat=0.5, poll=0.1)
#: Who waits with these is stopped by the test's time limit.
ENDLESS = Times(lease=3600, heartbeat=1, poll=3600)


def start(job: Job) -> Forked:
    """Start a process that carries out the job."""
    return start_module("tests.support.run_job", job.model_dump_json())


def manifest_of(process: Forked) -> ImageOutcome:
    return ImageOutcome.model_validate_json(last_line_of(process))


async def test_one_try_that_runs_twice_at_once_pays_once(emulator: Emulator, place: Place) -> None:
    """As two triggerers do when one of them missed a heartbeat."""
    emulator.settings(latency=0.6)
    first, second = await asyncio.gather(run(make_job(place)), run(make_job(place)))
    assert first == second
    assert (first.status, first.reused, first.sends, first.unknown_outcomes) == ("success", False, 1, 0)
    assert first.cost_usd == first.task_cost_usd == taken(emulator) > 0
    assert posts(emulator) == 1
    assert images(place) == ["image-0.png"]
    assert state(place, "lease") == []


async def test_of_many_tasks_at_once_one_pays_and_the_others_reuse(emulator: Emulator, local: Place) -> None:
    emulator.settings(latency=0.6)
    jobs = [make_job(local, owner={"run_id": f"run-{n}"}) for n in range(6)]
    manifests = await asyncio.gather(*(run(job) for job in jobs))
    assert sorted(manifest.reused for manifest in manifests) == [False] + [True] * 5
    assert {manifest.status for manifest in manifests} == {"success"}
    assert len({str(manifest.images) for manifest in manifests}) == 1
    assert posts(emulator) == 1
    assert sum(manifest.task_cost_usd or 0 for manifest in manifests) == taken(emulator)


async def test_different_requests_in_one_directory_do_not_wait_for_each_other(emulator: Emulator, local: Place) -> None:
    emulator.settings(latency=1.0)
    jobs = [make_job(local, fields={"prompt": f"boat {n}"}, owner={"task_id": f"task-{n}"}) for n in range(4)]
    manifests = await asyncio.gather(*(run(job) for job in jobs))
    assert {manifest.status for manifest in manifests} == {"success"}
    assert (posts(emulator), emulator.stats()["peak_in_flight"]) == (4, 4)


async def test_two_processes_at_once_pay_once(emulator: Emulator, place: Place) -> None:
    emulator.settings(latency=2)
    processes = [start(make_job(place)) for _ in range(2)]
    first, second = await asyncio.gather(*(asyncio.to_thread(manifest_of, process) for process in processes))
    assert first == second
    assert (first.status, first.reused, posts(emulator)) == ("success", False, 1)
    assert first.task_cost_usd == taken(emulator)
    assert images(place) == ["image-0.png"]


async def test_an_attempt_that_ends_between_two_looks_at_it_is_not_taken_for_lost(
    emulator: Emulator, s3_place: S3Place, proxy: S3Proxy
) -> None:
    """The second process has listed a claim without a record; before it reads the lease, both are done with."""
    emulator.settings(latency=2)
    first = asyncio.create_task(run(make_job(s3_place)))
    await until("the request", lambda: posts(emulator) == 1)
    proxy.held = r"^(GET|HEAD) .*lease\.json"
    second = asyncio.create_task(run(make_job(s3_place, output_conn_id=proxy.conn_id)))
    await until("a look at the lease", proxy.held_requests)
    bought = await first
    proxy.released.set()
    reused = await second
    assert (bought.status, reused.status, posts(emulator)) == ("success", "success", 1)
    assert reused.images == bought.images


async def test_the_end_of_another_requests_claim_does_not_let_two_processes_send(
    emulator: Emulator, s3_place: S3Place, proxy: S3Proxy
) -> None:
    """One process has seen the claim of another request in this directory, and the other one has not."""
    emulator.fault("cut", times=1)
    await run(make_job(s3_place, fields={"prompt": "another boat"}, owner={"task_id": "another"}))
    (other,) = state(s3_place, "claim")
    proxy.held = r"^PUT .*claim\.json"
    first = asyncio.create_task(run(make_job(s3_place, output_conn_id=proxy.conn_id)))
    await until("its claim", proxy.held_requests)
    s3_place.delete(other)
    bought = await run(make_job(s3_place))
    proxy.released.set()
    reused = await first
    assert (bought.status, reused.status, posts(emulator)) == ("success", "success", 2)
    assert reused.images == bought.images


async def test_who_waits_goes_on_when_the_other_was_refused(emulator: Emulator, local: Place) -> None:
    emulator.fault("status", status=402, delay=0.6)
    first, second = await asyncio.gather(
        run(make_job(local)),
        _second(emulator, make_job(local, owner={"run_id": "tuesday"})),
    )
    assert (first.status, second.status, second.unknown_outcomes) == ("failed", "success", 0)
    assert posts(emulator) == 2


async def _second(emulator: Emulator, job: Job) -> ImageOutcome:
    await until("the first request", lambda: posts(emulator) == 1)
    return await run(job, times=Times(poll=0.1))


async def test_waiting_for_another_process_ends_with_the_deadline(emulator: Emulator, local: Place) -> None:
    emulator.settings(latency=30)
    running = asyncio.create_task(run(make_job(local)))
    await until("the request", lambda: posts(emulator) == 1)
    (claim,) = state(local, "claim")
    late = await run(make_job(local, owner={"run_id": "tuesday"}, seconds=3))
    assert late.error is not None
    assert (late.error["type"], late.error["charged"], late.sends) == ("OutcomeUnknown", "unknown", 0)
    assert f"{local.uri}/{claim}" in late.error["message"]
    assert posts(emulator) == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_dead_process_is_waited_for_and_then_its_request_is_sent_once_more(
    emulator: Emulator, local: Place
) -> None:
    emulator.fault("silence")
    process = start(make_job(local))
    await until("the request", lambda: posts(emulator) == 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (lease,) = state(local, "lease")
    begun = time.monotonic()
    manifest = await run(make_job(local, owner={"try_number": 2}), times=QUICK)
    assert time.monotonic() - begun >= QUICK.lease, "until then the lease owner may still be alive"
    assert (manifest.status, manifest.unknown_outcomes, manifest.reused) == ("success", 1, False)
    assert posts(emulator) == 2
    assert images(local) == ["image-0.png"]
    assert state(local, "lease") == [lease], "only its own process removes it"


async def test_claim_whose_lease_owner_is_gone_is_not_waited_for(emulator: Emulator, place: Place) -> None:
    emulator.fault("cut")
    await run(make_job(place))
    manifest = await run(make_job(place, owner={"try_number": 2}), times=ENDLESS)
    assert (manifest.status, manifest.unknown_outcomes) == ("success", 1)


async def test_claim_that_cannot_be_read_counts_as_an_attempt(emulator: Emulator, local: Place) -> None:
    """A crash while the claim was written: the deadline ends the wait, and nothing is sent."""
    emulator.fault("cut")
    await run(make_job(local))
    (claim,) = state(local, "claim")
    local.write(claim, b'{"fingerpr')
    manifest = await run(make_job(local, owner={"try_number": 2}, seconds=3))
    assert manifest.error is not None
    assert (manifest.error["type"], manifest.unknown_outcomes, posts(emulator)) == ("OutcomeUnknown", 1, 1)


async def test_state_of_a_running_job_is_small_and_holds_no_secret(emulator: Emulator, local: Place) -> None:
    emulator.settings(latency=0.6)
    running = asyncio.create_task(run(make_job(local, fields={"prompt": "a secret boat"})))
    await until("the request", lambda: posts(emulator) == 1)
    names = local.names()
    assert names == sorted([*state(local, "claim"), *state(local, "lease")])
    stored = str([document(local, name) for name in names])
    assert emulator.api_key not in stored
    assert "secret boat" not in stored
    assert all(len(local.read(name)) < 1000 for name in names)
    await running


async def test_image_that_another_request_may_have_replaced_is_looked_at_whoever_was_first(
    emulator: Emulator, local: Place
) -> None:
    """The first to claim is the last to store, and its image happens to be as long as the other's."""
    emulator.fault("silence", times=1)
    slow = asyncio.create_task(run(make_job(local, seconds=4)))
    await until("the request", lambda: posts(emulator) == 1)
    blue = await run(make_job(local, fields={"prompt": "a blue boat"}, owner={"task_id": "blue"}))
    await slow
    assert [name.split(".")[1] for name in [*state(local, "claim"), *state(local, "record")]] == ["1", "1", "1"]
    (image,) = blue.images
    local.write("image-0.png", bytes(image.size_bytes))
    again = await run(make_job(local, fields={"prompt": "a blue boat"}, owner={"task_id": "blue", "try_number": 2}))
    assert (again.reused, again.sends, posts(emulator)) == (False, 1, 3)
    assert local.read("image-0.png") == emulator.picture(emulator.requests()[2]["id"])


async def test_living_process_that_has_lost_an_answer_is_not_waited_for(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeat lists its attempt under way: another row."""
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(max_retries=0))
    emulator.fault("cut")
    emulator.fault("silence")
    batch = make_batch(local, 2, max_resends=0, max_concurrency=1)
    with RowTable() as rows:
        rows.fill([("image", {**BOAT, "stream": True}), ("other", {**BOAT, "prompt": "another", "stream": True})])
        busy = asyncio.create_task(run_batch(batch, rows))
        await until("both requests", lambda: posts(emulator) == 2)
        manifest = await run(make_job(local, seconds=40))
        assert not busy.done()
        busy.cancel()
        with pytest.raises(asyncio.CancelledError):
            await busy
    assert (manifest.status, manifest.unknown_outcomes, posts(emulator)) == ("success", 1, 3)
