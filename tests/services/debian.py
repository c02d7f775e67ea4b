"""Programs that Debian packages: found on PATH, or where the packages put them."""

from __future__ import annotations

import shutil
from pathlib import Path

#: PostgreSQL's server programs are not on PATH: several versions may be installed.
_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/sbin", "/usr/local/sbin")


class MissingProgram(Exception):
    """A program is not installed; the message says how to get it."""


def program(name: str, package: str) -> str:
    """Return the path of a program, of its newest version.

    :param package: the Debian package that has it.
    :raises MissingProgram: it is nowhere.
    """
    # Client programs on PATH may be wrappers; what lies beside the server fits it.
    installed = [path for folder in _FOLDERS for path in Path("/").glob(f"{folder[1:]}/{name}")]
    found = max(installed, key=_version, default=None) or shutil.which(name)
    if found is None:
        raise MissingProgram(f"{name} is missing. On Debian and Ubuntu: apt-get install {package}")
    return str(found)


def _version(path: Path) -> int:
    name = path.parents[1].name
    return int(name) if name.isdigit() else 0
