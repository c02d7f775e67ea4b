"""Every paid request leaves a trace before it is sent, and what may have been paid for is not sent without limit."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.jobs import run_job as run
from tests.support.counts import error, posts, taken
from tests.support.jobs import make_job
from tests.support.places import Place, document, images, state
from tests.support.waiting import until

pytestmark = pytest.mark.slow

#: Faults after which nobody knows whether an image was paid for. Sent by a stream.
LOST: list[tuple[str, dict[str, Any]]] = [
    ("silence", {}),
    ("cut", {"at": "headers"}),
    ("cut", {"at": "headers", "reset": True}),
    ("cut", {"at": "body"}),
    ("no_terminal", {}),
    ("status", {"status": 504, "charged": True}),
    ("status", {"status": 524, "body": "html"}),
    ("error_event", {"charged": True}),
]
#: Faults after which an image was paid for that is none.
SPOILT = ["not_an_image", "truncated_image", "broken_base64", "no_data"]


@pytest.fixture
def quick(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The emulator behind a connection that does not wait long: 1 s of silence, one retry."""
    extra = {"read_timeout": 1, "max_retries": 1, "max_retry_wait": 0.01}
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(**extra))
    return emulator


async def test_claim_is_there_before_the_request_and_stays_until_its_answer(quick: Emulator, place: Place) -> None:
    quick.fault("status", status=400, delay=0.7)
    job = make_job(place)
    running = asyncio.create_task(run(job))
    await until("the request", lambda: quick.stats()["in_flight"])
    (claim,), (lease,) = state(place, "claim"), state(place, "lease")
    said = document(place, claim)
    assert said["owner"] == job.owner.model_dump()
    assert said["model"] == "deepshi-banana-pro"
    assert lease == f"_deepshi/{said['lease_owner']}.lease.json"
    assert said["fingerprint"][:16] in claim
    assert state(place, "record") == images(place) == []
    assert "red boat" not in str(said), "prompts are the user's own"
    await running
    assert state(place, "claim") == state(place, "lease") == []


@pytest.mark.parametrize(
    ("status", "kind", "sends", "retry"),
    [
        (400, "InvalidRequest", 1, False),
        (401, "AuthenticationFailed", 1, False),
        (402, "InsufficientQuota", 1, False),
        (403, "PermissionDenied", 1, False),
        (429, "RateLimited", 2, True),
        (500, "ServerFailed", 2, True),
        (503, "ServerFailed", 2, True),
    ],
)
async def test_refused_request_leaves_no_trace(
    quick: Emulator, local: Place, status: int, kind: str, sends: int, retry: bool
) -> None:
    quick.fault("status", status=status, times=None)
    manifest = await run(make_job(local, max_resends=0))
    said = error(manifest)
    assert (said["type"], said["status_code"], said["charged"]) == (kind, status, "no")
    assert (manifest.sends, posts(quick), manifest.retry) == (sends, sends, retry)
    assert manifest.task_cost_usd == taken(quick) == manifest.unknown_outcomes == 0
    assert local.names() == []


@pytest.mark.s3
async def test_refused_request_leaves_no_trace_on_s3(quick: Emulator, s3_place: Place) -> None:
    quick.fault("status", status=503, times=None)
    assert (await run(make_job(s3_place))).sends == 2
    assert s3_place.names() == []


async def test_refusals_before_a_success_are_counted_as_sends(quick: Emulator, local: Place) -> None:
    quick.fault("status", status=429, retry_after=0)
    manifest = await run(make_job(local))
    assert (manifest.status, manifest.sends, posts(quick)) == ("success", 2, 2)
    assert manifest.cost_usd == manifest.task_cost_usd == taken(quick)
    assert len(state(local, "claim")) == len(state(local, "record")) == 1


@pytest.mark.parametrize(("fault", "params"), LOST, ids=lambda value: str(value))
async def test_lost_answer_is_not_sent_again_by_itself(
    quick: Emulator, local: Place, fault: str, params: dict[str, Any]
) -> None:
    quick.fault(fault, times=None, **params)
    manifest = await run(make_job(local, max_resends=0))
    said = error(manifest)
    assert said["charged"] == "unknown"
    assert (manifest.sends, posts(quick), manifest.unknown_outcomes, manifest.retry) == (1, 1, 1, False)
    assert len(state(local, "claim")) == 1
    assert state(local, "record") == images(local) == state(local, "lease") == []


@pytest.mark.parametrize("fault", ["silence", "cut"])
async def test_max_resends_0_never_pays_twice(quick: Emulator, place: Place, fault: str) -> None:
    quick.fault(fault)
    await run(make_job(place, max_resends=0))
    (claim,) = state(place, "claim")
    for try_number in (2, 3):
        again = await run(make_job(place, max_resends=0, owner={"try_number": try_number}))
        said = error(again)
        assert said["type"] == "ResendsExhausted"
        assert f"{place.uri}/{claim}" in said["message"]
        assert "sent 1 time(s) with unknown outcome" in said["message"]
        assert (again.sends, again.unknown_outcomes, again.retry) == (0, 1, False)
    assert posts(quick) == 1
    assert state(place, "claim") == [claim]
    assert images(place) == []


