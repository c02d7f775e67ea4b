"""Blocking and deferred tasks have the same result, and no image passes through the database."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from tests.services.processes import listening
from tests.triggers.in_airflow.world import SECRET_WORD, World

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]


def placeless(result: dict[str, Any], task_id: str) -> dict[str, Any]:
    """Return the result without its time, and with the directory's name in URIs replaced."""
    manifest = result["manifest_uri"].split("/_deepshi/")[0]
    assert manifest.endswith(f"/{task_id}")
    images = [image | {"uri": image["uri"].replace(manifest, "directory")} for image in result["images"]]
    assert isinstance(result["created"], int)
    return result | {"images": images, "manifest_uri": "manifest", "created": "time"}


def test_blocking_and_deferred_runs_give_equal_xcoms(world: World) -> None:
    run = world.start("twins")
    assert run.end() == "success", [
        world.airflow.task_log("twins", run.run_id, task, 1) for task in ("blocking", "deferred")
    ]
    blocking, deferred = (placeless(run.result(task), task) for task in ("blocking", "deferred"))
    assert blocking == deferred
    assert [image["uri"] for image in deferred["images"]] == ["directory/image-0.jpg", "directory/image-1.jpg"]
    assert run.xcom("cost_usd", "blocking") == run.xcom("cost_usd", "deferred") == float(run.paid) / 2
    entries = [
        world.airflow.get(f"/dags/twins/dagRuns/{run.run_id}/taskInstances/{task}/xcomEntries")["xcom_entries"]
        for task in ("blocking", "deferred")
    ]
    keys = [{entry["key"] for entry in found if not entry["key"].startswith("_link_")} for found in entries]
    assert keys[0] == keys[1] == {"return_value", "cost_usd", "deepshi_cost"}
    assert run.posts == 2


def test_airflow_listens_on_this_machine_only(world: World) -> None:
    pids = [stat.pid for process in world.airflow.processes for stat in process.stats()]
    assert len(pids) > 4
    assert listening(pids) == {"127.0.0.1"}


def test_arguments_and_event_are_small_whatever_the_prompt(world: World) -> None:
    run = world.start("long_prompt")
    world.deepshi.settings(latency=4)
    run.wait_until_sent()
    with closing(sqlite3.connect(world.airflow.database_path)) as database:
        rows = database.execute('SELECT classpath, kwargs FROM "trigger"').fetchall()
    trigger = run.task()["trigger"]
    ((classpath, stored),) = rows
    assert classpath == "deepshi_provider.triggers.images.DeepshiImagesTrigger" == trigger["classpath"]
    assert len(stored) < 1024
    assert len(trigger["kwargs"]) < 1024
    assert SECRET_WORD not in trigger["kwargs"]
    assert run.end() == "success"
    assert len(run.result()["images"]) == 4
    assert len(run.requests[0]["prompt"]) == 32_000
    (fired,) = [line for line in run.log().splitlines() if line.startswith("Trigger fired event")]
    assert len(fired) < 5 * 1024
    assert SECRET_WORD not in fired
    assert json.dumps(run.result()).count(SECRET_WORD) == 0
