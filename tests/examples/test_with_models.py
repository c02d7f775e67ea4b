"""The examples that need a model, with pydantic-ai's test model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.examples.conftest import Runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_model_gets_the_stored_picture_and_returns_a_verdict(runs: Runs) -> None:
    """The test model sees nothing, but the picture is read and attached, and the verdict is returned."""
    assert set(runs.xcoms("llm_check", "look")[0]) == {"is_unusable", "reason"}


def test_an_agent_draws_into_the_directory_of_its_task(runs: Runs) -> None:
    (path,) = (runs.images / "agent").rglob("*.png")
    assert path.parent.name == "illustrator"
    drawn = json.loads(runs.xcoms("agent", "illustrator")[0]["draw"])
    assert Path(drawn["images"][0]["uri"].removeprefix("file://")) == path
