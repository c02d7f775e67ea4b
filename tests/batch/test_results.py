"""What a batch buys, what it reuses, and what it reports."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from deepshi_provider.batch.manifest import EMPTY_LINE
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.operators.images import DeepshiGenerateImageOperator
from tests.batch.test_rows import parquet
from tests.support.batches import (
    BANANA,
    PRICE,
    batch,
    cost_of,
    counts,
    ended,
    lines_of,
    manifests,
    result_of,
    rows_of,
    statuses,
)
from tests.support.counts import posts, taken
from tests.support.places import LocalPlace, Place, images, state
from tests.support.tasks import run_try

COLUMNS = list(EMPTY_LINE)


def test_a_batch_buys_each_row_once(emulator: Emulator, place: Place) -> None:
    rows = rows_of(20)
    value = result_of(batch(place, rows))
    (manifest,) = manifests(place)
    assert value == {
        "rows": 20,
        "created": 20,
        "reused": 0,
        "failed": 0,
        "skipped": 0,
        "unknown_outcomes": 0,
        "cost_usd": float(20 * PRICE),
        "warnings": [],
        "manifest_uri": f"{place.uri}/{manifest}",
        "map_index": -1,
        "key": None,
        "metadata": None,
    }
    assert len(json.dumps(value)) < 2000
    assert [name for name in images(place) if name != manifest] == sorted(f"row-{n}-0.png" for n in range(20))
    assert state(place, "lease") == []
    lines = lines_of(place)
    assert [line["key"] for line in lines] == [row["key"] for row in rows]
    assert [list(line) for line in lines] == [COLUMNS] * 20
    assert cost_of(lines) == 20 * PRICE == taken(emulator)
    for line in lines:
        assert line["uri"] == line["uris"][0] == f"{place.uri}/{line['key']}-0.png"
        assert (line["status"], line["width"], line["height"], line["charged"]) == ("created", 64, 48, "yes")
        assert line["error"] is None
        assert len(line["sha256"]) == len(line["prompt_hash"]) == 64
    assert posts(emulator) == 20


def test_the_next_run_buys_only_changed_rows(emulator: Emulator, place: Place) -> None:
    rows = rows_of(20)
    result_of(batch(place, rows))
    tomorrow = [*rows[5:], {"key": "new", "prompt": "a new boat"}]  # the first five images are missing
    tomorrow[0] = {**tomorrow[0], "prompt": "another boat"}
    value = result_of(batch(place, tomorrow), run_id="tuesday")
    assert counts(value) == (2, 14, 0, 0)
    assert value["cost_usd"] == float(2 * PRICE)
    assert posts(emulator) == 22
    assert "row-0-0.png" in place.names(), "removed rows are left alone"
    assert len(manifests(place)) == 2, "one per run"


def test_a_retry_and_a_clear_cost_nothing(emulator: Emulator, place: Place) -> None:
    result_of(batch(place, rows_of(5)))
    value = result_of(batch(place, rows_of(5)), try_number=2)
    assert counts(value) == (5, 0, 0, 0), "bought by this task instance, in whichever of its tries"
    assert value["cost_usd"] == float(5 * PRICE) == float(cost_of(lines_of(place)))
    assert posts(emulator) == 5


def test_reuse_off_buys_again_in_each_try(emulator: Emulator, local: Place) -> None:
    result_of(batch(local, rows_of(3)))
    value = result_of(batch(local, rows_of(3), reuse=False), try_number=2)
    assert (posts(emulator), counts(value)) == (6, (3, 0, 0, 0))
    assert value["cost_usd"] == float(6 * PRICE) == float(cost_of(lines_of(local))), "the first try was paid for too"


def test_a_missing_image_is_bought_again(emulator: Emulator, place: Place) -> None:
    result_of(batch(place, rows_of(4)))
    place.delete("row-1-0.png")
    place.write("row-2-0.png", b"cut")
    assert counts(result_of(batch(place, rows_of(4)), run_id="tuesday")) == (2, 2, 0, 0)
    assert posts(emulator) == 6


@pytest.mark.slow
def test_rows_of_many_kinds_in_one_batch(emulator: Emulator, local: Place, tmp_path: Path) -> None:
    made = run_try(DeepshiGenerateImageOperator(task_id="boat", prompt="p", output_uri=(tmp_path / "boat").as_uri()))
    boat = made.xcoms["return_value"]
    rows = [
        {"key": "plain", "prompt": "a cup"},
        {"key": "large", "prompt": "a cup", "width": 128},
        {"key": "two", "prompt": "cups", "model": "flux-2-pro", "n": 2, "output_format": "jpeg"},
        {"key": "edit", "prompt": "blue", "model": "deepshi-image-1", "images": [boat["images"][0]["uri"]]},
        {"key": "xcom", "prompt": "blue", "model": "deepshi-image-1", "images": boat},
        {"prompt": "without a key"},
    ]
    assert counts(result_of(batch(local, rows))) == (6, 0, 0, 0)
    two = lines_of(local)[2]
    assert two["uris"] == [f"{local.uri}/two-0.jpg", f"{local.uri}/two-1.jpg"]
    assert len(lines_of(local)[5]["key"]) == 16
    assert cost_of(lines_of(local)) == taken(emulator) - Decimal(str(made.xcoms["cost_usd"]))
    assert counts(result_of(batch(local, rows), run_id="tuesday")) == (0, 6, 0, 0)
    assert posts(emulator) == 7
    Path(boat["images"][0]["uri"].removeprefix("file://")).write_bytes(local.read("plain-0.png"))
    _, err = ended(batch(local, rows), run_id="wednesday")
    assert "1 of 6 rows failed (xcom: InvalidRequest)" in str(err), "it names the image that its task made"
    assert posts(emulator) == 8, "the edit by URI is bought, since its input has changed"


KEYS = [
    "../../escaped",
    "/etc/passwd",
    "..",
    ".",
    "a/b",
    "a b",
    "größe",
    "商品",
    "x" * 300,
    "line\nbreak",
    "image",
    "image-0",
    "row.1.0123456789abcdef.claim.json",
    "cup",
    "cup-1",
    "_deepshi",
    "manifest",
    " ",
    0,
    -1.5,
]


@pytest.mark.slow
def test_keys_that_are_unsafe_in_paths_stay_distinct(emulator: Emulator, place: Place) -> None:
    rows = [{"key": key, "prompt": f"prompt {number}"} for number, key in enumerate(KEYS)]
    # With an n above 1, names end in -1.
    rows[KEYS.index("cup")] |= {"model": "flux-2-pro", "n": 2}
    result_of(batch(place, rows))
    lines = lines_of(place)
    assert [line["key"] for line in lines] == [str(key) for key in KEYS]
    uris = [uri for line in lines for uri in line["uris"]]
    assert len(set(uris)) == len(KEYS) + 1
    assert sorted(uris) == sorted(f"{place.uri}/{name}" for name in images(place) if name not in manifests(place))
    assert counts(result_of(batch(place, rows), run_id="tuesday")) == (0, len(KEYS), 0, 0)
    assert posts(emulator) == len(KEYS)


def test_a_batch_and_a_single_operator_share_a_directory(emulator: Emulator, place: Place) -> None:
    single = DeepshiGenerateImageOperator(
        task_id="boat", prompt="a boat", width=64, height=48, output_uri=place.uri, output_conn_id=place.conn_id
    )
    run_try(single)
    value = result_of(batch(place, [{"key": "image", "prompt": "a boat"}, {"key": "other", "prompt": "a cup"}]))
    assert counts(value) == (1, 1, 0, 0), "the same request under the same name"
    assert value["cost_usd"] == float(PRICE)
    again = run_try(single, run_id="tuesday").xcoms
    assert (again["return_value"]["reused"], again["cost_usd"], posts(emulator)) == (True, 0.0, 2)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_rows_come_from_a_file_on_any_store(emulator: Emulator, place: Place, ending: str) -> None:
    rows = rows_of(3)
    data = {
        "jsonl": "\n".join(map(json.dumps, rows)).encode(),
        "csv": ("key,prompt\n" + "".join(f"{row['key']},{row['prompt']}\n" for row in rows)).encode(),
        "parquet": parquet(rows),
    }
    if isinstance(place, LocalPlace):
        place.path.mkdir()
    place.write(f"rows.{ending}", data[ending])
    assert counts(result_of(batch(place, requests_uri=f"{place.uri}/rows.{ending}"))) == (3, 0, 0, 0)
    assert counts(result_of(batch(place, rows), run_id="tuesday")) == (0, 3, 0, 0), "the same rows as from a list"
    assert posts(emulator) == 3


@pytest.mark.parametrize(
    "requests",
    [
        [{"key": "a", "prompt": "p"}, {"key": "a", "prompt": "q"}],
        [{"key": "a", "prompt": "p"}, {"key": "b"}],
        [{"key": "a", "prompt": "p", "colour": "red"}],
        {"key": "a", "prompt": "p"},
        "a prompt",
        "['a prompt']",
        7,
        [None],
        None,
    ],
)
def test_mistakes_in_rows_are_found_before_anything_is_paid(emulator: Emulator, local: Place, requests: Any) -> None:
    ti, err = ended(batch(local, requests, retries=3))
    assert isinstance(err, AirflowFailException)
    assert ti.xcoms == {"cost_usd": 0.0}
    assert (posts(emulator), local.names()) == (0, [])


@pytest.mark.parametrize(
    "fields",
    [
        {"requests_uri": "rows.jsonl"},
        {"max_cost_usd": "a lot"},
        {"max_cost_usd": -1},
        {"on_error": "ignore"},
        {"max_concurrency": "many"},
        {"preflight": "maybe"},
        {"extra_params": {"n": 2}},
    ],
)
def test_mistakes_in_arguments_are_found_before_anything_is_paid(
    emulator: Emulator, local: Place, fields: dict[str, Any]
) -> None:
    ti, err = ended(batch(local, rows_of(2), **fields))
    assert isinstance(err, AirflowFailException)
    assert next(iter(fields)) in str(err)
    assert (ti.xcoms, posts(emulator)) == ({"cost_usd": 0.0}, 0)


def test_a_missing_file_is_not_an_empty_one(emulator: Emulator, local: Place) -> None:
    _, err = ended(batch(local, requests_uri=f"{local.uri}/rows.jsonl"))
    assert "rows.jsonl" in str(err)
    assert posts(emulator) == 0


def test_a_file_whose_uri_may_name_two_files_is_not_read(emulator: Emulator, local: LocalPlace) -> None:
    local.path.mkdir()
    local.write("rows.csv", b"prompt\na boat\n")
    for name in ("/rows.csv", f"../{local.path.name}/rows.csv", "rows%2Ecsv"):
        _, err = ended(batch(local, requests_uri=f"{local.uri}/{name}"))
        assert isinstance(err, AirflowFailException)
        assert "cannot be used" in str(err)
    assert (posts(emulator), images(local)) == (0, ["rows.csv"])


def test_no_rows_are_a_success(emulator: Emulator, place: Place) -> None:
    value = result_of(batch(place, []))
    assert (value["rows"], counts(value), value["cost_usd"]) == (0, (0, 0, 0, 0), 0.0)
    assert (lines_of(place), posts(emulator)) == ([], 0)


def test_rows_may_be_the_text_that_a_template_made_of_a_list(emulator: Emulator, local: Place) -> None:
    assert counts(result_of(batch(local, str(rows_of(2))))) == (2, 0, 0, 0)
    assert posts(emulator) == 2


def test_the_manifest_is_a_table_with_one_schema(emulator: Emulator, local: Place) -> None:
    emulator.fault("status", status=400, prompt="number 3", code="PROMPT_TOO_LONG")
    rows = rows_of(6)
    result_of(batch(local, rows, max_concurrency=1, on_error="partial"))
    result_of(batch(local, rows_of(6), on_error="partial"), run_id="tuesday")
    database = duckdb.connect()
    files = [str(path) for path in Path(local.uri.removeprefix("file://")).glob("manifest-*.jsonl")]
    columns: set[tuple[Any, ...]] = set()
    for file in files:
        table = database.read_json(file)
        assert table.columns == COLUMNS
        columns.add(tuple(map(str, table.types)))
    found = database.execute(
        "SELECT status, count(*), round(sum(cost_usd), 12) FROM read_json_auto($files) GROUP BY 1", {"files": files}
    )
    assert sorted(found.fetchall()) == [
        ("created", 6, float(6 * PRICE)),
        ("failed", 1, 0.0),
        ("reused", 5, 0.0),
    ]


def test_the_directory_is_the_truth_and_the_index_a_cache(emulator: Emulator, place: Place) -> None:
    result_of(batch(place, rows_of(8)))
    index = "_deepshi/index.jsonl"
    whole = place.read(index)
    nonsense = b'["row-0.1.x.y.stored.json", {"kind": "stored"}]\n[]\n{}\n7\n\x00\xff\n'
    spoilt = [b"", nonsense + whole[: len(whole) // 2]]
    for day, text in enumerate(spoilt):
        place.write(index, text)
        assert counts(result_of(batch(place, rows_of(8)), run_id=f"day {day}")) == (0, 8, 0, 0)
    assert sorted(place.read(index).splitlines()) == sorted(whole.splitlines()), "mended"
    place.delete(index)
    assert counts(result_of(batch(place, rows_of(8)), run_id="no index")) == (0, 8, 0, 0)
    assert sorted(place.read(index).splitlines()) == sorted(whole.splitlines())
    assert posts(emulator) == 8, "the edit by URI is bought, since its input has changed"


def test_a_deleted_record_that_is_still_in_the_index_does_not_count(emulator: Emulator, place: Place) -> None:
    result_of(batch(place, rows_of(2)))
    for name in place.names():
        if name.startswith("_deepshi/row-1."):
            place.delete(name)
    assert counts(result_of(batch(place, rows_of(2)), run_id="tuesday")) == (1, 1, 0, 0)
    assert posts(emulator) == 3


def test_an_unreadable_record_does_not_count_as_missing(emulator: Emulator, place: Place) -> None:
    result_of(batch(place, rows_of(3)))
    (record,) = [name for name in state(place, "record") if "row-1." in name]
    place.write(record, b"{")
    place.delete("_deepshi/index.jsonl")
    ti, err = ended(batch(place, rows_of(3)), run_id="tuesday")
    assert f"The record {place.uri}/{record} cannot be read; restore or delete it" in str(err)
    assert ti.xcoms == {"cost_usd": 0.0}, "that record is of another run: by its name, unread"
    assert posts(emulator) == 3


def test_templates_and_defaults_reach_the_rows(emulator: Emulator, local: Place) -> None:
    operator = batch(
        local,
        [{"key": "{{ params.key }}", "prompt": "a {{ params.thing }}"}],
        max_cost_usd="{{ params.cap }}",
        width="{{ params.width }}",
        extra_params={"style": "flat"},
    )
    run_try(operator, params={"key": "k", "thing": "cup", "width": 80, "cap": "1.5"})
    (sent,) = emulator.requests()
    assert sent["fields"] == {
        "model": "deepshi-banana-pro",
        "prompt": "a cup",
        "width": 80,
        "height": 48,
        "style": "flat",
        "stream": True,
    }


def test_preflight_refuses_rows_before_payment(emulator: Emulator, local: Place) -> None:
    rows = [*rows_of(2), {"key": "long", "prompt": "x" * 9000}, {"key": "many", "prompt": "p", "n": 2}]
    value = result_of(batch(local, rows, preflight="error", on_error="partial"))
    assert counts(value) == (2, 0, 2, 0)
    assert [line["error"] for line in lines_of(local)[2:]] == ["PreflightFailed"] * 2
    assert posts(emulator) == 2
    assert emulator.stats()["by_path"]["/v1/models"] == 1, "the catalog is read once"


def test_the_emulators_banana_price_is_the_expected_one(emulator: Emulator, local: Place) -> None:
    result_of(batch(local, rows_of(2), **BANANA))
    assert statuses(lines_of(local)) == {"created": 2}
    assert taken(emulator) == Decimal("0.078") == cost_of(lines_of(local))
