"""On a failing machine every error of a trigger becomes an event, and all payments are counted."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from deepshi_provider.client import settings
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.triggers.images import DeepshiImagesTrigger
from tests.support.batches import batch, rows_of
from tests.support.counts import posts
from tests.support.places import Place, images, state
from tests.support.tasks import TaskInstance, context_of, execute, generate
from tests.support.waiting import until
from tests.triggers.test_images import event_of, trigger_for

pytestmark = pytest.mark.slow


def trigger_of(operator: Any, ti: TaskInstance) -> DeepshiImagesTrigger:
    """Run a try of an operator until it defers."""
    operator.deferrable = True
    with pytest.raises(TaskDeferred) as raised:
        execute(operator, ti)
    trigger = raised.value.trigger
    assert isinstance(trigger, DeepshiImagesTrigger)
    return trigger


def resumed(operator: Any, ti: TaskInstance, event: dict[str, Any]) -> None:
    """Run the rest of a deferred try."""
    copy = operator.prepare_for_execution()
    copy.render_template_fields(context_of(ti))
    copy.execute_complete(context_of(ti), event)


@pytest.fixture
def small_files() -> Iterator[Any]:
    """A function that limits the size of this process's files, like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_batch_whose_disk_is_full_ends_in_an_event_and_its_sheet_has_what_was_paid(
    emulator: Emulator, local: Place, small_files: Any
) -> None:
    operator = batch(local, rows_of(200, prompt="a boat " * 20), max_concurrency=16)
    ti = TaskInstance(task_id=operator.task_id)
    trigger = trigger_of(operator, ti)
    small_files(128 * 1024)
    event = asyncio.run(event_of(trigger))
    small_files(resource.RLIM_INFINITY)
    assert (event["kind"], event["status"], event["rows"]) == ("batch", "failed", 200)
    assert (event["error"]["type"], event["error"]["charged"]) == ("OutcomeUnknown", "unknown")
    assert "Unexpected error (OperationalError" in event["error"]["message"]
    assert len(json.dumps(event)) < 1024
    with pytest.raises((DeepshiError, AirflowFailException)):
        resumed(operator, ti, event)
    sent, taken = posts(emulator), Decimal(emulator.stats()["cost_usd"])
    assert 16 < sent < 200
    sheet = ti.sheets[-1]
    assert (sheet.ended, sheet.cost_usd, sheet.unknown_outcomes) == (True, taken, 0)
    assert len(images(local)) == len(state(local, "record")) == sent

    again = TaskInstance(task_id=operator.task_id, try_number=2)
    resumed(operator, again, asyncio.run(event_of(trigger_of(operator, again))))
    assert posts(emulator) == 200, "what the first try bought is not bought again"
    assert again.xcoms["cost_usd"] == pytest.approx(float(emulator.stats()["cost_usd"]))


async def test_job_of_an_unknown_version_has_a_clear_error(emulator: Emulator, local: Place) -> None:
    """A provider may be upgraded while a task is deferred."""
    event = await event_of(await trigger_for(local, fields={"n": "many"}))
    assert (event["status"], event["error"]["type"], event["error"]["charged"]) == ("failed", "InvalidRequest", "no")
    assert "n: a whole number is needed" in event["error"]["message"]
    assert posts(emulator) == 0


async def test_certificates_that_the_environment_names_and_that_are_not_there(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(verify=True))
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/certificates.pem")
    settings.tls_context.cache_clear()
    event = await event_of(await trigger_for(local))
    assert (event["error"]["type"], event["error"]["charged"]) == ("InvalidConnection", "no")
    assert "SSL_CERT_FILE" in event["error"]["message"]
    assert posts(emulator) == 0


@pytest.mark.parametrize("kind", ["single", "batch"])
def test_nothing_is_sent_without_a_directory_for_temporary_files(
    emulator: Emulator, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It also does not count as a failure of the store, which would be retried for minutes."""
    where = {"output_uri": place.uri, "output_conn_id": place.conn_id}
    operator = generate(preflight="off", **where) if kind == "single" else batch(place, rows_of(4), **where)
    ti = TaskInstance(task_id=operator.task_id)
    trigger = trigger_of(operator, ti)
    with monkeypatch.context() as broken:
        broken.setattr("tempfile.tempdir", str(tmp_path / "missing"))
        event = asyncio.run(event_of(trigger))
    assert (event["status"], event["error"]["type"], event["error"]["charged"]) == ("failed", "StorageFailed", "no")
    assert "Not sent: cannot create temporary files on" in event["error"]["message"]
    with pytest.raises(DeepshiError):
        resumed(operator, ti, event)
    assert posts(emulator) == 0
    assert state(place, "claim") == images(place) == []
    assert (ti.sheets[-1].cost_usd, ti.sheets[-1].unknown_outcomes) == (Decimal(0), 0)


async def test_small_image_is_stored_even_if_the_temporary_directory_disappears(
    emulator: Emulator, s3_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.settings(latency=1)
    running = asyncio.create_task(event_of(await trigger_for(s3_place)))
    await until("the request", lambda: emulator.stats()["in_flight"])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    event = await running
    assert event["status"] == "success"
    assert images(s3_place) == ["image-0.png"]
    assert len(state(s3_place, "record")) == 1
