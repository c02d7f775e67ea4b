"""The versions of ``constraints.txt`` can be installed on every Python that is claimed, of which one runs the tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

PYTHONS = re.findall(r"^PYTHONS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
GROUPS = ("dev", "cluster", "node", "load")

pytestmark = pytest.mark.packaging


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_hold_on(python: str, tmp_path: Path) -> None:
    groups = [argument for group in GROUPS for argument in ("--group", group)]
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--python-version", python]
    command += ["--constraint", "constraints.txt", "--all-extras", *groups, "pyproject.toml"]
    done = subprocess.run(
        [*command, "--output-file", str(tmp_path / "found.txt")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    known = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert set(re.findall(r"^([\w.-]+)==", (tmp_path / "found.txt").read_text(), re.MULTILINE)) - known == set()
