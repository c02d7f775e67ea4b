"""A batch can be restarted at any moment, and thousands of finished rows cost neither money nor much time."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.costs.sheet import XCOM_KEY, CostSheet
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.directories import STORES
from deepshi_provider.journal.directory import DirectoryJournal
from deepshi_provider.journal.entries import Claim, Owner, Record, StoredImage
from deepshi_provider.store.store import STATE
from tests.services.forks import Forked, last_line_of, start_module
from tests.support.batches import PRICE, cost_of, lines_of, rows_of, statuses
from tests.support.counts import posts, taken
from tests.support.places import Place, state
from tests.support.waiting import wait_until

log = logging.getLogger(__name__)

pytestmark = pytest.mark.slow
MB = 2**20


def arguments(place: Place, **more: Any) -> dict[str, Any]:
    """Arguments of a batch, as JSON values."""
    defaults = {
        "task_id": "catalog",
        "width": 64,
        "height": 48,
        "output_uri": place.uri,
        "output_conn_id": place.conn_id,
        "preflight": "off",
    }
    return {**defaults, **more}


@contextmanager
def started(fields: dict[str, Any]) -> Iterator[Forked]:
    """A running batch in its own process."""
    with start_module("tests.support.run_operator", json.dumps(fields)) as process:
        try:
            yield process
        finally:
            process.kill()


def result_of(fields: dict[str, Any]) -> dict[str, Any]:
    """Run a batch in its own process and return its results."""
    result: dict[str, Any] = json.loads(last_line_of(start_module("tests.support.run_operator", json.dumps(fields))))
    return result


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.as_uri()


@pytest.mark.parametrize(("kind", "count"), [("file", 200), pytest.param("s3", 50, marks=pytest.mark.s3)])
def test_a_batch_killed_halfway_resumes_where_it_was(
    emulator: Emulator, new_place: Any, tmp_path: Path, kind: str, count: int
) -> None:
    place = new_place(kind)
    rows = rows_of(count)
    at_once = count // 10
    fields = arguments(place, requests_uri=jsonl(tmp_path / "rows.jsonl", rows), max_concurrency=at_once)
    emulator.settings(latency=0.5)
    with started(fields) as process:
        wait_until(lambda: emulator.stats()["images"] >= count // 2)
        process.kill()
        process.wait()
    wait_until(lambda: emulator.stats()["in_flight"] == 0)
    for name in state(place, "lease"):  # otherwise the next try waits until the lease has expired
        place.delete(name)
    emulator.settings(latency=0)
    result = result_of({**fields, "identity": {"try_number": 2}})
    value = result["xcoms"]["return_value"]
    stats = emulator.stats()
    assert count <= stats["posts"] <= count + at_once
    assert stats["peak_in_flight"] <= at_once
    assert (value["created"], value["failed"], value["skipped"]) == (count, 0, 0)
    # A claim precedes its request, so some claims belong to requests that were not sent yet.
    assert 0 < stats["posts"] - count <= value["unknown_outcomes"] <= at_once
    assert len([name for name in place.names() if name.endswith("-0.png")]) == count
    lines = lines_of(place)
    assert statuses(lines) == {"created": count}
    assert cost_of(lines) == count * PRICE
    assert value["cost_usd"] == float(count * PRICE) == result["xcoms"]["cost_usd"]
    entries = emulator.requests()
    halves = [entry for entry in entries if not entry["fields"]]
    # The kill may come between head and body of a request, which the server then neither serves nor charges.
    assert {(entry["outcome"], entry["cost_usd"]) for entry in halves} <= {("disconnected", None)}
    # Every request that arrived whole was paid for, whether or not its client received the answer.
    wait_until(lambda: emulator.stats()["images"] == len(entries) - len(halves))
    # Each repeated purchase is in its record, and the sheet covers all that the server charged.
    bought = Counter(entry["prompt"] for entry in entries if entry["fields"])
    records = [json.loads(line)[1] for line in place.read(f"{STATE}/index.jsonl").splitlines()]
    unknown = {record["images"][0]["uri"].rpartition("/")[2]: record["unknown_outcomes"] for record in records}
    again = {f"{row['key']}-0.png": bought[row["prompt"]] - 1 for row in rows}
    assert {name: count for name, count in again.items() if count > unknown[name]} == {}
    sheet = CostSheet.model_validate(result["xcoms"][XCOM_KEY])
    assert sheet.unknown_outcomes == sum(unknown.values()) == value["unknown_outcomes"]
    assert sheet.cost_usd is not None
    assert sheet.may_have_cost_usd is not None
    assert sheet.cost_usd <= taken(emulator) <= sheet.cost_usd + sheet.may_have_cost_usd


class Seeder:
    """Creates the objects that another task's batch would leave, through the project's own classes, without buying."""

    def __init__(self, place: Place, account: str) -> None:
        self._journal = DirectoryJournal(STORES.at(place.uri, place.conn_id))
        self._store = STORES.at(place.uri, place.conn_id)
        self._account = account
        self._owner = Owner(dag_id="shop", run_id="yesterday", task_id="catalog")
        self._picture = b"\x89PNG picture"

    async def leave(self, rows: list[dict[str, Any]]) -> None:
        at_once = asyncio.Semaphore(32)

        async def one(row: dict[str, Any]) -> None:
            async with at_once:
                await self._row(row)

        await asyncio.gather(*map(one, rows))

    async def _row(self, row: dict[str, Any]) -> None:
        request = GenerateRequest(model="deepshi-banana-pro", prompt=row["prompt"], width=64, height=48)
        fingerprint = request.fingerprint(self._account)
        claim = Claim(fingerprint=fingerprint, owner=self._owner, lease_owner="gone", model=request.model, claimed_at=1)
        assert await self._journal.claim(row["key"], 1, claim)
        name = f"{row['key']}-0.png"
        await self._store.write(name, self._picture)
        image = StoredImage(
            uri=self._store.uri_of(name),
            index=0,
            media_type="image/png",
            width=64,
            height=48,
            size_bytes=len(self._picture),
            sha256="0" * 64,
        )
        record = Record(
            kind="stored",
            fingerprint=fingerprint,
            owner=self._owner,
            lease_owner="gone",
            images=[image],
            model=request.model,
            size="64x48",
            cost_usd=Decimal(PRICE),
            usage={"total_tokens": 12, "cost": {"total_cost": float(PRICE)}},
            recorded_at=time.time(),
        )
        await self._journal.settle(row["key"], 1, record)


def seed(place: Place, rows: list[dict[str, Any]]) -> None:
    account = asyncio.run(DeepshiHook().asettings()).account
    asyncio.run(Seeder(place, account).leave(rows))


@pytest.mark.parametrize(("kind", "count"), [("file", 300), pytest.param("s3", 50, marks=pytest.mark.s3)])
@pytest.mark.timeout(600)
def test_finished_rows_cost_nothing(emulator: Emulator, new_place: Any, tmp_path: Path, kind: str, count: int) -> None:
    place = new_place(kind)
    rows = rows_of(count)
    seed(place, rows)
    fields = arguments(place, requests_uri=jsonl(tmp_path / "rows.jsonl", rows), max_concurrency=16)
    warm = {**arguments(new_place(kind)), "requests": rows[:3], "task_id": "warm_up"}
    first = result_of({**fields, "warm_up": warm, "identity": {"run_id": "monday"}})
    assert posts(emulator) == 3, "those of the warm-up"
    value = first["xcoms"]["return_value"]
    assert (value["reused"], value["created"], value["cost_usd"]) == (count, 0, 0.0)
    assert f"{STATE}/index.jsonl" in place.names()

    second = result_of({**fields, "warm_up": warm, "identity": {"run_id": "tuesday"}})
    assert (second["xcoms"]["return_value"]["reused"], posts(emulator)) == (count, 3)
    for name, run in (("without", first), ("with", second)):
        log.info("%s: %s rows %s index: %.1f s, %d bytes", kind, count, name, run["seconds"], run["grown_bytes"])
    assert second["grown_bytes"] < 50 * MB

    for number in range(25):
        rows[number * count // 25]["prompt"] += ", changed"
    jsonl(tmp_path / "rows.jsonl", rows)
    third = result_of({**fields, "identity": {"run_id": "wednesday"}})
    value = third["xcoms"]["return_value"]
    assert (value["reused"], value["created"], posts(emulator)) == (count - 25, 25, 28)
    assert value["cost_usd"] == float(25 * PRICE)
    assert taken(emulator) == 28 * PRICE


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
@pytest.mark.timeout(600)
def test_a_large_file_of_rows_takes_no_more_memory(
    emulator: Emulator, local: Place, tmp_path: Path, ending: str
) -> None:
    """The limit of 0 USD ends the batch before its first request, so only reading the rows is measured."""
    few, many = tmp_path / f"few.{ending}", tmp_path / f"rows.{ending}"
    write_rows(few, 3)
    write_rows(many, 20_000)
    warm_up = {**arguments(local, requests_uri=few.as_uri()), "task_id": "warm_up"}
    result = result_of({**arguments(local, requests_uri=many.as_uri(), max_cost_usd=0), "warm_up": warm_up})
    assert "19997 of 20000 rows were not started" in result["error"]
    assert result["grown_bytes"] < 30 * MB
    assert posts(emulator) == 3, "those of the warm-up"


def write_rows(path: Path, count: int) -> None:
    """A file of rows without keys, which take more memory."""
    import pyarrow
    import pyarrow.parquet

    if path.suffix == ".parquet":
        schema = pyarrow.schema([("prompt", pyarrow.string()), ("width", pyarrow.int64())])
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            for start in range(0, count, 10_000):
                numbers = range(start, min(count, start + 10_000))
                prompts = [f"a boat with the number {number}" for number in numbers]
                writer.write_table(pyarrow.table({"prompt": prompts, "width": [64] * len(numbers)}, schema=schema))
        return
    with path.open("w") as file:
        if path.suffix == ".csv":
            file.write("prompt,width\n")
        for number in range(count):
            row = {"prompt": f"a boat with the number {number}", "width": 64}
            file.write(f"{row['prompt']},64\n" if path.suffix == ".csv" else f"{json.dumps(row)}\n")
