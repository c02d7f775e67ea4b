"""The versions of ``constraints.txt`` can be installed on every Python that is claimed, of which one runs the tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

PYTHONS = re.findall(r"^PYTHONS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()

pytestmark = pytest.mark.packaging


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_hold_on(python: str, tmp_path: Path) -> None:
    """Checks each version alone: their compatibility is known, and only the Python differs."""
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--no-deps"]
    command += ["--python-version", python, "constraints.txt", "--output-file", str(tmp_path / "found.txt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
