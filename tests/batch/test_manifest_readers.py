"""Readers of manifests, with the calls of docs/batch.md, and enough lines for wrong guesses of types."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pyarrow.parquet
import pytest

from deepshi_provider.batch.manifest import EMPTY_LINE
from deepshi_provider.batch.manifest_file import write_manifest
from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.journal.entries import Owner

pytestmark = pytest.mark.slow

ROWS = 30_000
#: Number of lines from which DuckDB guesses types.
SAMPLE = 20_480
#: Texts that readers may read as numbers, dates, times or null.
ODD = ["007", "1_2", "2024-01-01", "12:30", "nul\x00byte", "null", "NaN", "1e5", "true", "🚗", 'a "quoted", key']


#: Columns whose cells are all compared.
COMPARED = ("key", "uris", "cost_usd", "may_have_cost_usd", "size_bytes", "seed", "error", "timestamp", "price", "late")


def key_of(number: int, kind: str) -> str:
    if kind == "dates":
        return f"{2000 + number // 336}-{number // 28 % 12 + 1:02}-{number % 28 + 1:02}"
    if kind == "odd":
        return ODD[number] if number < len(ODD) else f"{number}"
    return f"{number:03}"


def line_of(key: str, number: int) -> dict[str, Any]:
    line = {**EMPTY_LINE, "key": key, "prompt": f"number {number}", "seed": 2**60 + number, "attempts": 1}
    if number >= SAMPLE:
        return {**line, "status": "failed", "error": "content_policy_violation", "may_have_cost_usd": Decimal("0.1")}
    uri = f"s3://bucket/{number}-0.png"
    picture = {"uri": uri, "uris": [uri], "width": 64, "height": 48, "sha256": "0" * 64, "model": "m"}
    money = {"cost_usd": number * Decimal("0.000000000011"), "may_have_cost_usd": Decimal(0), "charged": "yes"}
    return {**line, "status": "created", **picture, **money, "size_bytes": 2**33 + number, "tokens_in": number}


def carried_of(number: int) -> dict[str, Any]:
    return {
        "timestamp": f"{12345678900 + number}",  # pandas.read_json converts columns of this name
        "price": Decimal(number).scaleb(-2),
        "weight": number / 8,
        "in_stock": number % 2 == 0,
        "added": date(2026, 1, 1 + number % 28),
        "seen": datetime(2026, 1, 2, 3, 4, number % 60, tzinfo=timezone.utc),
        "late": "came late" if number >= SAMPLE else None,
    }


def write(path: Path, keys: list[str]) -> None:
    ending: Any = path.suffix[1:]
    job = BatchJob(
        rows=len(keys),
        owner=Owner(dag_id="d", run_id="r", task_id="t"),
        output_uri="images",
        deepshi_conn_id="mine",
        generation_timeout=60,
        max_concurrency=1,
        manifest_format=ending,
    )
    with RowTable() as table, path.open("wb") as file:
        table.fill((key, {"model": "m", "prompt": "p"}, carried_of(number)) for number, key in enumerate(keys))
        for row in table:
            table.put(row, line_of(row.key, row.number - 1))
        write_manifest(job, table, file)


@pytest.fixture(scope="module", params=["numbers", "dates", "odd"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with both manifests of a batch, and their keys."""
    folder = tmp_path_factory.mktemp("manifest")
    keys = [key_of(number, request.param) for number in range(ROWS)]
    for name in ("manifest.jsonl", "manifest.parquet"):
        write(folder / name, keys)
    return folder, keys


def is_same(found: Any, expected: Any) -> bool:
    """Whether a reader's cell equals the row's; from JSON, money may be a float."""
    if isinstance(expected, list):
        return list(found) == expected
    if expected is None:
        return found is None or bool(pandas.isna(found))
    if isinstance(found, str) or isinstance(expected, str):
        return isinstance(found, str) and found == expected
    is_rounded = isinstance(found, float) and not isinstance(expected, int)
    return float(found) == float(expected) if is_rounded else bool(found == expected)


def check(found: Iterable[Sequence[Any]], keys: list[str]) -> None:
    rows = list(found)
    assert len(rows) == ROWS
    lines = ({**line_of(key, number), **carried_of(number)} for number, key in enumerate(keys))
    wrong = [
        (line["key"], name, cell, line[name])
        for line, row in zip(lines, rows, strict=True)
        for name, cell in zip(COMPARED, row, strict=True)
        if not is_same(cell, line[name])
    ]
    assert wrong[:5] == []


