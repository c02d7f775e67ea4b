"""An unusable store costs nothing; one that fails after payment loses neither images nor costs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.jobs import run_job as run
from tests.services.s3_proxy import S3Proxy
from tests.services.seaweedfs import SeaweedFS
from tests.support.counts import error, posts, taken
from tests.support.jobs import make_job
from tests.support.places import LocalPlace, Place, S3Place, document, images, state
from tests.support.waiting import until

# ------------------------------------------------------------------ before payment


async def test_unwritable_directory_costs_nothing(emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    manifest = await run(make_job(LocalPlace(tmp_path / "file" / "images")), patience=3600)
    failure = error(manifest)
    assert (failure["type"], failure["charged"], manifest.retry, manifest.sends) == ("StorageFailed", "no", True, 0)
    assert f"file://{tmp_path}/file/images" in failure["message"]
    assert posts(emulator) == 0


async def test_a_file_with_the_name_of_the_state_directory_costs_nothing(emulator: Emulator, local: LocalPlace) -> None:
    local.path.mkdir()
    (local.path / "_deepshi").write_bytes(b"")
    manifest = await run(make_job(local))
    assert (error(manifest)["type"], posts(emulator)) == ("StorageFailed", 0)


@pytest.mark.s3
async def test_read_only_store_costs_nothing(emulator: Emulator, s3_place: S3Place, proxy: S3Proxy) -> None:
    proxy.refuse = "."
    manifest = await run(make_job(s3_place, output_conn_id=proxy.conn_id))
    assert (error(manifest)["type"], error(manifest)["charged"], posts(emulator)) == ("StorageFailed", "no", 0)
    assert s3_place.names() == []


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"kind": "stored"}', b"\xff"])
async def test_unreadable_record_is_an_error_and_not_a_reason_to_buy(
    emulator: Emulator, place: Place, damage: bytes
) -> None:
    assert (await run(make_job(place))).status == "success"
    (record,) = state(place, "record")
    place.write(record, damage)
    for owner in ({"try_number": 2}, {"run_id": "tuesday"}):
        manifest = await run(make_job(place, owner=owner))
        failure = error(manifest)
        assert (failure["type"], failure["charged"], manifest.retry) == ("StorageFailed", "no", True)
        assert f"{place.uri}/{record}" in failure["message"]
    assert posts(emulator) == 1
    assert images(place) == ["image-0.png"]


async def test_unreadable_record_of_a_loss_is_an_error_too(emulator: Emulator, local: Place) -> None:
    """Without it the task's costs are unknown."""
    emulator.fault("not_an_image")
    await run(make_job(local))
    (record,) = state(local, "record")
    local.write(record, b"{")
    manifest = await run(make_job(local, owner={"try_number": 2}))
    assert (error(manifest)["type"], manifest.task_cost_usd, posts(emulator)) == ("StorageFailed", None, 1)


# ------------------------------------------------------------------ after payment


@pytest.fixture
def own_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SeaweedFS]:
    """An S3 server that a test may stop, behind the connection ``s3_own``."""
    with SeaweedFS(tmp_path / "s3") as server:
        monkeypatch.setenv("AIRFLOW_CONN_S3_OWN", server.airflow_connection_json())
        yield server


@pytest.mark.s3
async def test_store_that_fails_for_seconds_after_payment_gets_the_image(emulator: Emulator, own_s3: SeaweedFS) -> None:
    place = S3Place(own_s3, "images", "s3_own")
    emulator.settings(latency=1.0)
    running = asyncio.create_task(run(make_job(place)))
    await until("the request", lambda: posts(emulator) == 1)
    await asyncio.to_thread(own_s3.stop)
    try:
        await until("the payment", lambda: taken(emulator) > 0)
        await asyncio.sleep(1)
        assert not running.done()
    finally:
        await asyncio.to_thread(own_s3.start)
    manifest = await running
    assert (manifest.status, manifest.sends, posts(emulator)) == ("success", 1, 1)
    assert manifest.cost_usd == manifest.task_cost_usd == taken(emulator)
    assert images(place) == ["image-0.png"]
    assert place.read("image-0.png") == emulator.picture(emulator.requests()[0]["id"])
    assert (await run(make_job(place, owner={"try_number": 2}))).reused
    assert posts(emulator) == 1


@pytest.mark.s3
@pytest.mark.parametrize("refuse", [r"image-0\.png", r"stored\.json"], ids=["image", "record"])
async def test_store_that_never_recovers_leaves_local_images_and_reports_the_cost(
    emulator: Emulator, s3_place: S3Place, proxy: S3Proxy, refuse: str
) -> None:
    proxy.refuse = refuse
    job = make_job(s3_place, output_conn_id=proxy.conn_id)
    manifest = await run(job, patience=1.0)
    failure = error(manifest)
    assert (failure["type"], failure["charged"], failure["sends"]) == ("StorageFailed", "yes", 1)
    assert Decimal(failure["cost_usd"]) == manifest.cost_usd == manifest.task_cost_usd == taken(emulator) > 0
    assert len(proxy.refused) > 1, "it was tried again"
    rescued = re.search(r"saved on \S+: (/\S+/image-0\.png)", failure["message"])
    assert rescued
    assert _taken_away(Path(rescued[1])) == emulator.picture(emulator.requests()[0]["id"])
    assert (posts(emulator), manifest.unknown_outcomes, manifest.retry) == (1, 0, True)
    # The store works again: the claim remains for the attempt whose images it does not have.
    proxy.refuse = None
    refused = await run(make_job(s3_place, owner={"try_number": 2}, max_resends=0))
    assert (error(refused)["type"], posts(emulator)) == ("ResendsExhausted", 1)
    bought = await run(make_job(s3_place, owner={"try_number": 3}))
    assert (bought.status, bought.unknown_outcomes, posts(emulator)) == ("success", 1, 2)


