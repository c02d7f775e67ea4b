"""Values of upstream tasks in a real Airflow, and the labels of mapped results."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from decimal import Decimal

import pytest

from tests.operators.conftest import Runs

pytestmark = pytest.mark.airflow


WORDS = ["the word x", "the word y", "the word z"]


@pytest.mark.parametrize(
    ("task_id", "prompts"),
    [
        ("of_concat", ["a 0", "a 1", "b 0", "b 1"]),
        ("of_map", ["a 0!", "a 1!"]),
        ("of_zip", ["a 0 and b 0", "a 1 and b 1"]),
        ("of_words", WORDS),
        ("of_mapped_words", [f"{word}!" for word in WORDS]),
        ("of_words_and_more", [*WORDS, "a 0", "a 1"]),
        ("returned_words", WORDS),
        ("returned_map", [f"{word}!" for word in WORDS]),
        ("returned_concat", ["a 0", "a 1", "b 0", "b 1"]),
    ],
)
def test_a_batch_accepts_every_form_of_upstream_results(runs: Runs, task_id: str, prompts: list[str]) -> None:
    assert runs.tries("lazy")[task_id] == ("success", 1)
    assert runs.xcoms("lazy", "return_value")[task_id]["created"] == len(prompts)
    assert all(runs.sent(prompt) for prompt in prompts)


@pytest.mark.parametrize(
    ("task_id", "count"), [("edit_mapped", 2), ("edit_concat", 4), ("edit_map", 2), ("edit_zip", 4)]
)
def test_an_edit_accepts_every_form_of_upstream_results(runs: Runs, task_id: str, count: int) -> None:
    assert runs.tries("lazy")[task_id] == ("success", 1)
    (edit,) = runs.sent(task_id)
    made = runs.xcoms("lazy", "return_value")
    both = [made[f"made[{index}]"]["images"][0]["sha256"] for index in range(2)]
    sent = [image["sha256"] for image in edit["images"]]
    assert (sorted(set(sent)), len(sent)) == (sorted(both), count)


# ------------------------------------------------------------------ labels of results


def test_each_mapped_result_has_its_index_key_and_metadata(runs: Runs) -> None:
    states = runs.tries("labelled")
    assert [states[f"pictures[{index}]"][0] for index in range(3)] == ["success", "failed", "success"]
    results = runs.xcoms("labelled", "return_value")
    found = {
        name: (value["map_index"], value["key"], value["metadata"])
        for name, value in results.items()
        if isinstance(value, dict) and "map_index" in value
    }
    assert found == {
        "pictures[0]": (0, 7, {"table": "lamps", "tags": ["new", None]}),
        "pictures[2]": (2, 9, "shoes"),
        "rendered": (-1, "rendered/007", {"run": found["rendered"][2]["run"], "none": None, "yes": True}),
        "catalog": (-1, "whole", [1, None]),
        "drawn": (-1, {"sku": 1}, "of the decorator"),
    }


def test_a_write_back_gives_each_item_its_own_picture(runs: Runs) -> None:
    results = runs.xcoms("labelled", "return_value")
    written = results["write_back"]
    assert set(written) == {"7", "9"}
    for key, index, prompt in (("7", 0, "a lamp"), ("9", 2, "a shoe")):
        (request,) = runs.sent(prompt)
        assert written[key] == results[f"pictures[{index}]"]["images"][0]["uri"]
        assert written[key].endswith(f"/pictures/{index}/image-0.png")
        assert not {"key", "metadata"} & set(request["fields"]), "they are the user's own"


def test_asset_events_have_the_labels_of_their_picture(runs: Runs) -> None:
    with closing(sqlite3.connect(runs.database)) as database:
        rows = database.execute(
            "SELECT asset.uri, asset_event.extra, source_map_index FROM asset_event JOIN asset ON asset.id = asset_id "
            "WHERE source_dag_id = 'labelled'"
        ).fetchall()
    events = [(uri, json.loads(extra), index) for uri, extra, index in rows]
    assert len(events) == 4, "of the asset and of the alias, for two pictures"
    for uri, extra, index in events:
        assert (extra["map_index"], extra["key"]) == (index, {0: 7, 2: 9}[index])
        assert extra["metadata"] == ({"table": "lamps", "tags": ["new", None]} if index == 0 else "shoes")
        assert uri == "s3://catalog/pictures" or uri.endswith(f"/{index}/image-0.png")


def test_cost_sheets_have_the_labels_of_their_picture(runs: Runs) -> None:
    sheets = runs.xcoms("labelled", "deepshi_cost")
    assert {name: (sheet["key"], sheet["metadata"]) for name, sheet in sheets.items() if "pictures" in name} == {
        "pictures[0]": (7, {"table": "lamps", "tags": ["new", None]}),
        "pictures[1]": (8, {"table": "chairs"}),
        "pictures[2]": (9, "shoes"),
    }


# ------------------------------------------------------------------ purchases of a hook in a task


def test_the_budget_of_a_run_counts_what_a_hook_has_bought(runs: Runs) -> None:
    costs = runs.xcoms("bought", "return_value")["buy"]
    sent = runs.sent("bought by a hook")
    assert [request["cost_usd"] for request in sent] == costs, "one picture each, by the server's books"
    assert sum(map(Decimal, costs)) > Decimal("0.0000031")
    assert (runs.tries("bought")["after"], runs.sent("after the hook")) == (("failed", 1), [])
    assert "max_run_cost_usd $0.0000031" in runs.log


# ------------------------------------------------------------------ names and defaults


@pytest.mark.parametrize(
    ("task_id", "prompt", "message"),
    [
        ("typo", "a typo", "unknown column 'widht'.*Did you mean width\\?"),
        ("of_the_model", "of the model", "unknown column 'negative_prompt'; put fields of the model into extra_params"),
        ("streamed", "streamed", "unknown column 'stream'"),
        ("typo_in_list", "a typo in a list", "Row 1: unknown column 'qualtiy'.*Did you mean quality\\?"),
        ("twice", "named twice", "extra_params names fields of their own: width"),
        ("too_long", "too long", "metadata: at most 1,024 bytes of JSON are allowed, got 1,025"),
    ],
)
def test_misspelled_fields_of_a_function_are_not_paid_for(runs: Runs, task_id: str, prompt: str, message: str) -> None:
    assert runs.tries("names")[task_id] == ("failed", 1)
    assert runs.sent(prompt) == []
    assert runs.xcoms("names", "cost_usd")[task_id] == 0
    import re

    assert re.search(message, runs.log)


def test_extra_params_of_a_function_are_sent(runs: Runs) -> None:
    (request,) = runs.sent("with extra")
    assert request["fields"]["negative_prompt"] == "red"


def test_edits_have_a_model_that_edits_by_default(runs: Runs) -> None:
    assert {name: state for name, (state, _) in runs.tries("edits").items()} == dict.fromkeys(
        ["cup", "blue", "red", "both", "all_edits"], "success"
    )
    models = {prompt: runs.sent(prompt)[0]["model"] for prompt in ("a cup", "blue", "red", "green", "yellow")}
    assert models == {"a cup": "deepshi-banana-pro"} | dict.fromkeys(
        ["blue", "red", "green", "yellow"], "deepshi-image-1"
    )
    assert runs.sent("a green cup")[0]["model"] == "deepshi-banana-pro"
