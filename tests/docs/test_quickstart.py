"""The quickstart, followed literally in an empty directory, with only the built wheel."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.docs.pages import DOCS, ROOT, blocks
from tests.services.processes import free_ports

pytestmark = [pytest.mark.airflow, pytest.mark.packaging, pytest.mark.timeout(900)]

PAGE = DOCS / "quickstart.md"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel, in place of a package index."""
    folder = tmp_path_factory.mktemp("wheels")
    subprocess.run(
        [sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT)],
        check=True,
        env=environment(),
    )
    return folder


def environment() -> dict[str, str]:
    """A user's environment, without Airflow, this project or the Python of the tests."""
    ours = ("AIRFLOW", "DEEPSHI", "PYTHON", "VIRTUAL_ENV", "COV_", "COVERAGE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    here = str(Path(sys.executable).parent)
    kept["PATH"] = os.pathsep.join(part for part in kept["PATH"].split(os.pathsep) if part != here)
    if Path("/etc/ssl/certs").is_dir():  # as the Makefile does
        kept.setdefault("UV_SYSTEM_CERTS", "1")
    return kept


def steps(python: str, port: int) -> Iterator[str]:
    """The page as one script: its shell commands, and files with the names in their captions.

    Only the port is another one, because somebody may use that of the page, and the interpreter is the one that runs
    the tests, because the machine's own may be one that the page does not allow.
    """
    for block in blocks(PAGE):
        if block.kind == "bash":
            text = block.text.replace("8710", str(port)).replace("python3 -m venv", f"{python} -m venv")
            yield f"{text}\n"
        elif block.kind == "{literalinclude}":
            name = block.options["caption"]
            yield f"mkdir -p {Path(name).parent}\ncat > {name} <<'END_OF_FILE'\n{block.included()}END_OF_FILE\n"


def test_the_page_works_literally(wheels: Path, tmp_path: Path) -> None:
    home = tmp_path / "empty"
    home.mkdir()
    # pip and uv find the wheel here, and the versions that the project was tested with.
    env = environment() | {"UV_FIND_LINKS": str(wheels), "UV_CONSTRAINT": str(ROOT / "constraints.txt")}
    # The base interpreter: a virtual environment's own would make environments that look into it.
    python = str(Path(sys.base_prefix) / "bin" / "python3")
    script = "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n" + "".join(steps(python, free_ports(1)[0]))
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=home,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    pictures = sorted((home / "pictures").rglob("*.png"))
    assert [picture.parent.name for picture in pictures] == ["at_night", "boat"]
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.size == (1024, 768)

    # The log has the lines that the page shows, and the last command lists the pictures.
    assert "Generate with deepshi-banana-pro: 1024x768, cost $0.000405, stored as file://" in done.stdout
    assert "Edit with deepshi-image-1: 1024x768, cost $0.003375525017, stored as file://" in done.stdout
    assert {str(picture.relative_to(home)) for picture in pictures} <= set(done.stdout.splitlines())

    # The wheel is what ran.
    (package,) = (home / "venv").glob("lib/python*/site-packages/deepshi_provider")
    assert (package / "py.typed").is_file()
    assert str(ROOT / "deepshi_provider") not in done.stdout
