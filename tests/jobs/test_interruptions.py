"""Cancellations, pauses and outages at the worst moment: after payment."""

from __future__ import annotations

import asyncio
import time

import pytest

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.jobs import run_job as run
from deepshi_provider.journal.entries import Claim, Owner, attempt_key
from deepshi_provider.journal.journal import Journal
from deepshi_provider.journal.lease import Lease, Times, Watch
from deepshi_provider.store.store import Store
from tests.services.s3_proxy import S3Proxy
from tests.support.counts import posts, taken
from tests.support.jobs import make_job
from tests.support.places import LocalPlace, S3Place, images, state
from tests.support.waiting import until

OWNER = Owner(dag_id="d", run_id="r", task_id="t")

LEASE = 20.0


@pytest.mark.s3
async def test_however_often_it_is_cancelled_a_paid_image_is_stored_first(
    emulator: Emulator, s3_place: S3Place, proxy: S3Proxy
) -> None:
    proxy.refuse = r"image-0\.png"
    running = asyncio.create_task(run(make_job(s3_place, output_conn_id=proxy.conn_id)))
    await until("the payment", lambda: taken(emulator) > 0)
    await until("a refused image", lambda: proxy.refused)
    for _ in range(3):
        running.cancel()
        await asyncio.sleep(0.1)
    assert not running.done()
    assert state(s3_place, "lease") != []
    proxy.refuse = None
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (images(s3_place), state(s3_place, "lease")) == (["image-0.png"], [])
    again = await run(make_job(s3_place, owner={"try_number": 2}))
    assert (again.reused, again.task_cost_usd, posts(emulator)) == (True, taken(emulator), 1)


@pytest.mark.s3
async def test_process_that_resumes_after_an_outage_keeps_its_successors_image(
    emulator: Emulator, s3_place: S3Place, proxy: S3Proxy
) -> None:
    proxy.refuse = r"image-0\.png"
    cut_off = asyncio.create_task(run(make_job(s3_place, output_conn_id=proxy.conn_id)))
    await until("a refused image", lambda: proxy.refused)
    proxy.refuse = "."  # its heartbeats fail too
    successor = await run(make_job(s3_place))
    assert (successor.status, successor.unknown_outcomes, posts(emulator)) == ("success", 1, 2)
    proxy.refuse = None
    stale = await cut_off
    assert stale.images == successor.images
    assert s3_place.read("image-0.png") == emulator.picture(emulator.requests()[1]["id"])
    assert [name.rsplit(".", 2)[1] for name in state(s3_place, "record")] == ["superseded", "stored"]
    assert stale.task_cost_usd == taken(emulator)


async def test_claim_whose_response_was_lost_still_belongs_to_the_process(local: LocalPlace) -> None:
    mine, other = (claim_of(lease_owner) for lease_owner in ("one", "other"))
    with Journal(Store(local.uri), "image") as journal:
        assert await journal.claim("image", 1, mine)
        assert await journal.claim("image", 1, mine)
        assert not await journal.claim("image", 1, other)


def claim_of(lease_owner: str, heartbeat: int = 0) -> Claim:
    return Claim(
        fingerprint="a" * 64, owner=OWNER, lease_owner=lease_owner, model="m", claimed_at=1, heartbeat=heartbeat
    )


def test_a_lease_owner_does_not_expire_because_this_process_stalled(local: LocalPlace) -> None:
    watch = Watch(Store(local.uri), Times(lease=LEASE))
    assert watch.is_fresh("owner", b"1", asked_at=0.0)
    assert watch.is_fresh("owner", b"1", asked_at=LEASE - 0.1)
    assert watch.is_fresh("owner", b"2", asked_at=3 * LEASE)
    assert not watch.is_fresh("owner", b"2", asked_at=4 * LEASE)


@pytest.mark.slow
async def test_only_attempts_that_a_pause_fell_into_keep_their_claims(local: LocalPlace) -> None:
    store = Store(local.uri)
    fingerprint, keys = "a" * 64, [attempt_key(name, 1, "a" * 64) for name in ("before", "after")]
    async with Lease(store, Times(lease=4, heartbeat=0.1)) as lease:
        journal = Journal(store, "before")
        await lease.start()
        with lease.attempt(keys[0]):
            assert await journal.claim("before", 1, claim_of(lease.owner))
            time.sleep(2.5)  # noqa: ASYNC251 -- as if the process were stopped
            await journal.withdraw("before", 1, fingerprint, lease)
        written = local.read(f"_deepshi/{lease.owner}.lease.json")
        await until("a heartbeat", lambda: local.read(f"_deepshi/{lease.owner}.lease.json") != written)
        with lease.attempt(keys[1]):
            assert await journal.claim("after", 1, claim_of(lease.owner))
            await journal.withdraw("after", 1, fingerprint, lease)
    assert state(local, "claim") == [f"_deepshi/{keys[0]}.claim.json"]


async def test_a_heartbeat_counts_only_for_claims_older_than_it(local: LocalPlace) -> None:
    """A newer claim may not be listed yet."""
    store = Store(local.uri)
    async with Lease(store, Times(heartbeat=0.2)) as lease:
        await lease.start()
        with lease.attempt("image.1.aaaaaaaaaaaaaaaa") as heartbeat:
            mine = claim_of(lease.owner, heartbeat)
            assert await Watch(store).is_at(mine, "image.1.aaaaaaaaaaaaaaaa")
        assert await Watch(store).is_at(mine, "image.1.aaaaaaaaaaaaaaaa"), "the heartbeat was written before the claim"
        written = local.read(f"_deepshi/{lease.owner}.lease.json")
        await until("the next heartbeat", lambda: local.read(f"_deepshi/{lease.owner}.lease.json") != written)
        assert not await Watch(store).is_at(mine, "image.1.aaaaaaaaaaaaaaaa")
    assert not await Watch(store).is_at(mine, "image.1.aaaaaaaaaaaaaaaa")
