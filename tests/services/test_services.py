"""The test services themselves: what other tests rely on."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_for

from .processes import Process, process_stats
from .seaweedfs import SeaweedFS


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
