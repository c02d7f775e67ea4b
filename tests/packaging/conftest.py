"""The distributions built from this tree, and environments with the wheel but not the tree."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Distributions:
    """The results of ``make build``."""

    wheel: Path
    sdist: Path


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A virtual environment, and an empty directory to run its programs in.

    :param bin: where its programs are.
    """

    bin: Path
    folder: Path

    def run(self, *command: str, folder: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of its programs, without the tree on its path."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "PYTHON", "COV_"))}
        env |= {
            "AIRFLOW_HOME": str(self.folder / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        done = subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=folder or self.folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}:\n{done.stdout[-20_000:]}\n{done.stderr[-20_000:]}"
        return done


def build(source: Path, target: Path, *arguments: str) -> Path:
    """Build one distribution with hatchling as it is installed here, and return it."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(target), *arguments]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = target.iterdir()
    return made


def new_environment(folder: Path, *requirements: str) -> Environment:
    """Make an environment with the versions of ``constraints.txt``."""
    uv = [sys.executable, "-m", "uv"]
    python = folder / "venv" / "bin" / "python"
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    for command in (
        ["venv", "--python", sys.executable, str(folder / "venv")],
        # With byte code, because the programs are started several times.
        ["pip", "install", "--compile-bytecode", "--python", str(python), *constraints, *requirements],
    ):
        done = subprocess.run([*uv, *command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return Environment(bin=python.parent, folder=folder)


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Wheel and sdist of this tree."""
    return Distributions(
        wheel=build(ROOT, tmp_path_factory.mktemp("wheel"), "--target", "wheel"),
        sdist=build(ROOT, tmp_path_factory.mktemp("sdist"), "--target", "sdist"),
    )


@pytest.fixture(scope="session")
def installed(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment after ``pip install`` of the wheel without extras."""
    return new_environment(tmp_path_factory.mktemp("installed"), str(distributions.wheel))
