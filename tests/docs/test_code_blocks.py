"""Every code block of every page is run, or checked as far as possible without a cluster."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest
from airflow.configuration import retrieve_configuration_description
from airflow.models import Connection

from deepshi_provider.cli.main import main as deepshi_command
from deepshi_provider.emulator.__main__ import main as emulator_command
from deepshi_provider.hooks.connection import settings_of
from tests.docs.pages import DOCS, PAGES, ROOT, Block, all_blocks, blocks

# Directories of code that pages include; tests run all of it.
RUN = {
    "examples": DOCS / "examples",  # tests/docs/test_examples.py
    "dags_examples": ROOT / "dags_examples",  # tests/examples
}
DIRECTIVES = ("{toctree}", "{eval-rst}", "{include}", "{image}", "{figure}", "{note}", "{warning}", "{literalinclude}")
CHECKED = ("json", "ini", "bash", "python")
SHELL = all_blocks("bash", "sh", "shell")
NAMES = re.compile(r"(?:AIRFLOW_CONN_DEEPSHI_DEFAULT=|--conn-json )('[^']*')")


def runnable_text() -> list[str]:
    return [
        textwrap.dedent(path.read_text())
        for folder in (*RUN.values(), ROOT / "tests")
        for path in sorted(folder.rglob("*.py"))
    ]


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    """Diagrams and listings are marked ``text``."""
    known = {*DIRECTIVES, *CHECKED, "text"}
    assert [f"{block}: {block.kind!r}" for page in PAGES for block in blocks(page) if block.kind not in known] == []


@pytest.mark.parametrize("block", all_blocks("{literalinclude}"), ids=str)
def test_included_code_is_run_by_tests(block: Block) -> None:
    path = (block.page.parent / block.argument).resolve()
    assert any(path.is_relative_to(folder) for folder in RUN.values()), f"{path} is not run by a test"
    assert block.included().strip()


@pytest.mark.parametrize("block", all_blocks("python"), ids=str)
def test_python_on_a_page_is_in_a_file_that_is_run(block: Block) -> None:
    """Pages that are read outside the built documentation cannot include files; they contain the same code."""
    ast.parse(block.text)
    wanted = [line.strip() for line in block.text.splitlines() if line.strip()]
    files = ([line.strip() for line in text.splitlines() if line.strip()] for text in runnable_text())
    assert any(contains(lines, wanted) for lines in files), f"{block}: no file that tests run has these lines"


def contains(lines: list[str], wanted: list[str]) -> bool:
    starts = (at for at, line in enumerate(lines) if line == wanted[0])
    return any(lines[at : at + len(wanted)] == wanted for at in starts)


@pytest.mark.parametrize("block", all_blocks("json"), ids=str)
def test_json_blocks_are_valid_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", all_blocks("ini"), ids=str)
def test_settings_are_settings_of_airflow(block: Block) -> None:
    known = retrieve_configuration_description(include_providers=False)
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(block.text)
    for section in parser.sections():
        for option, value in parser[section].items():
            assert option in known[section]["options"]
            if option.endswith("kwargs"):
                json.loads(value)


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_blocks_are_valid_shell(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("block", [block for block in SHELL if NAMES.search(block.text)], ids=str)
def test_connections_can_be_used(block: Block) -> None:
    for quoted in NAMES.findall(block.text):
        (text,) = shlex.split(quoted)
        text = text.replace("…", "x")
        connection = Connection.from_json(text) if text.startswith("{") else Connection(uri=text)
        connection.conn_id = "deepshi_default"
        assert connection.conn_type == "deepshi"
        settings = settings_of(connection)
        assert settings.output_uri
        assert settings.base_url in ("https://api.deepshi.ai", "http://127.0.0.1:8710")


def commands(text: str) -> list[list[str]]:
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [[word for word in line if word != "&"] for line in words if line]


MAKE = {(name,) for name in re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)}
ALL_COMMANDS = [(block, command) for block in SHELL for command in commands(block.text)]


@pytest.mark.parametrize(
    ("block", "command"), [pair for pair in ALL_COMMANDS if pair[1][0] == "make"], ids=lambda value: str(value)
)
def test_targets_of_make_exist(block: Block, command: list[str]) -> None:
    targets = {(word,) for word in command[1:] if "=" not in word}
    assert targets <= MAKE, block


@pytest.mark.parametrize(
    ("block", "command"), [pair for pair in ALL_COMMANDS if pair[1][0] == "airflow"], ids=lambda value: str(value)
)
def test_commands_of_airflow_exist(block: Block, command: list[str]) -> None:
    from airflow.cli.cli_parser import get_parser

    assert get_parser().parse_args(command[1:]).subcommand in command, block


@pytest.mark.parametrize(
    ("block", "command"), [pair for pair in ALL_COMMANDS if "airflow-provider-deepshi" in str(pair[1])], ids=str
)
def test_extras_exist(block: Block, command: list[str]) -> None:
    declared = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    known = set(re.findall(r"^(\w+) = \[", declared.partition("\n[project.")[0], re.MULTILINE))
    for word in command:
        for extras in re.findall(r"airflow-provider-deepshi\[([\w,]+)\]", word):
            assert set(extras.split(",")) <= known, block


PROGRAMS: dict[str, Callable[[], object]] = {
    "deepshi_provider": deepshi_command,
    "deepshi_provider.emulator": emulator_command,
}
MODULES = [pair for pair in ALL_COMMANDS if re.match(r"python -m deepshi_provider", " ".join(pair[1]))]


@pytest.mark.parametrize(("block", "command"), MODULES, ids=lambda value: str(value))
def test_programs_know_their_options(
    block: Block, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each option on a page is in the program's help."""
    _, _, module, *words = command
    subcommand = [word for word in words[:1] if not word.startswith("-")]
    monkeypatch.setattr(sys, "argv", [module, *subcommand, "--help"])
    with pytest.raises(SystemExit, match="0"):
        PROGRAMS[module]()
    shown = capsys.readouterr().out
    for option in (word for word in words if word.startswith("--")):
        assert option.partition("=")[0] in shown, block


def test_relative_links_of_pages_outside_the_site_exist() -> None:
    """Sphinx checks the links of the site itself."""
    for name in ("README.md", "CONTRIBUTING.md"):
        links = re.findall(r"\]\((?!https?://|#)([^)#]+)", (ROOT / name).read_text())
        assert [link for link in links if not (ROOT / link).exists()] == [], name


def test_pictures_on_pages_exist() -> None:
    for page in DOCS.rglob("*.md"):
        for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / picture).is_file(), f"{page}: {picture}"
