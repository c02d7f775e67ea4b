"""Stores that break their guarantees: nothing is paid for twice, and no loop spins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
from airflow.sdk import ObjectStoragePath

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.hooks.jobs import run_job as run
from deepshi_provider.jobs.job import Job
from deepshi_provider.jobs.outcome import ImageOutcome
from tests.services.forks import last_line_of, start_module
from tests.services.s3_proxy import S3Proxy, connected
from tests.services.seaweedfs import S3Server
from tests.support.counts import posts, taken
from tests.support.jobs import make_job
from tests.support.places import S3Place, images, state
from tests.support.waiting import until

pytestmark = [pytest.mark.s3, pytest.mark.slow]


@pytest.fixture
def forgetful(proxy: S3Proxy) -> S3Proxy:
    """An S3 server that ignores ``If-None-Match``, like some implementations."""
    proxy.ignores_conditions = True
    return proxy


@pytest.fixture
def slow(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """The same server for another process, whose claims arrive only when the test releases them."""
    with connected(s3, monkeypatch) as proxy:
        proxy.ignores_conditions = True
        proxy.held = r"^PUT .*claim\.json(\?|$)"
        yield proxy


def test_the_proxy_ignores_the_condition(s3_place: S3Place, forgetful: S3Proxy) -> None:
    """Without this the other tests would prove nothing."""
    path = ObjectStoragePath(f"{s3_place.uri}/object", conn_id=forgetful.conn_id)
    for data in (b"first", b"second"):
        path.fs.pipe_file(path.path, data, mode="create")
    assert s3_place.read("object") == b"second"


async def test_of_two_triggers_one_sends_although_the_server_takes_both_claims(
    emulator: Emulator, s3_place: S3Place, forgetful: S3Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    emulator.settings(latency=1)
    jobs = [make_job(s3_place, output_conn_id=forgetful.conn_id, max_resends=0) for _ in range(2)]
    with caplog.at_level(logging.WARNING):
        first, second = await asyncio.gather(*map(run, jobs))
    assert first == second
    assert (first.status, first.unknown_outcomes, posts(emulator)) == ("success", 0, 1)
    assert first.task_cost_usd == taken(emulator) > 0
    assert (images(s3_place), len(state(s3_place, "record"))) == (["image-0.png"], 1)
    assert "ignores If-None-Match" in caplog.text


async def test_of_two_processes_one_sends_although_the_server_takes_both_claims(
    emulator: Emulator, s3_place: S3Place, forgetful: S3Proxy
) -> None:
    emulator.settings(latency=2)

    def carried_out(job: Job) -> ImageOutcome:
        return ImageOutcome.model_validate_json(
            last_line_of(start_module("tests.support.run_job", job.model_dump_json()))
        )

    jobs = [make_job(s3_place, output_conn_id=forgetful.conn_id, max_resends=0) for _ in range(2)]
    first, second = await asyncio.gather(*(asyncio.to_thread(carried_out, job) for job in jobs))
    assert [outcome.error for outcome in (first, second)] == [None, None]
    assert first == second
    assert (first.status, first.unknown_outcomes, posts(emulator)) == ("success", 0, 1)
    assert first.task_cost_usd == taken(emulator) > 0


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_claim_that_arrives_after_the_other_process_ended_sends_nothing(
    emulator: Emulator, s3_place: S3Place, forgetful: S3Proxy, slow: S3Proxy, is_lost: bool
) -> None:
    """The other lease has been deleted; its record exists, or its answer was lost and the outcome is unknown."""
    jobs = [make_job(s3_place, output_conn_id=proxy.conn_id, max_resends=0) for proxy in (slow, forgetful)]
    late = asyncio.create_task(run(jobs[0]))
    await until("the late claim", slow.held_requests)
    if is_lost:
        emulator.fault("cut")
    first = await run(jobs[1])
    slow.released.set()
    second = await late
    assert posts(emulator) == 1
    if is_lost:
        assert (first.status, second.status) == ("failed", "failed")
        assert second.error is not None
        assert (second.error["type"], second.unknown_outcomes) == ("ResendsExhausted", 1)
    else:
        assert (first.status, second.status) == ("success", "success")
        assert first.images == second.images


@pytest.mark.parametrize("max_resends", [0, 1])
async def test_a_late_claim_that_replaces_another_sends_nothing(
    emulator: Emulator, s3_place: S3Place, forgetful: S3Proxy, slow: S3Proxy, max_resends: int
) -> None:
    """It waits for the answer of the process whose claim it replaced, which does not count as dead."""

    def started(proxy: S3Proxy) -> asyncio.Task[ImageOutcome]:
        job = make_job(s3_place, output_conn_id=proxy.conn_id, max_resends=max_resends)
        return asyncio.create_task(run(job))

    emulator.settings(latency=4)
    late = started(slow)
    await until("the late claim", slow.held_requests)
    first = started(forgetful)
    await until("the request", lambda: posts(emulator) == 1)
    slow.released.set()
    third = started(forgetful)
    outcomes = await asyncio.gather(late, first, third)
    assert {outcome.status for outcome in outcomes} == {"success"}
    assert posts(emulator) == 1
    assert {outcome.task_cost_usd for outcome in outcomes} == {taken(emulator)}
    assert {outcome.unknown_outcomes for outcome in outcomes} == {0}


async def test_of_two_tasks_with_one_directory_one_is_refused_although_the_server_takes_both_slots(
    emulator: Emulator, s3_place: S3Place, forgetful: S3Proxy
) -> None:
    """Each would store a different picture."""
    jobs = [
        make_job(
            s3_place,
            output_conn_id=forgetful.conn_id,
            is_shared=True,
            owner={"task_id": f"boat-{n}"},
            fields={"prompt": f"boat {n}"},
        )
        for n in range(2)
    ]
    manifests = await asyncio.gather(*map(run, jobs))
    assert sorted(manifest.status for manifest in manifests) == ["failed", "success"]
    (refused,) = [manifest.error for manifest in manifests if manifest.error]
    assert refused["type"] == "InvalidRequest"
    assert posts(emulator) == 1


async def test_claim_that_can_be_neither_created_nor_found_is_an_error_after_a_few_tries(
    emulator: Emulator, s3_place: S3Place, proxy: S3Proxy
) -> None:
    emulator.fault("cut")
    await run(make_job(s3_place))
    (claim,) = state(s3_place, "claim")
    proxy.lists_nothing = True
    manifest = await run(make_job(s3_place, output_conn_id=proxy.conn_id, owner={"try_number": 2}))
    assert manifest.error is not None
    assert (manifest.error["type"], manifest.error["charged"], manifest.sends) == ("StorageFailed", "no", 0)
    assert "contradicts itself" in manifest.error["message"]
    assert f"{s3_place.uri}/{claim}" in manifest.error["message"]
    assert posts(emulator) == 1
    looks = [path for method, path in proxy.seen if method == "GET" and "list-type" in path]
    assert len(looks) < 12, "it waits longer each time"


async def test_two_slashes_are_refused_before_anything_reaches_the_store(
    emulator: Emulator, s3_place: S3Place, proxy: S3Proxy
) -> None:
    job = make_job(s3_place, output_conn_id=proxy.conn_id)
    with pytest.raises(InvalidRequest, match="empty part"):
        await run(job.model_copy(update={"output_uri": f"{s3_place.uri}//a"}))
    assert (proxy.seen, posts(emulator)) == ([], 0)
