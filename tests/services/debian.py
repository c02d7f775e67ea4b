"""Finds programs of Debian packages: on PATH, or in the packages' directories."""

from __future__ import annotations

import shutil
from pathlib import Path

#: PostgreSQL's server programs are not on PATH, since several versions may be installed.
_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/sbin", "/usr/local/sbin")


class MissingProgram(Exception):
    """A program is not installed; the message says how to get it."""


def program(name: str, package: str) -> str:
    """Return the path of the newest version of a program.

    :param package: the Debian package of the program.
    :raises MissingProgram: the program is not installed.
    """
    # Client programs on PATH may be wrappers; those next to the server match its version.
    installed = [path for folder in _FOLDERS for path in Path("/").glob(f"{folder[1:]}/{name}")]
    found = max(installed, key=_version, default=None) or shutil.which(name)
    if found is None:
        raise MissingProgram(f"{name} is missing. On Debian and Ubuntu: apt-get install {package}")
    return str(found)


def _version(path: Path) -> int:
    name = path.parents[1].name
    return int(name) if name.isdigit() else 0