async def test_deleting_the_claim_says_that_the_loss_is_accepted(quick: Emulator, place: Place) -> None:
    quick.fault("cut")
    await run(make_job(place, max_resends=0))
    place.delete(*state(place, "claim"))
    manifest = await run(make_job(place, max_resends=0, owner={"try_number": 2}))
    assert (manifest.status, manifest.unknown_outcomes, posts(quick)) == ("success", 0, 2)


async def test_max_resends_1_sends_once_more_and_says_so(quick: Emulator, place: Place) -> None:
    quick.fault("silence")
    first = await run(make_job(place))
    assert (first.retry, first.unknown_outcomes) == (True, 1)
    second = await run(make_job(place, owner={"try_number": 2}))
    assert (second.status, second.sends, second.unknown_outcomes, second.reused) == ("success", 1, 1, False)
    assert posts(quick) == 2
    assert images(place) == ["image-0.png"]
    (record,) = state(place, "record")
    assert document(place, record)["unknown_outcomes"] == 1


async def test_bound_holds_over_tries_runs_and_tasks(quick: Emulator, local: Place) -> None:
    quick.fault("cut", times=None)
    owners: list[dict[str, Any]] = [{}, {"run_id": "tuesday"}, {"task_id": "other"}, {"try_number": 2}]
    manifests = [await run(make_job(local, owner=owner)) for owner in owners]
    assert [error(manifest)["type"] for manifest in manifests] == ["OutcomeUnknown"] * 2 + ["ResendsExhausted"] * 2
    assert [manifest.retry for manifest in manifests] == [True, False, False, False]
    assert posts(quick) == 2
    said = error(manifests[-1])["message"]
    assert all(f"{local.uri}/{claim}" in said for claim in state(local, "claim"))


async def test_bound_is_for_one_request_and_not_for_its_neighbours(quick: Emulator, local: Place) -> None:
    quick.fault("cut")
    await run(make_job(local, max_resends=0))
    other = await run(make_job(local, max_resends=0, fields={"prompt": "a blue boat"}))
    assert (other.status, other.unknown_outcomes) == ("success", 0)


async def test_a_success_ends_the_exposure(quick: Emulator, local: Place) -> None:
    quick.fault("cut")
    await run(make_job(local))
    assert (await run(make_job(local, owner={"try_number": 2}))).status == "success"
    anew = await run(make_job(local, owner={"try_number": 3}, reuse=False, max_resends=0))
    assert (anew.status, anew.unknown_outcomes, posts(quick)) == ("success", 0, 3)


@pytest.mark.parametrize("fault", SPOILT)
async def test_unusable_image_is_not_published_and_its_cost_is_recorded(
    quick: Emulator, place: Place, fault: str
) -> None:
    quick.fault(fault)
    first = await run(make_job(place))
    said = error(first)
    assert (said["type"], said["charged"], Decimal(said["cost_usd"])) == ("InvalidResponse", "yes", taken(quick))
    assert first.cost_usd == first.task_cost_usd == taken(quick) > 0
    assert (first.retry, first.unknown_outcomes, posts(quick)) == (True, 0, 1)
    assert images(place) == []
    (record,) = state(place, "record")
    assert Decimal(document(place, record)["cost_usd"]) == taken(quick)
    second = await run(make_job(place, owner={"try_number": 2}))
    assert (second.status, second.unknown_outcomes, posts(quick)) == ("success", 0, 2)
    assert second.task_cost_usd == taken(quick)
    assert second.cost_usd == taken(quick) / 2


async def test_unusable_images_are_not_bought_without_limit(quick: Emulator, local: Place) -> None:
    quick.fault("not_an_image", times=None)
    tries = [await run(make_job(local, owner={"try_number": n})) for n in (1, 2, 3)]
    assert [error(manifest)["type"] for manifest in tries] == ["InvalidResponse"] * 2 + ["ResendsExhausted"]
    assert [manifest.retry for manifest in tries] == [True, False, False]
    assert "2 time(s) paid for without a usable image" in error(tries[-1])["message"]
    assert posts(quick) == 2
    assert tries[-1].task_cost_usd == taken(quick)


async def test_time_that_is_over_sends_nothing(quick: Emulator, local: Place) -> None:
    manifest = await run(make_job(local, seconds=-1))
    assert (error(manifest)["type"], error(manifest)["charged"], posts(quick)) == ("TimedOut", "no", 0)
    assert local.names() == []


async def test_deadline_ends_a_generation_that_takes_too_long(quick: Emulator, local: Place) -> None:
    quick.settings(latency=30, keepalive=0.1)
    manifest = await run(make_job(local, seconds=3))
    assert error(manifest)["type"] == "OutcomeUnknown"
    assert "generation_timeout" in error(manifest)["message"]
    assert (posts(quick), len(state(local, "claim"))) == (1, 1)
    await until("the end of the connection", lambda: quick.stats()["disconnects"] == 1)


async def test_time_that_ends_while_the_catalog_is_asked_sends_nothing(quick: Emulator, local: Place) -> None:
    quick.fault("status", status=500, path="/v1/models", delay=0.8)
    manifest = await run(make_job(local, seconds=0.4, preflight="warn"))
    assert (error(manifest)["type"], posts(quick), manifest.unknown_outcomes) == ("TimedOut", 0, 0)
    assert local.names() == []
