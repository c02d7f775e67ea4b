"""The manifest has each row's request, result and cost, in both formats and with any content."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package that nothing else needs
import pandas
import polars
import pyarrow.parquet
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from hypothesis import example, given
from hypothesis import strategies as st

from deepshi_provider.batch.cells import native
from deepshi_provider.batch.manifest import EMPTY_LINE
from deepshi_provider.batch.manifest_file import images_in, write_manifest
from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.journal.entries import Owner
from tests.docs.pages import DOCS, table
from tests.support.batches import PRICE, batch, counts, deferred, ended, lines_of, manifests, result_of, rows_of
from tests.support.counts import posts
from tests.support.places import Place

SCHEMA = json.loads((DOCS / "schemas" / "manifest.json").read_text())


def check(lines: list[dict[str, Any]]) -> None:
    """Check lines against the published schema."""
    for line in lines:
        jsonschema.validate(json.loads(json.dumps(line, default=float)), SCHEMA)
        assert list(line)[: len(EMPTY_LINE)] == list(EMPTY_LINE)


def parquet_of(place: Place) -> list[dict[str, Any]]:
    (name,) = [name for name in place.names() if name.endswith(".parquet")]
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(io.BytesIO(place.read(name))).to_pylist()
    return rows


def test_a_line_has_request_result_and_cost(emulator: Emulator, local: Place) -> None:
    result_of(batch(local, [{"key": "boat", "prompt": "a boat", "seed": 7, "model": "flux-2-pro", "n": 2}]))
    (line,) = lines_of(local)
    (sent,) = emulator.requests()
    check([line])
    data = local.read("boat-0.png")
    assert {name: line[name] for name in ("prompt", "seed", "size_asked", "media_type", "size_bytes", "attempts")} == {
        "prompt": "a boat",
        "seed": 7,
        "size_asked": "64x48",
        "media_type": "image/png",
        "size_bytes": len(data),
        "attempts": 1,
    }
    assert (line["cost_usd"], line["may_have_cost_usd"]) == (Decimal(sent["cost_usd"]), 0)
    assert line["tokens_in"] > 0
    assert line["tokens_out"] > 0


def test_a_revised_prompt_is_in_the_manifest_unless_prompts_are_left_out(emulator: Emulator, local: Place) -> None:
    row = {"key": "boat", "prompt": "a boat", "model": "deepshi-image-1", "width": 64, "height": 64}
    result_of(batch(local, [row]))
    (line,) = lines_of(local)
    assert line["prompt"] == "a boat"
    result_of(batch(local, [row, {"key": "bad"}], prompt="secret", manifest_prompts=False, max_cost_usd=1))
    lines = lines_of(local)
    check(lines)
    assert [(line["prompt"], line["revised_prompt"]) for line in lines] == [(None, None)] * 2
    assert lines[0]["prompt_hash"] == line["prompt_hash"], "the hash is there always"
    assert "secret" not in json.dumps(lines, default=str)


def test_lost_rows_have_their_possible_cost(emulator: Emulator, local: Place) -> None:
    emulator.fault("cut", prompt="number 1", times=None)
    emulator.fault("status", status=400, prompt="number 2", times=None)
    ended(batch(local, rows_of(3), max_concurrency=1))
    ended(batch(local, rows_of(3)[1:]), run_id="tuesday")
    monday, tuesday = sorted(
        ([json.loads(line, parse_float=Decimal) for line in local.read(m).splitlines()] for m in manifests(local)),
        key=len,
        reverse=True,
    )
    check([*monday, *tuesday])
    columns = ("status", "attempts", "cost_usd", "may_have_cost_usd", "charged")
    assert [tuple(line[name] for name in columns) for line in monday] == [
        ("created", 1, PRICE, 0, "yes"),
        ("failed", 2, 0, 2 * PRICE, "unknown"),
        ("failed", 0, 0, 0, "no"),
    ]
    assert [(line["attempts"], line["may_have_cost_usd"]) for line in tuesday] == [(0, 0), (0, 0)], "of another task"


def test_reused_and_unstarted_rows_have_their_request(emulator: Emulator, local: Place) -> None:
    result_of(batch(local, rows_of(1)))
    (manifest,) = manifests(local)
    local.delete(manifest)
    ended(batch(local, rows_of(2), max_cost_usd=0), run_id="tuesday")
    lines = lines_of(local)
    check(lines)
    columns = ("status", "prompt", "size_asked", "model", "attempts", "cost_usd", "may_have_cost_usd", "charged")
    assert [tuple(line[name] for name in columns) for line in lines] == [
        ("reused", "a boat with the number 0", "64x48", "deepshi-banana-pro", 0, 0, 0, "no"),
        ("skipped", "a boat with the number 1", "64x48", "deepshi-banana-pro", None, None, None, "no"),
    ]


@pytest.mark.parametrize("is_deferred", [False, True])
def test_parquet_has_the_same_content_as_jsonl(emulator: Emulator, place: Place, is_deferred: bool) -> None:
    emulator.fault("status", status=400, prompt="number 1", times=None)
    rows = [{**row, "price": Decimal("1.50"), "tags": ["a"]} for row in rows_of(3)]
    result_of(batch(place, rows, carry="*", on_error="partial"))
    operator = batch(
        place, rows, carry="*", on_error="partial", manifest_format="parquet", deferrable=is_deferred, outlets=[]
    )
    ti = deferred(operator, try_number=2)[0] if is_deferred else ended(operator, try_number=2)[0]
    value = ti.xcoms["return_value"]
    assert value["manifest_uri"].endswith(".parquet")
    assert counts(value) == (2, 0, 1, 0)
    theirs = lines_of(place)
    ours = parquet_of(place)
    assert [list(line) for line in ours] == [list(line) for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert {**mine, "seconds": None} == {**other, "seconds": None}
    assert [line["cost_usd"] for line in ours] == [PRICE, 0, PRICE]
    data = io.BytesIO(place.read(value["manifest_uri"].rpartition("/")[2]))
    images = images_in("manifest.parquet", data)
    assert [image["key"] for image in images] == ["row-0", "row-2"]


def test_parquet_without_pyarrow_is_found_before_anything_is_paid(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    _, err = ended(batch(local, rows_of(2), manifest_format="parquet"))
    assert isinstance(err, AirflowFailException)
    assert "needs the extra 'parquet'" in str(err)
    assert posts(emulator) == 0


@pytest.mark.parametrize("value", ["csv", None, 1])
def test_an_unknown_format_is_refused(emulator: Emulator, local: Place, value: Any) -> None:
    _, err = ended(batch(local, rows_of(2), manifest_format=value))
    assert "manifest_format: must be 'jsonl' or 'parquet'" in str(err)
    assert posts(emulator) == 0


TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=5)
SCALARS = [
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(10**50), max_value=10**50),
    st.floats(),
    st.decimals(allow_nan=True),
    st.decimals(min_value=-1000, max_value=1000, places=3),
    TEXT,
    st.binary(max_size=4),
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=st.just(timezone.utc)),
    st.datetimes(timezones=st.just(timezone(timedelta(hours=-5)))),
    st.times(),
    st.lists(TEXT, max_size=2),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(TEXT, st.one_of(st.integers(), st.floats(), TEXT, st.dates()), max_size=2),
]
#: Columns of one type, and of mixed types.
COLUMN = st.one_of(
    *(st.lists(kind, min_size=1, max_size=6) for kind in SCALARS), st.lists(st.one_of(SCALARS), min_size=1, max_size=6)
)


#: In UTC they are in the years 0 and 10000.
OUTSIDE = [
    datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-5))),
]


@given(COLUMN)
@example([False, []])
@example([1, []])
@example([["a"], [], [1]])
@example(OUTSIDE)
def test_both_manifests_are_written_whatever_the_cells_hold(cells: list[Any]) -> None:
    """They are written after all payments, so no cell may prevent it, blocking or deferred."""
    job = BatchJob(
        rows=len(cells),
        owner=Owner(dag_id="d", run_id="r", task_id="t"),
        output_uri="images",
        deepshi_conn_id="mine",
        generation_timeout=60,
        max_concurrency=1,
    )
    fields = {"model": "m", "prompt": "p"}
    with RowTable() as rows, RowTable() as copy:
        rows.fill((str(number), fields, {"cell": native(cell)}) for number, cell in enumerate(cells))
        stored, jsonl, parquet = io.BytesIO(), io.BytesIO(), io.BytesIO()
        rows.dump_rows(stored)
        copy.load_rows(io.BytesIO(stored.getvalue()))
        write_manifest(job, copy, jsonl)
        write_manifest(job.model_copy(update={"manifest_format": "parquet"}), copy, parquet)
    found = [json.loads(line, parse_float=Decimal)["cell"] for line in jsonl.getvalue().splitlines()]
    typed = pyarrow.parquet.read_table(parquet).column("cell").to_pylist()
    for cell, as_json, as_type in zip(cells, found, typed, strict=True):
        nothing = cell is None or (isinstance(cell, float) and not math.isfinite(cell))
        nothing |= isinstance(cell, Decimal) and not cell.is_finite()
        assert (as_json is None, as_type is None) == (nothing, nothing)
        if nothing or isinstance(as_type, str) or isinstance(cell, bytes | date | time | list | Mapping):
            continue
        if isinstance(cell, float):
            assert (float(as_json), as_type) == (cell, cell)
        else:
            assert (as_json, as_type) == (cell, cell)
    if all(isinstance(cell, date) and not isinstance(cell, datetime) for cell in cells):
        assert typed == cells
    if all(isinstance(cell, str) for cell in cells):
        assert typed == cells == found


def test_times_outside_the_calendar_are_text_that_all_readers_read(emulator: Emulator, local: Place) -> None:
    rows = [{"key": f"{n}", "prompt": f"mug {n}", "seen": seen} for n, seen in enumerate(OUTSIDE)]
    result_of(batch(local, rows, carry="*", manifest_format="parquet"))
    (path,) = [f"{local.uri}/{name}".removeprefix("file://") for name in local.names() if name.endswith(".parquet")]
    texts = ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-05:00"]
    assert polars.read_parquet(path)["seen"].to_list() == texts
    assert pandas.read_parquet(path, dtype_backend="pyarrow")["seen"].to_list() == texts


def test_the_page_and_the_schema_list_the_columns() -> None:
    """Users need not guess types."""
    rows = table(DOCS / "batch.md", "column")
    listed = [row[0].strip("`") for row in rows]
    assert [name for name in listed if name in EMPTY_LINE][-len(EMPTY_LINE) :] == list(EMPTY_LINE)
    assert list(SCHEMA["properties"]) == SCHEMA["required"] == list(EMPTY_LINE)
