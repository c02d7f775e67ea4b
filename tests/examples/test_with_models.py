"""The examples that need a model, run with pydantic-ai's own for tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.examples.conftest import Runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_model_gets_the_stored_picture_and_says_what_it_thinks(runs: Runs) -> None:
    """As far as that goes without a model that sees: the picture was read and attached, and the verdict came back."""
    assert set(runs.xcoms("llm_check", "look")[0]) == {"is_unusable", "reason"}


def test_an_agent_draws_into_the_directory_of_its_task(runs: Runs) -> None:
    (path,) = (runs.images / "agent").rglob("*.png")
    assert path.parent.name == "illustrator"
    drawn = json.loads(runs.xcoms("agent", "illustrator")[0]["draw"])
    assert Path(drawn["images"][0]["uri"].removeprefix("file://")) == path
