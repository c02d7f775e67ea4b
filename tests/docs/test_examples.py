"""The code of the pages, run in a separate Airflow against the emulator."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.docs.pages import DOCS
from tests.services.dag_runs import DagRuns

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

FILES = sorted((DOCS / "examples").glob("*.py"))
DAGS = sorted(dag_id for path in FILES for dag_id in re.findall(r'DAG\(\s*"(\w+)"', path.read_text()))


class Ran(NamedTuple):
    """The states of the DAGs, the server's requests, and the directory of images."""

    states: dict[str, str]
    requests: list[dict[str, Any]]
    images: Path
    log: str


@pytest.fixture(scope="module")
def ran(dag_runs: DagRuns, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    root = tmp_path_factory.mktemp("docs")
    dags, images = root / "dags", root / "images"
    shutil.copytree(DOCS / "examples", dags, ignore=shutil.ignore_patterns("__pycache__"))

    with Emulator() as emulator:
        variables = {"AIRFLOW_CONN_DEEPSHI_DEFAULT": emulator.connection_json(output_uri=images.as_uri())}
        pool = ["pools", "set", "deepshi", "16", "requests in flight at Deepshi", "--include-deferred"]
        runs, log = dag_runs.run(dags, variables=variables, commands=[pool], cwd=root)
        states = {run["dag_id"]: run["state"] for run in runs}
        yield Ran(states, emulator.requests(), images, log)


def test_each_file_has_a_dag() -> None:
    assert len(DAGS) == len(FILES)


def test_all_of_them_succeed(ran: Ran) -> None:
    assert ran.states == dict.fromkeys(DAGS, "success"), ran.log[-5000:]


def test_none_of_them_fails_or_is_refused(ran: Ran) -> None:
    assert {request["outcome"] for request in ran.requests} == {"delivered"}


def test_sizes_are_as_on_the_page(ran: Ran) -> None:
    """No request has a size in a style that its model ignores."""
    warnings = [line for line in ran.log.splitlines() if "Preflight" in line]
    assert all("width and height are missing" in line for line in warnings), "edits may leave the size to the model"
    asked = {r["fields"]["model"]: r["fields"] for r in ran.requests if r["prompt"] == "a lighthouse"}
    assert set(asked) == {"deepshi-banana-pro", "nano-banana-2", "grok-imagine", "seedream-4.5"}


def test_the_shared_directory_is_as_on_the_page(ran: Ran) -> None:
    assert (ran.images / "brand" / "logo" / "image-0.png").is_file()
    assert len(list((ran.images / "mugs").glob("mug-*-0.png"))) == 20
