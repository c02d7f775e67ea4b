"""Makes batches, runs them like Airflow's task runner, and reads their results."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred
from airflow.triggers.base import TriggerEvent

from deepshi_provider.operators.images import DeepshiGenerateImagesOperator
from deepshi_provider.triggers.images import DeepshiImagesTrigger
from tests.support.places import Place
from tests.support.tasks import TaskInstance, check_stored, context_of, execute

#: USD of one picture of :func:`batch`.
PRICE = Decimal("0.000001582031")
#: A picture of $0.039.
BANANA: dict[str, Any] = {"model": "nano-banana-2", "resolution": "1K", "width": None, "height": None}


def rows_of(count: int, prompt: str = "a boat with the number") -> list[dict[str, Any]]:
    """Return rows with keys ``row-0`` and so on."""
    return [{"key": f"row-{number}", "prompt": f"{prompt} {number}"} for number in range(count)]


def batch(place: Place, requests: Any = None, **fields: Any) -> DeepshiGenerateImagesOperator:
    """Return a batch of small, cheap pictures."""
    defaults = {
        "task_id": "catalog",
        "requests": requests,
        "width": 64,
        "height": 48,
        "output_uri": place.uri,
        "output_conn_id": place.conn_id,
        "preflight": "off",
    }
    return DeepshiGenerateImagesOperator(**{**defaults, **fields})


def ended(operator: DeepshiGenerateImagesOperator, **identity: Any) -> tuple[TaskInstance, BaseException | None]:
    """Run one try, and return its XComs and its error, if it failed."""
    ti = TaskInstance(task_id=operator.task_id, **identity)
    try:
        execute(operator, ti)
    except Exception as err:  # noqa: BLE001 -- the tests check it
        return ti, err
    return ti, None


def deferred(operator: DeepshiGenerateImagesOperator, **identity: Any) -> tuple[TaskInstance, dict[str, Any]]:
    """Run a deferrable batch like worker, triggerer and worker; return its XComs and the event."""
    ti = TaskInstance(task_id=operator.task_id, **identity)
    copy = operator.prepare_for_execution()
    copy.render_template_fields(context_of(ti))
    with pytest.raises(TaskDeferred) as raised:
        copy.execute(context_of(ti))
    path, arguments = raised.value.trigger.serialize()
    assert path == "deepshi_provider.triggers.images.DeepshiImagesTrigger"
    assert raised.value.timeout is None, "each request has its own"
    assert len(json.dumps(arguments)) < 1000

    async def event() -> TriggerEvent:
        return await anext(aiter(DeepshiImagesTrigger(**arguments).run()))

    payload = asyncio.run(event()).payload
    check_stored(payload)
    assert len(json.dumps(payload)) < 5 * 1024
    again = operator.prepare_for_execution()
    try:
        ti.xcom_push("return_value", again.execute_complete(context_of(ti), json.loads(json.dumps(payload))))
    except AirflowException as err:
        ti.xcoms["error"] = err
    return ti, payload


def result_of(operator: DeepshiGenerateImagesOperator, **identity: Any) -> dict[str, Any]:
    """Run one try, which must succeed, and return its ``return_value``."""
    ti, err = ended(operator, **identity)
    if err:
        raise err
    value: dict[str, Any] = ti.xcoms["return_value"]
    assert ti.xcoms["cost_usd"] == value["cost_usd"]
    return value


def counts(value: dict[str, Any]) -> tuple[int, int, int, int]:
    """Return the numbers of created, reused, failed and skipped rows."""
    return value["created"], value["reused"], value["failed"], value["skipped"]


def manifests(place: Place) -> list[str]:
    """Return the names of all manifests."""
    return [name for name in place.names() if name.startswith("manifest-") and name.endswith(".jsonl")]


def lines_of(place: Place) -> list[dict[str, Any]]:
    """Return the lines of the only manifest."""
    (name,) = manifests(place)
    return [json.loads(line, parse_float=Decimal) for line in place.read(name).splitlines()]


def statuses(lines: Iterable[dict[str, Any]]) -> Counter[str]:
    """Return the number of rows per status."""
    return Counter(line["status"] for line in lines)


def cost_of(lines: Iterable[dict[str, Any]]) -> Decimal:
    """Return the total cost of a manifest's lines, in USD."""
    return sum((Decimal(line["cost_usd"] or 0) for line in lines), Decimal(0))
