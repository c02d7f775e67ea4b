"""Every paid request has a claim before it is sent; possibly paid requests are repeated only within a limit."""

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

#: Faults of a stream after which it is unknown whether an image was paid for.
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
#: Faults after which an unusable image was paid for.
SPOILT = ["not_an_image", "truncated_image", "broken_base64", "no_data"]


@pytest.fixture
def quick(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The emulator, with a connection that allows 1 s of silence and one retry."""
    extra = {"read_timeout": 1, "max_retries": 1, "max_retry_wait": 0.01}
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(**extra))
    return emulator


async def test_claim_exists_before_the_request_and_until_its_answer(quick: Emulator, place: Place) -> None:
    quick.fault("status", status=400, delay=0.7)
    job = make_job(place)
    running = asyncio.create_task(run(job))
    await until("the request", lambda: quick.stats()["in_flight"])
    (claim,), (lease,) = state(place, "claim"), state(place, "lease")
    fields = document(place, claim)
    assert fields["owner"] == job.owner.model_dump()
    assert fields["model"] == "deepshi-banana-pro"
    assert lease == f"_deepshi/{fields['lease_owner']}.lease.json"
    assert fields["fingerprint"][:16] in claim
    assert state(place, "record") == images(place) == []
    assert "red boat" not in str(fields), "prompts are the user's own"
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
    failure = error(manifest)
    assert (failure["type"], failure["status_code"], failure["charged"]) == (kind, status, "no")
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
async def test_request_with_lost_answer_is_not_sent_again_by_itself(
    quick: Emulator, local: Place, fault: str, params: dict[str, Any]
) -> None:
    quick.fault(fault, times=None, **params)
    manifest = await run(make_job(local, max_resends=0))
    failure = error(manifest)
    assert failure["charged"] == "unknown"
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
        failure = error(again)
        assert failure["type"] == "ResendsExhausted"
        assert f"{place.uri}/{claim}" in failure["message"]
        assert "sent 1 time(s) with unknown outcome" in failure["message"]
        assert (again.sends, again.unknown_outcomes, again.retry) == (0, 1, False)
    assert posts(quick) == 1
    assert state(place, "claim") == [claim]
    assert images(place) == []


async def test_deleting_the_claim_accepts_the_loss(quick: Emulator, place: Place) -> None:
    quick.fault("cut")
    await run(make_job(place, max_resends=0))
    place.delete(*state(place, "claim"))
    manifest = await run(make_job(place, max_resends=0, owner={"try_number": 2}))
    assert (manifest.status, manifest.unknown_outcomes, posts(quick)) == ("success", 0, 2)


async def test_max_resends_1_sends_once_more_and_reports_it(quick: Emulator, place: Place) -> None:
    quick.fault("silence")
    first = await run(make_job(place))
    assert (first.retry, first.unknown_outcomes) == (True, 1)
    second = await run(make_job(place, owner={"try_number": 2}))
    assert (second.status, second.sends, second.unknown_outcomes, second.reused) == ("success", 1, 1, False)
    assert posts(quick) == 2
    assert images(place) == ["image-0.png"]
    (record,) = state(place, "record")
    assert document(place, record)["unknown_outcomes"] == 1


async def test_max_resends_counts_over_tries_runs_and_tasks(quick: Emulator, local: Place) -> None:
    quick.fault("cut", times=None)
    owners: list[dict[str, Any]] = [{}, {"run_id": "tuesday"}, {"task_id": "other"}, {"try_number": 2}]
    manifests = [await run(make_job(local, owner=owner)) for owner in owners]
    assert [error(manifest)["type"] for manifest in manifests] == ["OutcomeUnknown"] * 2 + ["ResendsExhausted"] * 2
    assert [manifest.retry for manifest in manifests] == [True, False, False, False]
    assert posts(quick) == 2
    failure = error(manifests[-1])["message"]
    assert all(f"{local.uri}/{claim}" in failure for claim in state(local, "claim"))


async def test_max_resends_counts_each_request_separately(quick: Emulator, local: Place) -> None:
    quick.fault("cut")
    await run(make_job(local, max_resends=0))
    other = await run(make_job(local, max_resends=0, fields={"prompt": "a blue boat"}))
    assert (other.status, other.unknown_outcomes) == ("success", 0)


async def test_a_success_resets_the_count_of_resends(quick: Emulator, local: Place) -> None:
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
    failure = error(first)
    failed = (failure["type"], failure["charged"], Decimal(failure["cost_usd"]))
    assert failed == ("InvalidResponse", "yes", taken(quick))
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


async def test_nothing_is_sent_after_the_deadline(quick: Emulator, local: Place) -> None:
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


async def test_a_deadline_during_the_catalog_request_sends_nothing(quick: Emulator, local: Place) -> None:
    quick.fault("status", status=500, path="/v1/models", delay=0.8)
    manifest = await run(make_job(local, seconds=0.4, preflight="warn"))
    assert (error(manifest)["type"], posts(quick), manifest.unknown_outcomes) == ("TimedOut", 0, 0)
    assert local.names() == []
