"""The trigger alone: its stored form, and its behaviour when the triggerer stops."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.directories import STORES
from deepshi_provider.jobs.run import store_job
from deepshi_provider.triggers.images import DeepshiImagesTrigger
from tests.services.seaweedfs import SeaweedFS
from tests.support.counts import posts, taken
from tests.support.jobs import make_job
from tests.support.places import LocalPlace, Place, S3Place, document, images, state
from tests.support.waiting import until

pytestmark = pytest.mark.slow

PATH = "deepshi_provider.triggers.images.DeepshiImagesTrigger"


async def trigger_for(place: Place, **more: Any) -> DeepshiImagesTrigger:
    """The trigger of a stored job, as an operator creates it."""
    job = make_job(place, **more)
    uri = await store_job(job, STORES)
    return DeepshiImagesTrigger(
        job_uri=uri, storage_conn_id=place.conn_id, deepshi_conn_id="deepshi_default", deadline=job.deadline
    )


async def event_of(trigger: DeepshiImagesTrigger) -> dict[str, Any]:
    """Return the payload of the trigger's only event."""
    (event,) = [event async for event in trigger.run()]
    payload: dict[str, Any] = event.payload
    return payload


def size(value: Any) -> int:
    """Return the number of bytes that Airflow stores."""
    return len(json.dumps(value))


async def test_serialized_trigger_makes_the_same_trigger(local: Place) -> None:
    trigger = await trigger_for(local)
    path, arguments = trigger.serialize()
    assert path == PATH
    assert set(arguments) == {"job_uri", "storage_conn_id", "deepshi_conn_id", "deadline"}
    again = DeepshiImagesTrigger(**json.loads(json.dumps(arguments)))
    assert again.serialize() == (path, arguments)


async def test_no_event_comes_before_airflow_has_seen_the_end_of_the_process_that_deferred(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepshi_provider.triggers.images.EARLIEST_EVENT", 1.0)
    trigger, begun = await trigger_for(local), time.monotonic()
    event = await event_of(trigger)
    assert (event["status"], posts(emulator)) == ("success", 1)
    assert time.monotonic() - begun >= 1.0


async def test_arguments_and_event_are_small_with_the_longest_prompt(emulator: Emulator, place: Place) -> None:
    fields = {"model": "nano-banana-2", "width": None, "height": None, "n": 4, "prompt": "aubergine " * 3_200}
    trigger = await trigger_for(place, fields=fields)
    event = await event_of(trigger)
    assert event["status"] == "success"
    assert len(images(place)) == 4
    for stored in (trigger.serialize(), event):
        assert size(stored) < 5 * 1024
        assert "aubergine" not in json.dumps(stored)


async def test_event_of_a_refusal_is_small_with_a_prompt_of_50000_characters(emulator: Emulator, local: Place) -> None:
    fields = {"model": "nano-banana-2", "width": None, "height": None, "n": 4, "prompt": "aubergine " * 5_000}
    trigger = await trigger_for(local, fields=fields)
    event = await event_of(trigger)
    assert (event["status"], event["error"]["code"]) == ("failed", "PROMPT_TOO_LONG")
    for stored in (trigger.serialize(), event):
        assert size(stored) < 5 * 1024
        assert "aubergine" not in json.dumps(stored)


async def test_event_is_small_however_many_claims_it_names(emulator: Emulator, tmp_path: Path) -> None:
    place = LocalPlace(tmp_path / ("directory" * 12) / ("run" * 40))
    emulator.fault("cut", times=None)
    for number in range(4):
        await event_of(await trigger_for(place, max_resends=3, owner={"try_number": number}))
    event = await event_of(await trigger_for(place, max_resends=3, owner={"try_number": 5}))
    assert event["error"]["type"] == "ResendsExhausted"
    assert size(event) < 5 * 1024
    assert event["error"]["message"].startswith("Not sent: this request was sent 4 time(s) with unknown outcome")
    assert posts(emulator) == 4


async def test_missing_job_is_an_error_as_data(emulator: Emulator, local: Place) -> None:
    trigger = await trigger_for(local)
    local.delete(*state(local, "job"))
    event = await event_of(trigger)
    assert (event["status"], event["error"]["type"], event["error"]["charged"]) == ("failed", "StorageFailed", "no")
    assert posts(emulator) == 0


async def test_two_triggers_of_one_job_send_once(emulator: Emulator, place: Place) -> None:
    emulator.settings(latency=3)
    events = await asyncio.gather(*[event_of(await trigger_for(place)) for _ in range(2)])
    assert [event["status"] for event in events] == ["success", "success"]
    assert events[0] == events[1]
    assert posts(emulator) == 1
    assert images(place) == ["image-0.png"]


async def test_cancellation_closes_the_connection_and_leaves_the_claim(emulator: Emulator, local: Place) -> None:
    emulator.settings(latency=60)
    running = asyncio.create_task(event_of(await trigger_for(local)))
    await until("the request", lambda: emulator.stats()["in_flight"])
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until("the end of the connection", lambda: emulator.stats()["disconnects"] == 1)
    assert len(state(local, "claim")) == 1
    assert state(local, "record") == state(local, "lease") == state(local, "manifest") == images(local) == []


@pytest.fixture
def own_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SeaweedFS]:
    """An S3 server that a test may stop, behind the connection ``s3_own``."""
    with SeaweedFS(tmp_path / "s3") as server:
        monkeypatch.setenv("AIRFLOW_CONN_S3_OWN", server.airflow_connection_json())
        yield server


