"""What a deferred task hands over to the triggerer holds prompts, and is deleted when the task has resumed."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger

from deepshi_provider.emulator.testing import Emulator
from tests.support.batches import batch
from tests.support.counts import posts
from tests.support.places import LocalPlace, Place
from tests.support.tasks import TaskInstance, context_of, generate

SECRET = "a secret boat"
KINDS = pytest.mark.parametrize("kind", ["single", "batch"])


def operator_of(kind: str, place: Place) -> BaseOperator:
    fields: dict[str, Any] = {"deferrable": True, "preflight": "off", "retries": 3}
    if kind == "batch":
        return batch(place, [{"key": "a", "prompt": SECRET}], manifest_prompts=False, **fields)
    return generate(prompt=SECRET, output_uri=place.uri, output_conn_id=place.conn_id, **fields)


def deferred_by(operator: BaseOperator, **identity: Any) -> tuple[TaskInstance, BaseTrigger]:
    """Run the task in a worker until it defers."""
    ti = TaskInstance(task_id=operator.task_id, **identity)
    copy = operator.prepare_for_execution()
    copy.render_template_fields(context_of(ti))
    with pytest.raises(TaskDeferred) as raised:
        copy.execute(context_of(ti))
    return ti, raised.value.trigger


def event_of(trigger: BaseTrigger) -> dict[str, Any]:
    """Run a trigger in a triggerer of its own."""

    async def event() -> Any:
        path, arguments = trigger.serialize()
        assert path.endswith("DeepshiImagesTrigger")
        return await anext(aiter(type(trigger)(**json.loads(json.dumps(arguments))).run()))

    payload: dict[str, Any] = json.loads(json.dumps(asyncio.run(event()).payload))
    return payload


def resume(operator: BaseOperator, ti: TaskInstance, event: dict[str, Any]) -> dict[str, Any]:
    """Resume the task in another worker."""
    value: dict[str, Any] = operator.prepare_for_execution().execute_complete(context_of(ti), event)  # type: ignore[attr-defined] # ours
    return value


def holding_the_prompt(place: Place) -> list[str]:
    return [name for name in place.names() if SECRET.encode() in place.read(name)]


@pytest.fixture(autouse=True)
def no_prompts(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the connection keep no prompts."""
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(keep_prompts=False))


@pytest.mark.parametrize("is_refused", [False, True], ids=["success", "failure"])
@KINDS
def test_no_file_holds_the_prompt_of_a_deferred_task_that_has_resumed(
    emulator: Emulator, place: Place, kind: str, is_refused: bool
) -> None:
    if is_refused:
        emulator.fault("status", status=400, code="PROMPT_TOO_LONG")
    operator = operator_of(kind, place)
    ti, trigger = deferred_by(operator)
    assert len(holding_the_prompt(place)) == 1, "the triggerer needs it"
    event = event_of(trigger)
    assert len(holding_the_prompt(place)) == 1, "a triggerer that dies now starts again"
    with pytest.raises(AirflowFailException) if is_refused else nullcontext():
        resume(operator, ti, event)
    assert holding_the_prompt(place) == []
    assert [name for name in place.names() if name.endswith((".job.json", ".rows.jsonl"))] == []
    assert posts(emulator) == 1


@KINDS
def test_files_that_cannot_be_deleted_fail_no_paid_task(
    emulator: Emulator, local: LocalPlace, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    operator = operator_of(kind, local)
    ti, trigger = deferred_by(operator)
    event = event_of(trigger)
    for path in [*local.path.glob("_deepshi/*.job.json"), *local.path.glob("_deepshi/*.rows.jsonl")]:
        path.unlink()
        path.mkdir()  # a directory is no object that can be deleted
    assert resume(operator, ti, event)["cost_usd"] > 0
    assert ti.sheets[-1].ended
    assert "was not deleted" in caplog.text


@KINDS
def test_another_triggerer_and_the_next_try_buy_nothing_after_the_deletion(
    emulator: Emulator, local: Place, kind: str
) -> None:
    operator = operator_of(kind, local)
    ti, trigger = deferred_by(operator)
    event = event_of(trigger)
    resume(operator, ti, event)
    late = event_of(trigger)
    assert (late["status"], late["error"]["type"], late["error"]["charged"]) == ("failed", "StorageFailed", "no")
    resume(operator, ti, event)  # a worker that was killed as it resumed
    ti, trigger = deferred_by(operator, try_number=2)
    resume(operator, ti, event_of(trigger))
    assert (posts(emulator), ti.xcoms["cost_usd"] > 0) == (1, True)
