"""Users test their DAGs with the plugin; here a separate pytest runs such a project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.services.airflow_database import new_home

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]

# The code of the docs page on the emulator.
CONFTEST = """
pytest_plugins = ["deepshi_provider.emulator.pytest_plugin"]
"""
OVER_TLS = """
@pytest.fixture(scope="session")
def deepshi_emulator_tls():
    return True
"""
ON_THE_PAGE = """
from airflow.dag_processing.dagbag import DagBag


def test_the_dag_buys_two_pictures(deepshi_emulator):
    run = DagBag().get_dag("boats").test()
    assert run.state == "success"
    stats = deepshi_emulator.stats()
    assert (stats["images"], float(stats["cost_usd"]) < 0.01) == (2, True)


def test_a_rate_limit_fails_the_run_and_costs_nothing(deepshi_emulator):
    deepshi_emulator.fault("status", status=429, retry_after=3600, times=None)
    assert DagBag().get_dag("boats").test().state == "failed"
    assert deepshi_emulator.stats()["cost_usd"] == "0"
"""

TESTS = """
import json
import os

import pytest

from airflow.sdk import DAG
from deepshi_provider.exceptions import RateLimited
from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.hooks.deepshi import DeepshiHook

BOAT = GenerateRequest(model="deepshi-banana-pro", prompt="a boat", width=64, height=64)


def test_a_picture_is_made_and_counted(deepshi_emulator, tmp_path):
    with DeepshiHook().generate(BOAT) as result:
        assert result.images[0].read().startswith(b"\\x89PNG")
    stats = deepshi_emulator.stats()
    assert (stats["images"], stats["cost_usd"]) == (1, str(result.cost_usd))
    assert deepshi_emulator.requests()[0]["fields"]["prompt"] == "a boat"
    connection = json.loads(os.environ["AIRFLOW_CONN_DEEPSHI_DEFAULT"])
    assert connection["extra"]["output_uri"] == (tmp_path / "deepshi").as_uri()
    assert connection["host"].partition("://")[0] == os.environ["EXPECTED_SCHEME"]
    deepshi_emulator.fault("status", status=429, times=None)


def test_every_test_begins_anew(deepshi_emulator):
    assert deepshi_emulator.stats()["images"] == 0
    DeepshiHook().generate(BOAT).close()  # the fault of the test before is gone


def test_what_goes_wrong_can_be_tried(deepshi_emulator):
    deepshi_emulator.fault("status", status=429, retry_after=3600)
    with pytest.raises(RateLimited):
        DeepshiHook().generate(BOAT)
    assert deepshi_emulator.stats()["cost_usd"] == "0"


def test_others_keep_their_connections():
    assert os.environ["AIRFLOW_CONN_DEEPSHI_DEFAULT"] == "what was there before"
"""


def run_pytest(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW_CONN_DEEPSHI_DEFAULT": "what was there before",
        **environment,
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def project(folder: Path, tests: str, conftest: str = CONFTEST) -> Path:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_dags.py").write_text(tests)
    return folder


def test_users_test_their_dags_with_it_over_tls(tmp_path: Path) -> None:
    conftest = f"{CONFTEST}import pytest\n{OVER_TLS}"
    done = run_pytest(project(tmp_path, TESTS, conftest), "-v", EXPECTED_SCHEME="https")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


@pytest.mark.airflow
@pytest.mark.timeout(600)
@pytest.mark.skipif(version("apache-airflow") < "3.3", reason="the page is about the newest Airflow")
def test_what_the_page_shows_works(tmp_path: Path) -> None:
    """The page's tests, and beside them the others, over plain HTTP."""
    folder = project(tmp_path, ON_THE_PAGE)
    (folder / "test_hooks.py").write_text(TESTS)
    (folder / "dags").mkdir()
    shutil.copy(ROOT / "docs" / "examples" / "boats.py", folder / "dags")
    env = {"AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    new_home(folder / "airflow")  # the page's `airflow db migrate`
    done = run_pytest(folder, "-v", EXPECTED_SCHEME="http", **env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout


def test_the_fixtures_explain_themselves(tmp_path: Path) -> None:
    done = run_pytest(project(tmp_path, "def test_nothing(): pass"), "--fixtures")
    assert "deepshi_emulator_process [session scope]" in done.stdout
    assert "Reset the emulator and make it the connection" in done.stdout


@pytest.mark.parametrize("name", ["uvicorn", "trustme"])
def test_without_the_extra_the_error_names_what_to_install(tmp_path: Path, name: str) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / f"{name}.py").write_text(f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')\n")
    folder = project(tmp_path, "def test_it(deepshi_emulator): pass", f"{CONFTEST}import pytest\n{OVER_TLS}")
    done = run_pytest(folder, PYTHONPATH=os.pathsep.join([str(hidden), str(ROOT)]))
    assert done.returncode == 1
    assert f"The emulator needs {name}: pip install 'airflow-provider-deepshi[emulator]'" in done.stdout


def test_nothing_but_pytest_is_needed_to_load_it() -> None:
    program = "import deepshi_provider.emulator.pytest_plugin, sys, json; print(json.dumps(sorted(sys.modules)))"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert loaded & {"airflow", "uvicorn", "starlette", "PIL", "httpx"} == set()
