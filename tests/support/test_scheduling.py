"""Whole files run in one worker, regardless of how pytest and pytest-xdist treat node ids."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.scheduling import AIRFLOWS, group_of

ROOT = Path(__file__).parents[2]

CONFTEST = """
from tests.support.scheduling import pytest_collection_modifyitems, pytest_xdist_make_scheduler
"""
TESTS = """
import os
import pytest

@pytest.mark.parametrize("number", range(6))
def test_where(number):
    with open({path!r}, "a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + chr(10))
"""


@pytest.mark.slow
def test_each_file_has_one_worker_and_both_workers_have_files(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for number in range(4):
        text = TESTS.format(path=str(tmp_path / f"workers-{number}"))
        (tmp_path / f"test_{number}.py").write_text(text)
    arguments = ["--numprocesses", "2", "--dist", "loadscope", "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    workers = [(tmp_path / f"workers-{number}").read_text().split() for number in range(4)]
    assert [len(found) for found in workers] == [6] * 4
    assert [len(set(found)) for found in workers] == [1] * 4
    assert {found[0] for found in workers} == {"gw0", "gw1"}


def test_what_starts_a_whole_airflow_shares_a_worker() -> None:
    for group, names in AIRFLOWS.items():
        assert [name for name in names if not (ROOT / name).exists()] == []
        assert {
            group_of(f"{name}test_x.py::test_y" if name.endswith("/") else f"{name}::test_y") for name in names
        } == {group}
    assert group_of("tests/api/test_answer.py::test_y[tests/triggers/in_airflow/::x]") == "tests/api/test_answer.py"