def test_duckdb_reads_the_same_from_both(written: tuple[Path, list[str]]) -> None:
    folder, keys = written
    path = str(folder / "manifest.jsonl")
    carried = {"timestamp": "VARCHAR", "price": "DECIMAL(18,2)", "late": "VARCHAR"}
    types = {
        "key": "VARCHAR",
        "status": "VARCHAR",
        "uri": "VARCHAR",
        "uris": "VARCHAR[]",
        "media_type": "VARCHAR",
        "width": "INTEGER",
        "height": "INTEGER",
        "size_bytes": "BIGINT",
        "sha256": "VARCHAR",
        "model": "VARCHAR",
        "fallback": "INTEGER",
        "prompt": "VARCHAR",
        "revised_prompt": "VARCHAR",
        "prompt_hash": "VARCHAR",
        "seed": "BIGINT",
        "size_asked": "VARCHAR",
        "cost_usd": "DECIMAL(18,12)",
        "may_have_cost_usd": "DECIMAL(18,12)",
        "charged": "VARCHAR",
        "attempts": "INTEGER",
        "tokens_in": "BIGINT",
        "tokens_out": "BIGINT",
        "error": "VARCHAR",
        "seconds": "DOUBLE",
        "warnings": "VARCHAR[]",
    }
    manifest = duckdb.read_json(path, format="newline_delimited", columns=types | carried)
    assert list(types) == list(EMPTY_LINE)
    check(manifest.project(", ".join(COMPARED)).fetchall(), keys)

    path = str(folder / "manifest.parquet")
    manifest = duckdb.read_parquet(path)
    assert manifest.columns == [*EMPTY_LINE, *carried_of(0)]
    check(manifest.project(", ".join(COMPARED)).fetchall(), keys)
    kinds = dict(zip(manifest.columns, map(str, manifest.types), strict=True))
    assert {name: kinds[name] for name in types} == types


def test_pandas_reads_the_same_from_both(written: tuple[Path, list[str]]) -> None:
    folder, keys = written
    path = folder / "manifest.jsonl"
    with path.open(encoding="utf-8") as file:
        lines = [json.loads(line, parse_float=Decimal) for line in file]
    manifest = pandas.DataFrame(lines, dtype=object)
    assert list(manifest.columns) == [*EMPTY_LINE, *carried_of(0)]
    check(zip(*(manifest[name] for name in COMPARED), strict=True), keys)

    path = folder / "manifest.parquet"
    manifest = pandas.read_parquet(path, dtype_backend="pyarrow")
    assert list(manifest.columns) == [*EMPTY_LINE, *carried_of(0)]
    check(zip(*(manifest[name] for name in COMPARED), strict=True), keys)


def test_polars_reads_the_same_from_both(written: tuple[Path, list[str]]) -> None:
    folder, keys = written
    path = folder / "manifest.jsonl"
    manifest = polars.read_ndjson(path, infer_schema_length=None)
    check(manifest.select(COMPARED).iter_rows(), keys)

    path = folder / "manifest.parquet"
    manifest = polars.read_parquet(path)
    check(manifest.select(COMPARED).iter_rows(), keys)


@pytest.mark.load  # Spark and Java are large to install
def test_spark_reads_the_same_from_both(written: tuple[Path, list[str]], spark: Any) -> None:
    folder, keys = written
    path = str(folder / "manifest.jsonl")
    manifest = spark.read.json(path)
    check(manifest.select(*COMPARED).collect(), keys)

    path = str(folder / "manifest.parquet")
    manifest = spark.read.parquet(path)
    check(manifest.select(*COMPARED).collect(), keys)


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    from pyspark.sql import SparkSession

    logging.getLogger("py4j").setLevel(logging.WARNING)  # no log stream is left at its end

    address = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    quiet = {"spark.ui.enabled": "false", "spark.sql.session.timeZone": "UTC"}
    builder = SparkSession.builder.master("local[1]").config(map={**address, **quiet})
    session = builder.getOrCreate()
    yield session
    session.stop()


def test_parquet_has_the_types_of_carried_columns(written: tuple[Path, list[str]]) -> None:
    schema = pyarrow.parquet.read_schema(written[0] / "manifest.parquet")
    assert {name: str(schema.field(name).type) for name in carried_of(0)} == {
        "timestamp": "string",
        "price": "decimal128(38, 2)",
        "weight": "double",
        "in_stock": "bool",
        "added": "date32[day]",
        "seen": "timestamp[us, tz=UTC]",
        "late": "string",
    }
    assert str(schema.field("cost_usd").type) == "decimal128(18, 12)"
    assert str(schema.field("key").type) == "string"


def test_types_guessed_by_duckdb_are_wrong(written: tuple[Path, list[str]]) -> None:
    """The reason why the docs page names the types; if this fails, the page can be shortened."""
    guessed = duckdb.read_json(str(written[0] / "manifest.jsonl"))
    assert guessed.filter("error IS NOT NULL").fetchall() == []
