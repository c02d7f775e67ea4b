"""The manifest as users read it: with the calls that docs/batch.md shows, at a length where guessing goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pandas
import pytest

from deepshi_provider.batch.manifest import EMPTY_LINE
from deepshi_provider.batch.row_table import RowTable

pytestmark = pytest.mark.slow

ROWS = 30_000
#: DuckDB guesses types from so many lines.
SAMPLE = 20_480


def key_of(number: int, *, dates: bool) -> str:
    if dates:
        return f"{2000 + number // 336}-{number // 28 % 12 + 1:02}-{number % 28 + 1:02}"
    return f"{number:03}"


def line_of(key: str, number: int) -> dict[str, Any]:
    if number >= SAMPLE:
        return {**EMPTY_LINE, "key": key, "status": "failed", "error": "content_policy_violation"}
    uri = f"s3://bucket/{key}-0.png"
    picture = {"uri": uri, "uris": [uri], "width": 64, "height": 48, "sha256": "0" * 64, "model": "m"}
    return {**EMPTY_LINE, "key": key, "status": "created", **picture, "cost_usd": 1.1e-7 * number, "charged": "yes"}


@pytest.fixture(scope="module", params=["numbers", "dates"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A manifest as a batch writes it, and its keys: all like numbers, or all like dates."""
    path = tmp_path_factory.mktemp("manifest") / "manifest.jsonl"
    keys = [key_of(number, dates=request.param == "dates") for number in range(ROWS)]
    with RowTable() as table, path.open("wb") as file:
        table.fill((key, {"prompt": "a boat"}) for key in keys)
        for row in table:
            table.put(row, line_of(row.key, row.number - 1))
        table.dump_lines(file, EMPTY_LINE)
    return path, keys


def test_duckdb_reads_every_key_and_every_error(written: tuple[Path, list[str]]) -> None:
    path, keys = str(written[0]), written[1]
    types = {
        "key": "VARCHAR",
        "status": "VARCHAR",
        "uri": "VARCHAR",
        "uris": "VARCHAR[]",
        "width": "INTEGER",
        "height": "INTEGER",
        "sha256": "VARCHAR",
        "model": "VARCHAR",
        "prompt_hash": "VARCHAR",
        "cost_usd": "DOUBLE",
        "error": "VARCHAR",
        "charged": "VARCHAR",
        "seconds": "DOUBLE",
    }
    manifest = duckdb.read_json(path, format="newline_delimited", columns=types)
    assert set(manifest.columns) <= set(EMPTY_LINE)
    found = manifest.project("key, uris, cost_usd, error").fetchall()
    lines = [line_of(key, number) for number, key in enumerate(keys)]
    assert found == [(line["key"], line["uris"], line["cost_usd"], line["error"]) for line in lines]


def test_pandas_reads_every_key_and_every_error(written: tuple[Path, list[str]]) -> None:
    path, keys = written
    manifest = pandas.read_json(path, lines=True, dtype=False, precise_float=True)
    assert list(manifest.columns) == list(EMPTY_LINE)
    assert list(manifest["key"]) == keys
    assert list(manifest["error"][SAMPLE:]) == ["content_policy_violation"] * (ROWS - SAMPLE)
    assert manifest["error"][:SAMPLE].isna().all()
    assert list(manifest["cost_usd"][:SAMPLE]) == [1.1e-7 * number for number in range(SAMPLE)]
    assert manifest["uris"][7] == [f"s3://bucket/{keys[7]}-0.png"]


def test_what_duckdb_guesses_is_wrong(written: tuple[Path, list[str]]) -> None:
    """Why the page names the types; if this fails, the page may become shorter."""
    guessed = duckdb.read_json(str(written[0]))
    assert guessed.filter("error IS NOT NULL").fetchall() == []
