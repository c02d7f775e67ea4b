"""Everything below the adapters, without Airflow: generate, edit, batch, kill and resume."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
#: What the provider requires, without Airflow and its providers.
NEEDED = [
    requirement
    for requirement in importlib.metadata.requires("airflow-provider-deepshi") or []
    if "extra ==" not in requirement and not requirement.startswith("apache-airflow")
]

PROGRAM = r"""
import asyncio, json, sys, time
import importlib.util
assert importlib.util.find_spec("airflow") is None
from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.batch.rows import check_rows
from deepshi_provider.batch.run import run_batch
from deepshi_provider.client.client import Client
from deepshi_provider.client.settings import Settings
from deepshi_provider.jobs.job import BatchJob, Job
from deepshi_provider.jobs.run import run_single
from deepshi_provider.journal.entries import Owner
from deepshi_provider.store.stores import Stores

what, base_url, verify, directory, try_number = sys.argv[1:]
settings = Settings(conn_id="mine", base_url=base_url, api_key="sk-bf-emulator", verify=verify)
owner = Owner(dag_id="none", run_id="once", task_id=what, try_number=int(try_number))
common = {"owner": owner, "output_uri": f"{directory}/{what}", "deepshi_conn_id": "mine"}
boat = {"model": "deepshi-banana-pro", "prompt": "a red boat", "width": 64, "height": 48}


async def main():
    client, stores = Client(settings), Stores()
    if what == "batch":
        job = BatchJob(rows=3, generation_timeout=60, max_concurrency=2, **common)
        with RowTable() as rows:
            rows.fill(check_rows([{**boat, "key": str(k), "prompt": f"boat {k}"} for k in range(3)], {}, None))
            return await run_batch(job, client, stores, rows)
    if what == "edit":
        edit = {"model": "deepshi-image-1", "prompt": "at night", "images": [f"{directory}/generate/image-0.png"]}
        job = Job(operation="edit", fields=edit, deadline=time.time() + 60, **common)
    else:
        job = Job(operation="generate", fields=boat, deadline=time.time() + 60, **common)
    return await run_single(job, client, stores)


print(asyncio.run(main()).model_dump_json())
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with the core's requirements, and without Airflow."""
    folder = tmp_path_factory.mktemp("without-airflow")
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    python = str(folder / "bin" / "python")
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *constraints, *NEEDED], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "--no-deps", str(ROOT)], check=True)
    return python


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with Emulator(tls=True) as emulator:
        yield emulator


def start(python: str, server: Emulator, folder: Path, what: str, try_number: int = 1) -> subprocess.Popen[str]:
    arguments = [what, server.base_url, str(server.ca_file), str(folder), str(try_number)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(
        [python, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True, env=environment, cwd=folder
    )


def outcome(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.packaging
def test_images_are_made_without_airflow(python: str, server: Emulator, tmp_path: Path) -> None:
    server.reset()
    made = outcome(start(python, server, tmp_path, "generate"))
    assert (made["status"], made["images"][0]["width"]) == ("success", 64)
    assert outcome(start(python, server, tmp_path, "edit"))["status"] == "success"
    batch = outcome(start(python, server, tmp_path, "batch"))
    assert (batch["status"], batch["created"]) == ("success", 3)
    assert server.stats()["posts"] == 5
    again = outcome(start(python, server, tmp_path, "batch", try_number=2))
    assert (again["status"], again["created"], server.stats()["posts"]) == ("success", 3, 5)


@pytest.mark.slow
@pytest.mark.packaging
def test_killed_process_is_resumed_without_airflow(python: str, server: Emulator, tmp_path: Path) -> None:
    server.reset()
    server.settings(latency=30)
    killed = start(python, server, tmp_path, "generate")
    wait_until(lambda: server.stats()["in_flight"] == 1)
    killed.kill()
    killed.communicate()
    server.settings(latency=0)
    resumed = outcome(start(python, server, tmp_path, "generate", try_number=2))
    assert (resumed["status"], resumed["unknown_outcomes"], server.stats()["posts"]) == ("success", 1, 2)


@pytest.mark.slow
@pytest.mark.packaging
def test_shortest_program_makes_an_image(python: str, server: Emulator, tmp_path: Path) -> None:
    server.reset()
    environment = {**os.environ, "DEEPSHI_URL": server.base_url, "DEEPSHI_API_KEY": server.api_key}
    environment |= {"SSL_CERT_FILE": str(server.ca_file)}
    program = str(ROOT / "tests" / "packaging" / "without_airflow.py")
    done = subprocess.run([python, program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"file://{tmp_path}/images/image-0.png"
    assert (tmp_path / "images" / "image-0.png").is_file()
