"""Rows may be any value of an upstream task: data frames, tables, paths and asset events."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pyarrow
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import ObjectStoragePath
from airflow.sdk.bases.xcom import BaseXCom
from pydantic import JsonValue, TypeAdapter, ValidationError

from deepshi_provider.emulator.testing import Emulator
from tests.batch.test_columns import SHOP, carried, decorated, put
from tests.support.batches import batch, counts, ended, lines_of, result_of
from tests.support.counts import posts
from tests.support.places import Place

ASKED: dict[str, Any] = {"prompt": "a {name}", "key_column": "sku", "carry": "*"}
SEEN = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=timezone.utc)
COLUMNS: dict[str, list[Any]] = {
    "sku": ["007", "1_2"],
    "name": ["red mug", "blue mug"],
    "price": [Decimal("1.50"), None],
    "weight": [0.5, None],
    "stock": [7, 8],
    "added": [date(2026, 1, 2), None],
    "seen": [SEEN, None],
    "tags": [["a"], []],
}
EXPECTED = [
    {
        **{name: cells[number] for name, cells in COLUMNS.items()},
        "added": "2026-01-02" if number == 0 else None,
        "seen": "2026-01-02T03:04:05.678901Z" if number == 0 else None,
    }
    for number in range(2)
]

TABLES: dict[str, Any] = {
    "arrow": lambda: pyarrow.table(COLUMNS),
    "reader": lambda: pyarrow.table(COLUMNS).to_reader(),
    "polars": lambda: polars.DataFrame(COLUMNS),
    "pandas": lambda: pandas.DataFrame(COLUMNS),
    "pandas, rows left out": lambda: pandas.DataFrame(COLUMNS, index=[3, 8]),
    "pandas, sku as its index": lambda: pandas.DataFrame(COLUMNS).set_index("sku"),
    "nanoseconds": lambda: pandas.DataFrame(COLUMNS).astype({"seen": "datetime64[ns, UTC]"}),
    "duckdb": lambda: duckdb.sql("SELECT * FROM shop"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_frames_and_tables_become_rows_with_their_types(emulator: Emulator, local: Place, kind: str) -> None:
    shop = pyarrow.table(COLUMNS)
    duckdb.register("shop", shop)
    result_of(batch(local, TABLES[kind](), **ASKED))
    assert list(map(carried, lines_of(local))) == EXPECTED, "in whatever order the columns come"
    assert [line["key"] for line in lines_of(local)] == ["007", "1_2"]
    assert posts(emulator) == 2


def test_a_decorated_function_may_return_a_frame(emulator: Emulator, local: Place) -> None:
    assert counts(result_of(decorated(local, polars.DataFrame(COLUMNS)))) == (2, 0, 0, 0)


@dataclass
class AssetEvent:
    """An asset event as Airflow passes it; only the producing task's ``extra`` is used."""

    extra: dict[str, Any]


@pytest.mark.parametrize("kind", ["object path", "uri", "event", "extra", "text of extra"])
def test_paths_and_asset_events_name_a_file(emulator: Emulator, place: Place, kind: str) -> None:
    uri = put(place, "shop.csv", SHOP)
    rows: Any = {
        "object path": lambda: ObjectStoragePath(uri, conn_id=place.conn_id),
        "uri": lambda: ObjectStoragePath(uri, conn_id=place.conn_id),
        "event": lambda: AssetEvent({"requests_uri": uri, "more": 1}),
        "extra": lambda: {"requests_uri": uri},
        "text of extra": lambda: str({"requests_uri": uri}),
    }[kind]
    rows = rows()
    fields = {"requests_uri": rows} if kind == "uri" else {"requests": rows}
    operator = batch(place, **{**fields, **ASKED})
    assert counts(result_of(operator)) == (4, 0, 0, 0)
    assert [value.rpartition("/")[2] for value in operator.input_uris()] == ["shop.csv"]


def test_a_local_path_names_a_file(emulator: Emulator, local: Place) -> None:
    path = Path(put(local, "shop.csv", SHOP).removeprefix("file://"))
    assert counts(result_of(batch(local, path, **ASKED))) == (4, 0, 0, 0)


def test_an_asset_event_may_hold_the_rows(emulator: Emulator, local: Place) -> None:
    rows = [{"sku": "007", "name": "red mug"}]
    assert counts(result_of(batch(local, AssetEvent({"requests": rows}), **ASKED))) == (1, 0, 0, 0)
    assert counts(result_of(decorated(local, {"requests": rows}), run_id="tuesday")) == (1, 0, 0, 0)
    assert posts(emulator) == 2, "its prompt is another"


def test_jinja_renders_rows_written_in_the_dag_and_no_others(emulator: Emulator, local: Place) -> None:
    """The page warns of this: Airflow renders every list in a templated field."""
    row = {"sku": "007", "name": "{{ 7 * 7 }}"}
    uri = put(local, "shop.jsonl", json.dumps(row).encode())
    sources: list[dict[str, Any]] = [
        {"requests": [row]},
        {"requests_uri": uri},
        {"requests": pyarrow.Table.from_pylist([row])},
    ]
    for number, source in enumerate(sources):
        result_of(batch(local, **source, **ASKED), run_id=f"day {number}")
    result_of(decorated(local, [row]))
    prompts = [sent["fields"]["prompt"] for sent in emulator.requests()]
    assert prompts == ["a 49", "a {{ 7 * 7 }}", "Studio photo of a {{ 7 * 7 }}"], "the table's picture was stored"


@pytest.mark.parametrize(("kind", "fits"), [("pandas", True), ("polars", False), ("arrow", False)])
def test_airflows_own_xcoms_carry_only_pandas_frames(kind: str, fits: bool) -> None:
    """The reason for what the page says of frames; if this fails, the page can be shortened."""

    def pushed() -> None:
        TypeAdapter(JsonValue).validate_python(BaseXCom.serialize_value(TABLES[kind]()))

    if fits:
        pushed()
    else:
        with pytest.raises((TypeError, ValidationError)):
            pushed()


def twice() -> pyarrow.Table:
    return pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["prompt", "prompt"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (twice(), "Table: two columns have the same name, 'prompt'"),
        (pandas.DataFrame({"prompt": ["a", 1, {}]}), "The DataFrame of rows cannot be read"),
        (pandas.DataFrame({"promt": ["a"]}), "unknown column 'promt'"),
        ([{"prompt": "a", "images": pandas.NA}, {"prompt": "a", "images": 7}], "Row 2: images: a URI or the result of"),
        (AssetEvent({"manifest_uri": "s3://bucket/manifest.jsonl"}), "requests: a list is needed, got AssetEvent"),
        ({"requests": "a text"}, "requests: a list is needed, got dict"),
    ],
)
def test_a_value_that_is_no_table_of_requests_buys_nothing(
    emulator: Emulator, local: Place, rows: Any, message: str
) -> None:
    _, err = ended(batch(local, rows))
    assert isinstance(err, AirflowFailException)
    assert message in str(err)
    assert (posts(emulator), local.names()) == (0, [])
