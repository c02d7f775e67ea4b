"""The test services themselves: what other tests rely on."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from .airflow import Airflow
from .processes import Process, listening, process_stats, wait_for
from .seaweedfs import SeaweedFS

DAGS = {
    "file_trigger.py": """
        import asyncio
        import os
        from pathlib import Path

        from airflow.triggers.base import BaseTrigger, TriggerEvent


        class FileTrigger(BaseTrigger):
            '''Fires when a file exists; writes down what happens to it.'''

            def __init__(self, path):
                super().__init__()
                self.path = path

            def serialize(self):
                return "file_trigger.FileTrigger", {"path": self.path}

            def note(self, what):
                with open(self.path + ".notes", "a") as notes:
                    notes.write(f"{what} {os.getpid()}\\n")

            async def run(self):
                self.note("run")
                while not Path(self.path).exists():
                    await asyncio.sleep(0.1)
                yield TriggerEvent({"found": self.path})

            async def cleanup(self):
                self.note("cleanup")
    """,
    "services_dag.py": """
        import time
        from datetime import timedelta

        from airflow.sdk import DAG, BaseOperator, task

        from file_trigger import FileTrigger


        class WaitForFile(BaseOperator):
            template_fields = ("path",)

            def __init__(self, path, **kwargs):
                super().__init__(**kwargs)
                self.path = path

            def execute(self, context):
                self.defer(trigger=FileTrigger(self.path), method_name="execute_complete")

            def execute_complete(self, context, event):
                return event


        with DAG("deferred", schedule=None):

            @task
            def plain(params):
                print("plain ran")
                return {"name": "é", "list": [1, 2.5, None], "text": "7"}

            plain() >> WaitForFile(
                task_id="wait", path="{{ dag_run.conf['path'] }}",
                retries=1, retry_delay=timedelta(seconds=0),
            )

        with DAG("blocking", schedule=None):

            @task(retries=1, retry_delay=timedelta(seconds=0))
            def sleep(ti=None):
                if ti.try_number == 1:
                    time.sleep(300)
                return ti.try_number

            sleep()
    """,
}


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    dags_folder = tmp_path_factory.mktemp("dags")
    for name, source in DAGS.items():
        (dags_folder / name).write_text(textwrap.dedent(source))
    home = tmp_path_factory.mktemp("airflow")
    # Triggerers do not look into the DAGs folder for a trigger's module.
    env = {"PYTHONPATH": str(dags_folder)}
    with Airflow(home, dags_folder, env=env, triggerers=2, parallelism=2) as running:
        running.wait_for_dag("deferred")
        running.wait_for_dag("blocking")
        yield running


def test_nothing_outlives_a_killed_test_run(tmp_path: Path) -> None:
    code = f"""
        import os, signal
        from pathlib import Path
        from {Process.__module__} import Process

        log_path = Path({str(tmp_path / "log")!r})
        process = Process("sleep", ["sh", "-c", "sleep 60; :"], env=os.environ, log_path=log_path)
        while not process.children():
            pass
        print(process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=Path(__file__).parents[Process.__module__.count(".")],
        capture_output=True,
        text=True,
        check=False,
    )
    session = int(done.stdout)
    wait_for("its end", 60, lambda: session not in [stat.session for stat in process_stats()])


class DeferredRun(NamedTuple):
    """A run of the DAG ``deferred`` whose second task waits for ``path``."""

    airflow: Airflow
    run_id: str
    path: Path

    def notes(self) -> list[tuple[str, int]]:
        """What the triggers did, each with the pid it did it in."""
        notes = Path(f"{self.path}.notes")
        lines = notes.read_text().splitlines() if notes.exists() else []
        return [(what, int(pid)) for what, pid in (line.split() for line in lines)]

    def wait_for_trigger_runs(self, count: int) -> None:
        wait_for(f"run() number {count}", 60, lambda: self._runs() >= count)

    def _runs(self) -> int:
        return sum(what == "run" for what, _ in self.notes())

    def finish(self) -> str:
        self.path.touch()
        return self.airflow.wait_for_run("deferred", self.run_id)


@pytest.fixture
def deferred(airflow: Airflow, tmp_path: Path) -> DeferredRun:
    path = tmp_path / "file"
    run_id = airflow.trigger("deferred", conf={"path": str(path)})
    run = DeferredRun(airflow, run_id, path)
    airflow.wait_for_state("deferred", run_id, "wait", ["deferred"], timeout=20)
    run.wait_for_trigger_runs(1)
    return run


@pytest.mark.airflow
def test_run_succeeds_and_its_xcoms_and_logs_can_be_read(airflow: Airflow, deferred: DeferredRun) -> None:
    assert deferred.finish() == "success"
    values = [airflow.xcom("deferred", deferred.run_id, task) for task in ("plain", "wait")]
    assert values == [
        {"name": "é", "list": [1, 2.5, None], "text": "7"},
        {"found": str(deferred.path)},
    ]
    tasks = airflow.task_instances("deferred", deferred.run_id)
    assert sorted((ti["task_id"], ti["state"]) for ti in tasks) == [
        ("plain", "success"),
        ("wait", "success"),
    ]
    assert "plain ran" in airflow.task_log("deferred", deferred.run_id, "plain", try_number=1)


