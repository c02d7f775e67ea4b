"""The example DAGs run against the emulator, unchanged."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import duckdb
import pytest

from dags_examples.catalog_incremental import PRODUCTS
from tests.examples.conftest import PRODUCTS as FILE
from tests.examples.conftest import RUNS, SHOP, Runs, local, size_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NO_DOUBT = {"untold": 0, "unknown_outcomes": 0, "may_have_cost_usd": 0.0}


def test_all_of_them_succeed(runs: Runs) -> None:
    assert [run["dag_id"] for run in runs.states] == list(RUNS)
    assert {run["state"] for run in runs.states} == {"success"}, runs.log[-5000:]


def test_the_catalog_is_bought_once(runs: Runs) -> None:
    first, second = (runs.xcoms("catalog_nightly", "render", run=run)[0] for run in (0, 1))
    assert (first["created"], first["reused"], second["created"], second["reused"]) == (12, 0, 0, 12)
    assert second["cost_usd"] == 0
    prompts = {f"Studio photo of a {product['name']}, white background" for product in PRODUCTS}
    asked = [request for request in runs.requests if request["prompt"] in prompts]
    assert len(asked) == len(PRODUCTS) == 12
    assert first["cost_usd"] == pytest.approx(sum(float(request["cost_usd"]) for request in asked), abs=1e-12)
    lines = [json.loads(line) for line in local(second["manifest_uri"]).read_text().splitlines()]
    assert [line["key"] for line in lines] == [product["sku"] for product in PRODUCTS]
    assert all(size_of(local(line["uri"])) == (512, 512) for line in lines)


def test_the_catalog_updates_its_asset(runs: Runs) -> None:
    sql = "SELECT e.extra FROM asset_event e JOIN asset a ON e.asset_id = a.id WHERE a.name = ? ORDER BY e.id"
    first, second = (json.loads(extra) for (extra,) in runs.query(sql, "deepshi_catalog"))
    results = [runs.xcoms("catalog_nightly", "render", run=run)[0] for run in (0, 1)]
    labels: dict[str, object] = {"map_index": -1, "key": None, "metadata": None, "warnings": [], **NO_DOUBT}
    uris = [result["manifest_uri"] for result in results]
    assert first == {"images": 12, "cost_usd": results[0]["cost_usd"], "manifest_uri": uris[0], **labels}
    assert second == {"images": 12, "cost_usd": 0.0, "manifest_uri": uris[1], **labels}


def test_edits_go_on_from_each_other(runs: Runs) -> None:
    house, night, winter, triptych = (
        runs.xcoms("edit_chain", task)[0] for task in ("house", "at_night", "in_winter", "triptych")
    )
    edits = [
        request for request in runs.requests if request["path"].endswith("/edits") and "blue" not in request["prompt"]
    ]
    assert [len(request["images"]) for request in edits] == [1, 1, 3]
    taken = [[image["sha256"] for image in request["images"]] for request in edits]
    made = [result["images"][0]["sha256"] for result in (house, night, winter)]
    assert taken == [made[:1], made[1:2], made]
    assert triptych["images"][0]["width"] == 2048
    assert [request["stream"] for request in edits] == [True, False, True]
    report = runs.xcoms("edit_chain", "report")[0]
    assert report["images"] == 4
    assert report["cost_usd"] == pytest.approx(sum(result["cost_usd"] for result in (house, night, winter, triptych)))
    assert "triptych" in local(report["html_uri"]).read_text()


def test_functions_return_what_to_draw(runs: Runs) -> None:
    total = runs.xcoms("taskflow", "total")[0]
    mapped = runs.xcoms("taskflow", "animal")
    others = [runs.xcoms("taskflow", task)[0] for task in ("poster", "alphabet")]
    assert len(mapped) == 2
    assert total == pytest.approx(sum(result["cost_usd"] for result in [*mapped, *others]))
    prompts = {request["prompt"] for request in runs.requests}
    assert {"a watercolour of a fox", "a watercolour of a owl", "a poster about the sea"} < prompts
    assert {f"the letter {letter}, carved in wood" for letter in "ABC"} < prompts


@pytest.mark.parametrize("task", ["blocking", "deferred", "single"])
def test_outlets_have_the_results(runs: Runs, task: str) -> None:
    """An asset event has the numbers, an alias one asset for each image."""
    (result,) = runs.xcoms("outlets", task)
    (cost,) = runs.xcoms("outlets", task, "cost_usd")
    sql = (
        "SELECT a.name, a.uri, e.extra FROM asset_event e JOIN asset a ON e.asset_id = a.id "
        "WHERE e.source_dag_id = 'outlets' AND e.source_task_id = ? ORDER BY a.uri"
    )
    events = {name: (uri, json.loads(extra)) for name, uri, extra in runs.query(sql, task)}
    count = 1 if task == "single" else 3
    assert events.pop("pictures")[1] == {
        "images": count,
        "cost_usd": cost,
        **NO_DOUBT,
        "manifest_uri": result["manifest_uri"],
        "map_index": -1,
        "key": None,
        "metadata": None,
        "warnings": result["warnings"],
    }
    assert len(events) == count
    for uri, extra in events.values():
        assert extra["uri"] == uri
        assert local(uri).is_file()
        if task != "single":
            assert set(extra) == {"uri", "key", "model", "map_index", "metadata", "warnings"}
    sql = (
        "SELECT count(*) FROM asset_alias_asset_event j JOIN asset_event e ON j.event_id = e.id "
        "WHERE e.source_task_id = ? AND e.source_dag_id = 'outlets'"
    )
    assert runs.query(sql, task) == [(count,)]


def test_the_warehouse_has_the_cost_of_each_category(runs: Runs) -> None:
    """The second run buys nothing, and loading it leaves the rows of the first unchanged."""
    asked = [request for request in runs.requests if "grey background" in request["prompt"]]
    costs_of = {request["prompt"]: Decimal(request["cost_usd"]) for request in asked}
    paid = {sku: costs_of.pop(f"Studio photo of a {name}, grey background") for sku, _, name in SHOP}
    assert (len(asked), costs_of) == (len(SHOP), {})

    first, second = runs.run_ids("warehouse_etl")
    with duckdb.connect(str(runs.warehouse), read_only=True) as warehouse:
        query = "SELECT sku, category, status, cost_usd FROM pictures WHERE run_id = ? ORDER BY sku"
        loaded = {run: warehouse.execute(query, [run]).fetchall() for run in (first, second)}
    assert loaded[first] == [(sku, kind, "created", paid[sku]) for sku, kind, _ in SHOP]
    assert loaded[second] == [(sku, kind, "reused", 0) for sku, kind, _ in SHOP]

    costs = [runs.xcoms("warehouse_etl", "load", run=run)[0] for run in (0, 1)]
    cups, rugs = float(paid["cup-1"] + paid["cup-2"]), float(paid["rug-1"])
    assert costs[0] == [
        {"category": "cup", "pictures": 2, "bought": 2, "cost_usd": cups},
        {"category": "rug", "pictures": 1, "bought": 1, "cost_usd": rugs},
    ]
    assert [(row["bought"], row["cost_usd"]) for row in costs[1]] == [(0, 0), (0, 0)]


def test_a_file_of_products_goes_through_the_batch_into_duckdb(runs: Runs) -> None:
    asked = {request["prompt"]: float(request["cost_usd"]) for request in runs.requests}
    paid = {p["sku"]: asked[f"Studio photo of a {p['name']}, {p['colour']} background"] for p in FILE}
    assert runs.xcoms("parquet_to_duckdb", "costs")[0] == [
        {"colour": "blue", "pictures": 1, "cost_usd": pytest.approx(paid["001"])},
        {"colour": "green", "pictures": 2, "cost_usd": pytest.approx(paid["000"] + paid["002"])},
    ]
    (batch,) = runs.xcoms("parquet_to_duckdb", "render")
    manifest = duckdb.read_parquet(str(local(batch["manifest_uri"])))
    assert manifest.project("key, name, colour, price").fetchall() == [tuple(p.values()) for p in FILE]


def test_a_frame_goes_in_and_a_frame_comes_out(runs: Runs) -> None:
    asked = {request["prompt"]: float(request["cost_usd"]) for request in runs.requests}
    fox, owl, elk = (asked[f"a large {animal} in a meadow"] for animal in ("fox", "owl", "elk"))
    assert runs.xcoms("polars_frame", "costs")[0] == [
        {"legs": 2, "pictures": 1, "cost_usd": pytest.approx(owl)},
        {"legs": 4, "pictures": 2, "cost_usd": pytest.approx(fox + elk)},
    ]


def decorated(runs: Runs, task: str) -> Any:
    (result,) = runs.xcoms("decorated", task)
    return result


def test_a_decorated_function_may_return_a_prompt_fields_or_rows(runs: Runs) -> None:
    sent = {request["prompt"]: request["fields"] for request in runs.requests}
    assert sent["a mug"]["width"] == 64
    assert (sent["a jug"]["width"], sent["a jug"]["height"], sent["a jug"]["style"]) == (80, 48, "flat")
    assert (decorated(runs, "rows")["created"], decorated(runs, "later")["created"]) == (2, 2)
    assert {f"the letter {key}" for key in "abcd"} < set(sent)
    assert "0 params" in sent
    assert decorated(runs, "prompt")["images"][0]["width"] == 64


def test_a_decorated_edit_takes_the_result_of_another_task(runs: Runs) -> None:
    (edit,) = [request for request in runs.requests if request["prompt"] == "make it blue"]
    (cup,) = decorated(runs, "prompt")["images"]
    assert [image["sha256"] for image in edit["images"]] == [cup["sha256"]]


def test_a_decorated_function_is_mapped(runs: Runs) -> None:
    results = runs.xcoms("decorated", "mapped")
    assert len({result["images"][0]["uri"] for result in results}) == 2
    assert {"a cat", "a dog"} < {request["prompt"] for request in runs.requests}


def test_an_annotation_does_not_split_the_result_into_xcoms(runs: Runs) -> None:
    """``-> dict`` describes the function's fields; ``cost_usd`` must remain the cost of all tries."""
    sql = "SELECT DISTINCT key FROM xcom WHERE dag_id = 'decorated' AND task_id = ?"
    for task in ("fields", "edit", "prompt", "rows"):
        keys = {key for (key,) in runs.query(sql, task) if not key.startswith("_link_")}
        plan = {"deepshi_plan"} if task == "rows" else set()
        assert keys == {"return_value", "cost_usd", "deepshi_cost", *plan}
    (cost,) = runs.xcoms("decorated", "fields", "cost_usd")
    assert cost == decorated(runs, "fields")["cost_usd"] > 0
    assert decorated(runs, "costs") > cost