@pytest.mark.s3
def test_triggerer_that_stops_stores_what_was_paid_for(emulator: Emulator, own_s3: SeaweedFS) -> None:
    """A stopping triggerer cancels everything on its loop once."""
    place = S3Place(own_s3, "paid", conn_id="s3_own")
    emulator.settings(latency=1)

    async def triggerer() -> None:
        running = asyncio.create_task(event_of(await trigger_for(place)))
        await until("the request", lambda: emulator.stats()["in_flight"])
        await asyncio.to_thread(own_s3.stop)
        await until("the answer", lambda: not emulator.stats()["in_flight"])
        await asyncio.sleep(1)
        assert not running.done()
        back.start()

    back = threading.Timer(1, own_s3.start)
    asyncio.run(triggerer())
    back.join()
    assert images(place) == ["image-0.png"]
    (record,) = state(place, "record")
    assert document(place, record)["cost_usd"] == str(taken(emulator))


SKEWED = """
import asyncio, json, sys, time
right = time.time
time.time = lambda: right() + float(sys.argv[1])  # the clock of another machine
from deepshi_provider.triggers.images import DeepshiImagesTrigger

async def main():
    trigger = DeepshiImagesTrigger(
        job_uri=sys.argv[2], storage_conn_id=sys.argv[3] or None, deepshi_conn_id="deepshi_default", deadline=None
    )
    async for event in trigger.run():
        print("\\n" + json.dumps(event.payload))

asyncio.run(main())
"""


def event_by_another_clock(trigger: DeepshiImagesTrigger, ahead: float) -> dict[str, Any]:
    """Return the event of a triggerer whose clock is wrong by these seconds."""
    conn_id = trigger.storage_conn_id or ""
    ended = subprocess.run(
        [sys.executable, "-c", SKEWED, str(ahead), trigger.job_uri, conn_id], capture_output=True, text=True, check=True
    )
    event: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return event


async def test_a_triggerer_an_hour_ahead_sends(emulator: Emulator, place: Place) -> None:
    trigger = await trigger_for(place, seconds=100)
    event = await asyncio.to_thread(event_by_another_clock, trigger, 3600)
    assert (event["status"], posts(emulator)) == ("success", 1)
    assert not [name for name in place.names() if "clock" in name]


async def test_a_triggerer_a_minute_behind_keeps_the_deadline_and_names_the_difference(
    emulator: Emulator, local: Place
) -> None:
    emulator.fault("silence")
    trigger = await trigger_for(local, seconds=30)
    begun = time.monotonic()
    event = await asyncio.to_thread(event_by_another_clock, trigger, -60)
    assert (event["error"]["type"], event["unknown_outcomes"], posts(emulator)) == ("OutcomeUnknown", 1, 1)
    assert "s behind that of the task's worker" in event["error"]["message"]
    assert time.monotonic() - begun < 80, "by its own clock it would have waited for 90 s"


async def test_a_restarted_job_keeps_its_deadline(emulator: Emulator, local: LocalPlace) -> None:
    """The job was stored 40 s ago, by a fixed clock, with a timeout of 30 s."""
    trigger = await trigger_for(local, seconds=30)
    stored = local.path / trigger.job_uri.removeprefix(f"{local.uri}/")
    os.utime(stored, (time.time() - 40, time.time() - 40))
    event = await event_of(trigger)
    assert (event["error"]["type"], posts(emulator)) == ("TimedOut", 0)
    assert "s behind that of the task's worker" in event["error"]["message"]
