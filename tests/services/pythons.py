"""Finds the Pythons for the tests: ``python -m tests.services.pythons 3.10 3.13`` prints the installed ones.

It searches PATH and pyenv; uv downloads missing ones if it can. Those that cannot be found are listed with the command
to install them; if ``CI`` is set, that is an error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .debian import MissingProgram


def python(version: str) -> str:
    """Return the path of an interpreter of this minor version.

    :raises MissingProgram: it is not installed, and uv cannot download it.
    """
    uv = Path(sys.executable).with_name("uv")
    for path in _candidates(version):
        if _version(path) == version:
            return path
    for command in ("find", "install", "find"):
        done = subprocess.run(
            [uv, "python", command, "--managed-python", version], capture_output=True, text=True, check=False
        )
        if command == "find" and done.returncode == 0:
            return done.stdout.strip()
    raise MissingProgram(
        f"Python {version} is not on PATH, and neither pyenv nor uv has it. "
        f"Type: pyenv install {version}, or: uv python install {version}"
    )


def _candidates(version: str) -> Iterator[str]:
    yield sys.executable
    if on_path := shutil.which(f"python{version}"):
        yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python")))


def _version(path: str) -> str:
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    # pyenv's shims for all versions are on PATH; most of them only print an error.
    return subprocess.run([path, "-c", program], capture_output=True, text=True, check=False).stdout.strip()


def main(*versions: str) -> int:
    """Print the installed versions, one per line, each with its path."""
    missing: list[str] = []
    for version in versions:
        try:
            print(version, python(version))
        except MissingProgram as error:
            missing.append(str(error))
    if missing:
        print(*missing, sep="\n", file=sys.stderr)
    return 1 if missing and os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