@pytest.mark.s3
async def test_store_that_fails_for_the_manifest_reports_the_cost_once(
    emulator: Emulator, s3_place: S3Place, proxy: S3Proxy
) -> None:
    proxy.refuse = r"manifest\.json"
    job = make_job(s3_place, output_conn_id=proxy.conn_id)
    manifest = await run(job, patience=1.0)
    failure = error(manifest)
    assert (failure["type"], failure["charged"], manifest.retry) == ("StorageFailed", "yes", True)
    assert manifest.cost_usd == manifest.task_cost_usd == taken(emulator) > 0
    assert manifest.sends == posts(emulator) == 1
    proxy.refuse = None
    again = await run(make_job(s3_place, output_conn_id=proxy.conn_id, owner={"try_number": 2}))
    assert (again.status, again.reused, posts(emulator)) == ("success", True, 1)
    assert (again.cost_usd, again.task_cost_usd) == (Decimal(0), taken(emulator))


@pytest.mark.s3
async def test_store_that_fails_after_a_refusal_keeps_the_refusals_meaning(
    emulator: Emulator, s3_place: S3Place, proxy: S3Proxy
) -> None:
    """The loss of an image cannot be recorded: its cost is still reported, and the claim remains."""
    emulator.fault("not_an_image")
    proxy.refuse = r"lost\.json"
    manifest = await run(make_job(s3_place, output_conn_id=proxy.conn_id), patience=1.0)
    failure = error(manifest)
    assert failure["charged"] == "yes"
    assert manifest.cost_usd == manifest.task_cost_usd == taken(emulator) > 0
    assert len(state(s3_place, "claim")) == 1
    assert document(s3_place, state(s3_place, "claim")[0])["owner"]["task_id"] == "boat"


@pytest.mark.s3
async def test_kill_while_a_loss_cannot_be_recorded_keeps_its_cost(
    emulator: Emulator, s3_place: S3Place, proxy: S3Proxy
) -> None:
    emulator.fault("not_an_image")
    proxy.refuse = r"lost\.json"
    known: list[CostSheet] = []
    job = make_job(s3_place, output_conn_id=proxy.conn_id)
    running = asyncio.create_task(run(job, interrupted=known.append, patience=1.0))
    await until("a refused record", lambda: proxy.refused)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (sheet,) = known
    assert (sheet.cost_usd, sheet.unknown_outcomes, sheet.untold) == (taken(emulator), 0, 0)
    assert taken(emulator) > 0
    assert (len(state(s3_place, "claim")), len(state(s3_place, "record")), posts(emulator)) == (1, 0, 1)


@pytest.mark.s3
@pytest.mark.parametrize("max_resends", [0, 1])
async def test_listing_that_fails_does_not_hide_an_unknown_outcome(
    emulator: Emulator, s3_place: S3Place, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch, max_resends: int
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(read_timeout=2))
    emulator.fault("silence")
    job = make_job(s3_place, output_conn_id=proxy.conn_id, max_resends=max_resends)
    running = asyncio.create_task(run(job))
    await until("the request", lambda: posts(emulator) == 1)
    proxy.no_listing = ""
    manifest = await running
    assert (error(manifest)["type"], error(manifest)["charged"]) == ("OutcomeUnknown", "unknown")
    assert (manifest.unknown_outcomes, manifest.task_cost_usd, manifest.sends) == (1, Decimal(0), 1)
    assert manifest.retry is bool(max_resends), "max_resends=0 never pays twice, whatever the store shows"
    assert f"max_resends is {max_resends}" in error(manifest)["message"]
    assert len(state(s3_place, "claim")) == posts(emulator) == 1


@pytest.mark.s3
async def test_listing_that_fails_before_anything_was_sent_leaves_no_doubt(
    emulator: Emulator, s3_place: S3Place, proxy: S3Proxy
) -> None:
    proxy.no_listing = "NoSuchBucket"
    manifest = await run(make_job(s3_place, output_conn_id=proxy.conn_id))
    assert (error(manifest)["type"], error(manifest)["charged"]) == ("StorageFailed", "no")
    assert (manifest.task_cost_usd, manifest.unknown_outcomes, posts(emulator)) == (Decimal(0), 0, 0)


def _taken_away(file: Path) -> bytes:
    """Read a rescued image and delete it."""
    content = file.read_bytes()
    file.unlink()
    file.parent.rmdir()
    return content
