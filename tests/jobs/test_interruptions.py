"""Cancellations, pauses and outages at the worst moment: after payment."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import SecretStr

from deepshi_provider.client.client import Client
from deepshi_provider.client.settings import Settings
from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.directories import STORES
from deepshi_provider.hooks.jobs import run_job as run
from deepshi_provider.jobs.run import run_single
from deepshi_provider.journal.entries import Claim, Owner, attempt_key
from deepshi_provider.journal.journal import Journal
from deepshi_provider.journal.lease import Lease, Times, Watch
from deepshi_provider.store.store import PATIENCE, Store
from deepshi_provider.store.stores import Stores
from tests.services.s3_proxy import S3Proxy
from tests.support import bodies
from tests.support.answering import Answer, answering
from tests.support.counts import posts, taken
from tests.support.jobs import make_job
from tests.support.places import LocalPlace, S3Place, images, state
from tests.support.servers import KEY
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


class CancellingStores(Stores):
    """Stores that cancel the running task, as soon as it yields, when the file for an image is opened.

    :param image: the image, from 1.
    :param breaks: this directory is lost at the same time; the stores do not wait for it.
    """

    def __new__(cls, image: int, breaks: Path | None = None) -> CancellingStores:
        return super().__new__(cls)

    def __init__(self, image: int, breaks: Path | None = None) -> None:
        self._left = image
        self._breaks = breaks

    def at(self, uri: str, conn_id: str | None = None, *, patience: float = PATIENCE) -> Store:
        store = super().at(uri, conn_id, patience=0 if self._breaks else patience)
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task

        def open_file() -> None:
            self._left -= 1
            if self._left == 0:
                loop.call_soon(task.cancel)
                if self._breaks:
                    shutil.rmtree(self._breaks)
                    self._breaks.write_bytes(b"not a directory")

        async def files() -> Callable[[], None]:
            return open_file

        vars(store)["files"] = files
        return store


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_cancelled_just_after_the_last_byte_it_stores_the_picture(local: LocalPlace, stream: bool) -> None:
    picture = bodies.picture()
    body = bodies.event(bodies.completed(picture)) if stream else bodies.answer_text(picture)
    with answering(Answer(body=body)) as server:
        job, client = make_job(local, fields={"stream": stream}), client_at(server.base_url)
        with pytest.raises(asyncio.CancelledError):
            await run_single(job, client, CancellingStores(1))
        assert (local.read("image-0.png"), state(local, "lease")) == (picture, [])
        again = await run_single(make_job(local, owner={"try_number": 2}, fields={"stream": stream}), client, Stores())
        assert (again.status, again.reused, again.unknown_outcomes, server.posts) == ("success", True, 0, 1)
        assert again.task_cost_usd == Decimal("0.000135")


async def test_cancelled_before_the_last_picture_it_stores_those_that_have_arrived(local: LocalPlace) -> None:
    picture, rest = bodies.picture(), bodies.event(bodies.completed(bodies.padded(200_000), index=1))
    body = bodies.event(bodies.completed(picture, index=0)) + rest[:100_000]
    with answering(Answer(body=body, head=f"Content-Type: {bodies.SSE}", hold=True)) as server:
        client, fields = client_at(server.base_url), {"n": 2}
        with pytest.raises(asyncio.CancelledError):
            await run_single(make_job(local, fields=fields), client, CancellingStores(2))
        again = await run_single(make_job(local, owner={"try_number": 2}, fields=fields), client, Stores())
        assert (again.status, again.reused, server.posts) == ("success", True, 1)
        assert (images(local), local.read("image-0.png")) == (["image-0.png"], picture)
        assert again.warnings[0] == "Asked for 2 images, got 1"
        assert again.task_cost_usd == Decimal("0.000135")


async def test_cancelled_after_a_broken_picture_it_records_what_that_cost(local: LocalPlace) -> None:
    broken = bodies.completed(b"", b64_json="bm8gcGljdHVyZQ==", usage={"cost": {"total_cost": 0.04}})
    rest = bodies.event(bodies.completed(bodies.padded(200_000), index=1))
    body = bodies.event(broken) + rest[:100_000]
    with answering(Answer(body=body, head=f"Content-Type: {bodies.SSE}", hold=True)) as server:
        client, job = client_at(server.base_url), make_job(local, fields={"n": 2}, max_resends=0)
        with pytest.raises(asyncio.CancelledError):
            await run_single(job, client, CancellingStores(2))
        again = await run_single(job, client, Stores())
        assert again.error
        assert (again.error["type"], again.task_cost_usd, server.posts) == ("ResendsExhausted", Decimal("0.04"), 1)
        assert again.costs
        assert again.costs.untold == 1


async def test_cancelled_after_the_last_byte_it_reports_the_cost_of_a_picture_that_cannot_be_stored(
    local: LocalPlace,
) -> None:
    known: list[CostSheet] = []
    with answering(Answer(body=bodies.answer_text(bodies.picture()))) as server:
        job, stores = make_job(local, fields={"stream": False}), CancellingStores(1, local.path)
        with pytest.raises(asyncio.CancelledError):
            await run_single(job, client_at(server.base_url), stores, interrupted=known.append)
    assert [(sheet.cost_usd, sheet.unknown_outcomes, sheet.untold) for sheet in known] == [(Decimal("0.000135"), 0, 0)]


async def test_cancelled_before_a_whole_picture_its_outcome_is_unknown(local: LocalPlace) -> None:
    body = bodies.event(bodies.completed(bodies.padded(200_000)))[:100_000]
    with answering(Answer(body=body, head=f"Content-Type: {bodies.SSE}", hold=True)) as server:
        with pytest.raises(asyncio.CancelledError):
            await run_single(make_job(local), client_at(server.base_url), CancellingStores(1))
        assert (images(local), state(local, "record"), len(state(local, "claim"))) == ([], [], 1)
        assert server.posts == 1


async def test_cancelled_while_it_connects_it_keeps_no_claim(local: LocalPlace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, but never answers in TLS
        client = client_at(f"https://127.0.0.1:{silent.getsockname()[1]}")
        running = asyncio.create_task(run_single(make_job(local, preflight="off"), client, Stores()))
        await until("the claim", lambda: state(local, "claim"))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert (state(local, "claim"), state(local, "lease")) == ([], [])


@pytest.mark.s3
@pytest.mark.slow
async def test_cancelled_while_it_connects_it_does_not_wait_for_a_failing_store(
    s3_place: S3Place, proxy: S3Proxy
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = client_at(f"https://127.0.0.1:{silent.getsockname()[1]}")
        job = make_job(s3_place, output_conn_id=proxy.conn_id, preflight="off")
        running = asyncio.create_task(run_single(job, client, STORES))
        await until("the claim", lambda: state(s3_place, "claim"))
        proxy.held = r"^DELETE .*claim"
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=PATIENCE / 2)
        assert done
        assert running.cancelled()


def client_at(base_url: str) -> Client:
    return Client(Settings(conn_id="deepshi_default", base_url=base_url, api_key=SecretStr(KEY)))


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
    async with Lease(store, Times(lease=6, heartbeat=0.1)) as lease:
        journal = Journal(store, "before")
        await lease.start()
        with lease.attempt(keys[0]):
            assert await journal.claim("before", 1, claim_of(lease.owner))
            time.sleep(3.5)  # noqa: ASYNC251 -- as if the process were stopped
            await journal.withdraw("before", 1, fingerprint, lease)
        await until("a heartbeat", lambda: not lease.lapsed_since(time.monotonic()))
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