@pytest.mark.airflow
def test_airflow_listens_on_this_machine_only(airflow: Airflow, deferred: DeferredRun) -> None:
    assert listening(stat.pid for process in airflow.processes for stat in process.stats()) == {"127.0.0.1"}


@pytest.mark.airflow
def test_another_triggerer_takes_over_from_a_killed_one(airflow: Airflow, deferred: DeferredRun) -> None:
    first = airflow.triggerer_of("deferred", deferred.run_id, "wait")
    assert deferred.notes() == [("run", first.children()[0])]
    first.kill_hard()
    assert first.stats() == []
    deferred.wait_for_trigger_runs(2)
    second = airflow.triggerer_of("deferred", deferred.run_id, "wait")
    assert [pid for _, pid in deferred.notes()][1:] == second.children()
    assert deferred.finish() == "success"
    assert airflow.start_triggerer() in airflow.triggerers


@pytest.mark.airflow
def test_sigterm_of_a_triggerer_cleans_its_triggers_up(airflow: Airflow, deferred: DeferredRun) -> None:
    first = airflow.triggerer_of("deferred", deferred.run_id, "wait")
    (runner,) = first.children()
    first.terminate(timeout=120)
    assert first.exit_code == 0
    assert ("cleanup", runner) in deferred.notes()
    deferred.wait_for_trigger_runs(2)
    assert deferred.finish() == "success"
    assert airflow.start_triggerer().rss_bytes() > 0


@pytest.mark.airflow
def test_clear_of_a_deferred_task_starts_a_new_trigger(airflow: Airflow, deferred: DeferredRun) -> None:
    airflow.clear("deferred", deferred.run_id, ["wait"])
    deferred.wait_for_trigger_runs(2)
    wait_for("cleanup() of the old", 60, lambda: "cleanup" in dict(deferred.notes()))
    assert deferred.finish() == "success"
    task = airflow.task_instance("deferred", deferred.run_id, "wait")
    assert task["try_number"] == 2


@pytest.mark.airflow
def test_deferred_task_can_be_marked_as_failed(airflow: Airflow, deferred: DeferredRun) -> None:
    airflow.set_state("deferred", deferred.run_id, "wait", "failed")
    assert airflow.wait_for_run("deferred", deferred.run_id) == "failed"
    wait_for("cleanup()", 60, lambda: "cleanup" in dict(deferred.notes()))


@pytest.mark.airflow
def test_killed_task_process_is_tried_again(airflow: Airflow) -> None:
    run_id = airflow.trigger("blocking")
    airflow.kill_task("blocking", run_id, "sleep")
    assert airflow.wait_for_run("blocking", run_id) == "success"
    assert airflow.xcom("blocking", run_id, "sleep") == 2


@pytest.mark.airflow
def test_lost_worker_is_seen_by_its_missing_heartbeats(airflow: Airflow) -> None:
    run_id = airflow.trigger("blocking")
    airflow.kill_worker("blocking", run_id, "sleep")
    assert airflow.wait_for_run("blocking", run_id) == "success"
    assert airflow.xcom("blocking", run_id, "sleep") == 2
    assert "heartbeat" in airflow.log_text()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with SeaweedFS(tmp_path_factory.mktemp("s3"), buckets=["images", "others"]) as running:
        yield running


def run_with_airflow(code: str, storage: SeaweedFS, home: Path) -> str:
    """Run Python code in a process that is an Airflow client with the connection ``store``."""
    settings = {"AIRFLOW_HOME": str(home), "AIRFLOW_CONN_STORE": storage.airflow_connection_json()}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={"PATH": "", **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.s3
def test_object_storage_path_works_with_the_connection(storage: SeaweedFS, tmp_path: Path) -> None:
    code = """
        from airflow.sdk import ObjectStoragePath

        path = ObjectStoragePath("s3://store@images/folder/a.png")
        path.write_bytes(b"first")
        try:
            path.fs.pipe_file(path.path, b"second", mode="create")
        except OSError as error:  # FileExistsError is one
            print(path.read_bytes(), "kept")
    """
    assert run_with_airflow(code, storage, tmp_path) == "b'first' kept"


@pytest.mark.s3
def test_storage_keeps_its_data_while_it_is_away(storage: SeaweedFS) -> None:
    storage.client().put_object(Bucket="others", Key="a.png", Body=b"kept")
    storage.stop()
    storage.start()
    found = storage.client().get_object(Bucket="others", Key="a.png")
    assert found["Body"].read() == b"kept"
    assert storage.client().list_objects_v2(Bucket="others")["KeyCount"] == 1
