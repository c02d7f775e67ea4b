"""docs/architecture.md names packages and functions as they are."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.docs.pages import ROOT
from tests.support.counts import posts
from tests.support.places import Place
from tests.support.tasks import TaskInstance, execute, generate

PAGE = (ROOT / "docs" / "architecture.md").read_text()
#: The functions of each of the three ways, in order.
WAYS = {
    name: re.findall(r"`([a-z_]+(?:\.\w+)+)`", text)
    for name, text in re.findall(r"^- An? \*\*(\w+)\*\*: (.*?)\.$", PAGE, re.DOTALL | re.MULTILINE)
}


def code_of(path: str) -> CodeType:
    """Return the code of a function, such as ``jobs.engine.Engine.run``."""
    package, module, *names = path.split(".")
    found: Any = importlib.import_module(f"deepshi_provider.{package}.{module}")
    for name in names:
        found = getattr(found, name)
    code: CodeType = inspect.unwrap(found).__code__
    return code


@pytest.fixture
def calls() -> Any:
    """A function that runs another and returns the code of each function that it calls in this thread."""
    before = sys.getprofile()

    def calls_of(run: Callable[[], object]) -> list[CodeType]:
        found: list[CodeType] = []

        def note(frame: FrameType, event: str, _: object) -> None:
            if event == "call":
                found.append(frame.f_code)

        sys.setprofile(note)
        try:
            run()
        finally:
            sys.setprofile(before)
        return found

    return calls_of


def test_the_page_has_three_ways_of_at_most_eight_stops() -> None:
    assert list(WAYS) == ["prompt", "image", "cost"]
    assert all(3 <= len(stops) <= 8 for stops in WAYS.values()), WAYS


def test_an_image_takes_the_ways_of_the_page(emulator: Emulator, local: Place, calls: Any) -> None:
    operator = generate(output_uri=local.uri)
    called = calls(lambda: execute(operator, TaskInstance(task_id=operator.task_id)))
    assert posts(emulator) == 1
    for name, stops in WAYS.items():
        left = iter(called)
        missing = [stop for stop in stops if not any(code is code_of(stop) for code in left)]
        assert missing == [], f"the way of the {name}"


def test_the_map_shows_the_layers_that_import_linter_enforces() -> None:
    tool = (ROOT / "pyproject.toml").read_text()
    (layers,) = re.findall(r"^layers = \[(.*?)\]$", tool, re.DOTALL | re.MULTILINE)
    enforced = [set(re.findall(r"\w+", line)) for line in layers.splitlines() if line.strip()]
    (drawn,) = re.findall(r"```text\n(.*?)─", PAGE, re.DOTALL)
    shown = [set(re.findall(r"\w+", re.split(r"  {2,}", line)[0])) for line in drawn.splitlines() if line.strip()]
    assert shown == enforced[1:], "the first is __main__"
    assert "ignore_imports" not in tool
    assert ":" not in layers, "no two packages of a layer import each other"
