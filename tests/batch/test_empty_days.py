"""Manifests of different days fit into one table, also that of a day without rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow
import pyarrow.parquet
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from dags_examples.warehouse_etl import COSTS, CREATE, DELETE, INSERT
from deepshi_provider.batch.manifest import EMPTY_LINE
from deepshi_provider.emulator.testing import Emulator
from tests.batch.test_columns import put
from tests.support.batches import batch, deferred, ended, result_of
from tests.support.counts import posts
from tests.support.places import LocalPlace

ASKED: dict[str, Any] = {"prompt": "a {name}", "key_column": "sku", "carry": "*", "manifest_format": "parquet"}
PRODUCTS = pyarrow.schema([("sku", pyarrow.string()), ("name", pyarrow.string()), ("colour", pyarrow.string())])
NAMES = PRODUCTS.names


def empty_file(place: LocalPlace) -> str:
    place.path.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(PRODUCTS.empty_table(), place.path / "shop.parquet")
    return f"{place.uri}/shop.parquet"


SOURCES: dict[str, Callable[[LocalPlace], dict[str, Any]]] = {
    "list": lambda _: {"requests": [], "carry": NAMES},
    "csv": lambda place: {"requests_uri": put(place, "shop.csv", b"sku,name,colour\n")},
    "parquet": lambda place: {"requests_uri": empty_file(place)},
    "jsonl": lambda place: {"requests_uri": put(place, "shop.jsonl", b""), "carry": NAMES},
    "arrow": lambda _: {"requests": PRODUCTS.empty_table()},
    "polars": lambda _: {"requests": polars.DataFrame(schema=dict.fromkeys(NAMES, polars.String))},
    "sql": lambda _: {"requests_sql": "SELECT * FROM products WHERE 1 = 0", "sql_conn_id": "shop"},
}


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty database behind the connection ``shop``."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE products (sku TEXT, name TEXT, colour TEXT)")
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps({"conn_type": "sqlite", "host": str(path)}))


def manifest_at(uri: str) -> pyarrow.Table:
    return pyarrow.parquet.read_table(uri.removeprefix("file://"))


@pytest.mark.parametrize("is_deferred", [False, True])
@pytest.mark.parametrize("source", SOURCES)
def test_a_manifest_without_rows_has_the_carried_columns(
    emulator: Emulator, local: LocalPlace, source: str, is_deferred: bool
) -> None:
    operator = batch(local, **{**ASKED, **SOURCES[source](local)}, deferrable=is_deferred)
    value = deferred(operator)[0].xcoms["return_value"] if is_deferred else result_of(operator)
    table = manifest_at(value["manifest_uri"])
    assert (table.num_rows, table.schema.names) == (0, [*EMPTY_LINE, *NAMES])
    assert posts(emulator) == 0


def test_a_header_that_cannot_be_carried_is_refused_also_without_rows(emulator: Emulator, local: LocalPlace) -> None:
    _, err = ended(batch(local, requests_uri=put(local, "shop.csv", b"sku,name,status\n"), **ASKED))
    assert isinstance(err, AirflowFailException)
    assert "the column 'status' cannot be carried" in str(err)


@pytest.mark.parametrize("begins_empty", [True, False])
def test_the_examples_table_takes_the_manifests_of_all_days(
    emulator: Emulator, local: LocalPlace, begins_empty: bool
) -> None:
    kinds: dict[str, Any] = {
        "sku": polars.String,
        "category": polars.String,
        "name": polars.String,
        "price": polars.Decimal(12, 2),
    }
    days = [
        [("007", "mugs", "red mug", Decimal("9.99"))],
        [("007", "mugs", "red mug", Decimal("10.50")), ("lamp", "lamps", "lamp", Decimal("123456789.25"))],
        [],
    ]
    found = []
    with duckdb.connect() as warehouse:
        for number, rows in enumerate([[], *days] if begins_empty else days):
            frame = polars.DataFrame(rows, schema=kinds, orient="row")
            run = {"run_id": f"day {number}"}
            value = result_of(batch(local, frame, **ASKED), **run)
            warehouse.register("manifest", manifest_at(value["manifest_uri"]))
            for statement in (CREATE, DELETE, INSERT):
                warehouse.execute(statement, run)
            found.append([row[:3] for row in warehouse.execute(COSTS, run).fetchall()])
        prices = warehouse.execute("SELECT price::DECIMAL(12, 2) FROM pictures ORDER BY run_id, key").fetchall()
    assert found[-3:] == [[("mugs", 1, 1)], [("lamps", 1, 1), ("mugs", 1, 0)], []]
    assert prices == [(Decimal("9.99"),), (Decimal("10.50"),), (Decimal("123456789.25"),)]
    assert posts(emulator) == 2


def test_types_named_in_the_table_take_days_whose_columns_are_empty(emulator: Emulator, local: LocalPlace) -> None:
    with duckdb.connect() as warehouse:
        warehouse.execute("CREATE TABLE pictures (key VARCHAR, uri VARCHAR, price DECIMAL(18, 4), added DATE)")
        for number, (price, added) in enumerate(
            [(None, None), (Decimal("9.99"), date(2026, 1, 2)), (Decimal("10.5"), None), (7, None)]
        ):
            row = {"sku": "007", "name": "mug", "price": price, "added": added}
            value = result_of(batch(local, [row], **ASKED), run_id=f"day {number}")
            warehouse.register("manifest", manifest_at(value["manifest_uri"]))
            warehouse.execute("INSERT INTO pictures BY NAME SELECT key, uri, price, added FROM manifest")
        prices = warehouse.execute("SELECT price, added FROM pictures ORDER BY price").fetchall()
    assert prices == [
        (Decimal(7), None),
        (Decimal("9.99"), date(2026, 1, 2)),
        (Decimal("10.5"), None),
        (None, None),
    ]
    assert posts(emulator) == 1
