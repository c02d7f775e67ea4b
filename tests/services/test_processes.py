"""Processes that are killed and started again, and programs that may be missing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.debian import MissingProgram, program
from tests.services.processes import Process
from tests.support.waiting import wait_for


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    command = ["sh", "-c", "echo begun; sleep 300 & wait"]
    process = Process("sleeper", command, env=os.environ, log_path=tmp_path / "sleeper.log")
    yield process
    process.kill_hard()


def test_killed_process_starts_again_and_its_log_goes_on(sleeper: Process) -> None:
    wait_for("its child", 60, sleeper.children)
    first = sleeper.pid
    sleeper.kill_hard()
    assert sleeper.exit_code == -signal.SIGKILL

    sleeper.start_again()
    wait_for("its child", 60, sleeper.children)
    assert sleeper.pid != first
    assert sleeper.log_text() == "begun\nbegun\n"


def test_what_outlives_the_first_process_is_removed(sleeper: Process) -> None:
    (child,) = wait_for("its child", 60, sleeper.children)
    sleeper.kill(signal.SIGKILL)
    wait_for("its end", 60, lambda: sleeper.exit_code is not None)
    assert sleeper.children() == [child]
    sleeper.kill_hard()
    assert sleeper.children() == []


def test_missing_program_says_what_to_install() -> None:
    with pytest.raises(MissingProgram, match=r"^no-such-server is missing\..* apt-get install no-such-package$"):
        program("no-such-server", "no-such-package")


def test_program_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a-server").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program("a-server", "a-package") == str(tmp_path / "a-server")
