"""The package works with the lowest versions of its dependencies that its metadata allows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import Distributions, Environment

pytestmark = [pytest.mark.load, pytest.mark.timeout(900)]

#: The oldest tested Airflow for this Python, and the day after its release: its constraints have nothing newer.
AIRFLOW, RELEASED = ("3.1.8", "2026-03-12") if sys.version_info < (3, 14) else ("3.2.2", "2026-06-01")
EXTRAS = "[amazon,emulator,parquet,sql]"
#: What some modules are for, without being required by them.
OPTIONAL = ["apache-airflow-providers-openlineage>=2.10", "pytest>=8.4"]
IMPORT_ALL = """
import importlib, pkgutil
import deepshi_provider
from airflow.sdk import task

names = [found.name for found in pkgutil.walk_packages(deepshi_provider.__path__, "deepshi_provider.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names), task.deepshi_image.__name__)
"""


@pytest.fixture(scope="module")
def lowest(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("lowest")
    uv = [sys.executable, "-m", "uv"]
    python = folder / "venv" / "bin" / "python"
    wanted = [f"{distributions.wheel}{EXTRAS}", f"apache-airflow=={AIRFLOW}", *OPTIONAL]
    for command in (
        ["venv", "--python", sys.executable, str(folder / "venv")],
        [
            "pip",
            "install",
            "--python",
            str(python),
            "--resolution",
            "lowest-direct",
            "--exclude-newer",
            RELEASED,
            *wanted,
        ],
    ):
        done = subprocess.run([*uv, *command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return Environment(bin=Path(python.parent), folder=folder)


def test_every_module_is_imported_with_the_lowest_versions(lowest: Environment) -> None:
    count, decorator = lowest.run("python", "-c", IMPORT_ALL).stdout.split()[-2:]
    assert (int(count) > 100, decorator) == (True, "deepshi_image_task")
