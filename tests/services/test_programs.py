from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.debian import MissingProgram, program
from tests.services.programs import Command, Program, bring_all
from tests.services.pythons import python

FAILS = [sys.executable, "-c", "raise SystemExit('the registry cannot be reached')"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    return tmp_path


def a_server(*commands: Command) -> Program:
    def installers() -> Iterator[Command]:
        yield from commands

    return Program(name="a-server", find=lambda: program("a-server", "a-package"), installers=installers)


def makes(path: Path) -> Command:
    return [sys.executable, "-c", f"import pathlib; pathlib.Path({str(path)!r}).touch(mode=0o755)"]


def test_nothing_is_printed_or_installed_if_all_is_there(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "a-server").touch(mode=0o755)
    assert bring_all([a_server(makes(folder / "another"))]) == 0
    assert capfd.readouterr() == ("", "")
    assert not (folder / "another").exists()


def test_what_is_missing_is_installed_by_the_first_command_that_can(folder: Path) -> None:
    assert bring_all([a_server(FAILS, makes(folder / "a-server"), makes(folder / "another"))]) == 0
    assert program("a-server", "a-package") == str(folder / "a-server")
    assert not (folder / "another").exists()


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_what_cannot_be_had_is_named_with_what_to_type(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ci: str, code: int
) -> None:
    monkeypatch.setenv("CI", ci)
    assert bring_all([a_server(FAILS), a_server(makes(folder / "a-server"))]) == code
    error = capfd.readouterr().err
    assert "a-server is missing. On Debian and Ubuntu: apt-get install a-package" in error
    assert "the registry cannot be reached" in error
    assert (folder / "a-server").exists()  # the others are installed all the same


def test_a_program_that_is_missing_is_an_error_of_its_test(folder: Path) -> None:
    with pytest.raises(MissingProgram, match=r"^a-server is missing\..* apt-get install a-package$"):
        a_server().bring()


def test_a_python_that_is_there_is_named_with_its_path() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert python(version) == sys.executable


def test_a_python_that_cannot_be_had_is_named_with_what_to_type() -> None:
    with pytest.raises(MissingProgram, match=r"^Python 3\.999 is .* uv python install 3\.999$"):
        python("3.999")
