"""Real DAG runs with ``dag.test()`` and a database, to test how Airflow runs our operators."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.operators.conftest import Runs

pytestmark = pytest.mark.airflow


def _paths(xcom: dict[str, Any]) -> list[Path]:
    return [Path(urlsplit(image["uri"]).path) for image in xcom["images"]]


def test_expanded_task_has_a_directory_per_map_index(runs: Runs) -> None:
    assert runs.tries("mapped") == {f"boats[{index}]": ("success", 1) for index in range(3)}
    values = runs.xcoms("mapped", "return_value")
    folder = f"{runs.place.uri}/{runs.run_folder('mapped')}/boats"
    assert {name: [image["uri"] for image in value["images"]] for name, value in values.items()} == {
        f"boats[{index}]": [f"{folder}/{index}/image-0.jpg"] for index in range(3)
    }
    prompts = ["one boat", "two boats", "a boat of jpeg"]
    for index, prompt in enumerate(prompts):
        (request,) = runs.sent(prompt)
        assert (request["fields"]["seed"], request["fields"]["output_format"]) == (index, "jpeg")
        (path,) = _paths(values[f"boats[{index}]"])
        assert path.stat().st_size == values[f"boats[{index}]"]["images"][0]["size_bytes"]
        assert runs.xcoms("mapped", "cost_usd")[f"boats[{index}]"] == float(request["cost_usd"])


def test_values_from_upstream_are_no_templates(runs: Runs) -> None:
    assert set(runs.xcoms("mapped_over_xcom", "cost_usd")) == {"boats[0]", "boats[1]", "sized[0]", "sized[1]"}
    assert [len(runs.sent(prompt)) for prompt in ("{{ not a template }}", "b")] == [1, 1]
    assert sorted(request["fields"]["width"] for request in runs.sent("sized")) == [64, 65]


def test_edit_accepts_the_output_of_a_generation_unchanged(runs: Runs) -> None:
    assert set(runs.tries("chain").values()) == {("success", 1)}
    values = runs.xcoms("chain", "return_value")
    (generation,), (edit,), (second,) = (runs.sent(p) for p in ("a pair of boats", "make it blue", "make it red"))
    assert generation["fields"]["width"] == 64
    assert [image["sha256"] for image in edit["images"]] == [image["sha256"] for image in values["made"]["images"]]
    assert [image["sha256"] for image in second["images"]] == [image["sha256"] for image in values["blue"]["images"]]
    assert values["total"] == {
        "cost_usd": values["made"]["cost_usd"] + values["blue"]["cost_usd"],
        "uris": [image["uri"] for image in values["blue"]["images"]],
    }
    for path in _paths(values["made"]) + _paths(values["blue"]) + _paths(values["again"]):
        assert path.is_file()


def test_native_rendering_gives_numbers_and_lists(runs: Runs) -> None:
    assert set(runs.tries("native").values()) == {("success", 1)}
    (first,), (second,) = runs.sent("1984"), runs.sent("native")
    assert {"width": 64, "height": 48}.items() <= first["fields"].items()
    assert "seed" not in first["fields"]
    (image,) = runs.xcoms("native", "return_value")["first"]["images"]
    assert [sent["sha256"] for sent in second["images"]] == [image["sha256"]]


def test_only_errors_that_a_retry_may_fix_are_retried(runs: Runs) -> None:
    assert runs.tries("retried") == {
        "spoilt": ("success", 2),
        "lost": ("success", 2),
        "refused": ("failed", 1),
        "never": ("failed", 1),
        "wrong": ("failed", 1),
    }
    prompts = ["a spoilt boat", "a lost boat", "a refused boat", "a boat sent once", "a boat"]
    assert [len(runs.sent(prompt)) for prompt in prompts] == [2, 2, 1, 1, 0]
    assert runs.sent("a lost boat")[0]["fields"]["seed"] == 7, "default_args reach the operator"
    values = runs.xcoms("retried", "return_value")
    assert set(values) == {"spoilt", "lost"}
    assert (values["lost"]["unknown_outcomes"], values["spoilt"]["unknown_outcomes"]) == (1, 0)


def test_costs_count_all_tries_and_failed_tasks_report_them_too(runs: Runs) -> None:
    costs = runs.xcoms("retried", "cost_usd")
    paid = {
        prompt: sum((Decimal(request["cost_usd"] or 0) for request in runs.sent(prompt)), Decimal(0))
        for prompt in ("a spoilt boat", "a lost boat")
    }
    assert {task: Decimal(repr(cost)) for task, cost in costs.items()} == {
        "spoilt": paid["a spoilt boat"],
        "lost": paid["a lost boat"],
        "refused": 0,
        "never": 0,
        "wrong": 0,
    }
    assert paid["a spoilt boat"] == 2 * paid["a lost boat"] > 0


def test_logs_contain_neither_the_key_nor_image_data(runs: Runs) -> None:
    assert "sk-bf-emulator" not in runs.log
    assert len(max(runs.log.splitlines(), key=len)) < 20_000
