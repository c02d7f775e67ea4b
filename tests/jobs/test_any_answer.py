"""Random answers through whole jobs, compared with what the server charged.

Never a raw exception, never a hang, and for every answer the charge is what is recorded and reported, or within the
reported range, for blocking and deferred tasks, single requests and batches.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException

from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.hooks.directories import STORES
from deepshi_provider.hooks.jobs import run_job
from deepshi_provider.jobs.run import load_outcome
from tests.support.answering import Answer, answering
from tests.support.batches import batch, ended, lines_of
from tests.support.jobs import make_job
from tests.support.odd_answers import PICTURES, PRICE, Odd, good_answer, odd_answer
from tests.support.places import LocalPlace, document, state
from tests.support.tasks import TaskInstance
from tests.triggers.test_broken_machines import resumed, trigger_of
from tests.triggers.test_images import event_of, trigger_for

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get("DEEPSHI_TEST_ANSWERS", "500"))
#: Parts of the answers, which several workers can share.
PARTS = 5
ROWS = 25


def check_books(sheet: CostSheet, taken: Decimal) -> None:
    """Check that the sheet has what the server charged, or a range that includes it."""
    least = sheet.cost_usd or Decimal(0)
    if not sheet.untold + sheet.unknown_outcomes:
        assert least == taken
        return
    assert least <= taken
    assert sheet.may_have_cost_usd is None or taken <= least + sheet.may_have_cost_usd


def check_records(place: LocalPlace, sheet: CostSheet) -> None:
    records = [document(place, name) for name in state(place, "record")]
    known = [Decimal(record["cost_usd"]) for record in records if record["cost_usd"] is not None]
    assert sum(known, Decimal(0)) == (sheet.cost_usd or 0)


async def outcome(place: LocalPlace, request: dict[str, Any], *, deferred: bool) -> tuple[CostSheet, dict[str, Any]]:
    """Run a job like a blocking task or a trigger; return its cost sheet and its error."""
    if deferred:
        event = await asyncio.wait_for(event_of(await trigger_for(place, **request)), 60)
        assert len(json.dumps(event)) < 5_000
        if event["status"] == "failed":
            return CostSheet.model_validate(event["costs"]), event["error"]
        manifest = await load_outcome(event["manifest_uri"], None, STORES)
    else:
        manifest = await asyncio.wait_for(run_job(make_job(place, **request)), 60)
    assert len(json.dumps(manifest.as_xcom())) < 40_000
    heads = {picture[:3] for picture in PICTURES}  # bytes missing in the middle of a JPEG's data cannot be noticed
    assert {place.read(image.uri.rpartition("/")[2])[:3] for image in manifest.images} <= heads
    assert manifest.costs is not None
    return manifest.costs, manifest.error or {}


@pytest.mark.parametrize("way", ["blocking", "deferred"])
@pytest.mark.parametrize("part", range(PARTS))
async def test_the_charge_of_any_answer_is_reported(
    part: int, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_as = set()
    for number in range(part + (PARTS if way == "deferred" else 0), COUNT * 4 // 5, 2 * PARTS):
        rng = random.Random(number)
        n, stream = rng.choice([1, 1, 2, 4]), rng.random() < 0.5
        odd = odd_answer(rng, n, stream=stream)
        place = LocalPlace(tmp_path / str(number))
        prompt = str(place.path)
        asked: list[bytes] = []  # with this prompt: the port may have belonged to another process's server

        def choose(_: int, request: bytes, odd: Odd = odd, prompt: str = prompt, asked: list[bytes] = asked) -> Answer:
            asked += [request] if prompt.encode() in request else []
            return odd.answer

        with answering(choose) as server:
            monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", server.connection_json(max_retries=1))
            request: dict[str, Any] = {"fields": {"n": n, "stream": stream, "prompt": prompt}, "max_resends": 0}
            sheet, error = await outcome(place, request, deferred=way == "deferred")
        try:
            check_books(sheet, odd.usd * len(asked))
            check_records(place, sheet)
            assert len(asked) == 1 or error["charged"] == "no"
            assert "Unexpected error" not in error.get("message", "")
        except AssertionError as err:
            books = f"took {odd.usd} {len(asked)} times; {sheet.model_dump_json()}; {error}"
            wire = odd.answer.on_wire()[:3000]
            raise AssertionError(f"answer {number}: {err}; {books}; {wire!r}") from err
        ended_as.add(error.get("type", "success"))
    assert {"success", "OutcomeUnknown", "InvalidResponse"} <= ended_as


@pytest.mark.parametrize("way", ["blocking", "deferred"])
def test_odd_answers_in_a_batch_do_not_affect_other_rows(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fifth row gets a good answer, and so does every free retry."""
    for number in range(way == "deferred", COUNT // 5 // ROWS, 2):
        place = LocalPlace(tmp_path / str(number))
        books: dict[int, list[Decimal]] = defaultdict(list)
        rows = [{"key": str(row), "prompt": f"row {row}", "n": row % 3 or 1} for row in range(ROWS)]
        with answering(_bookkeeper(number, books)) as server:
            monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", server.connection_json(max_retries=1))
            operator = batch(place, rows, max_resends=0)
            sheet, error = _ended_batch(operator, deferred=way == "deferred")
        assert error is None or isinstance(error, DeepshiError | AirflowException)
        assert "Unexpected error" not in str(error)
        taken = {row: sum(costs, Decimal(0)) for row, costs in books.items()}
        check_books(sheet, sum(taken.values(), Decimal(0)))
        check_records(place, sheet)
        lines = {int(line["key"]): line for line in lines_of(place)}
        assert len(lines) == len(books) == ROWS, "all rows were sent"
        for row, line in lines.items():
            reported = Decimal(str(line["cost_usd"] or 0))
            assert reported <= taken[row], (number, row, line)
            assert line["charged"] != "no" or taken[row] == 0, (number, row, line)
            assert row % 5 or (line["status"], reported) == ("created", PRICE), (number, row, line)


def _bookkeeper(number: int, books: dict[int, list[Decimal]]) -> Any:
    """Return a function that chooses the answers of a batch and notes the charge of each."""

    def choose(_: int, request: bytes) -> Answer:
        fields = json.loads(request.partition(b"\r\n\r\n")[2])
        row = int(re.findall(r"\d+", fields["prompt"])[0])
        rng = random.Random(f"{number}-{row}")
        is_good = row % 5 == 0 or books[row]
        stream = bool(fields.get("stream"))
        odd = good_answer() if is_good else odd_answer(rng, fields.get("n", 1), stream=stream, in_batch=True)
        books[row].append(odd.usd)
        return odd.answer

    return choose


def _ended_batch(operator: Any, *, deferred: bool) -> tuple[CostSheet, BaseException | None]:
    """Run a batch until it succeeds or fails."""
    if not deferred:
        ti, error = ended(operator)
        return ti.sheets[-1], error
    ti = TaskInstance(task_id=operator.task_id)
    event = asyncio.run(event_of(trigger_of(operator, ti)))
    try:
        resumed(operator, ti, event)
    except (DeepshiError, AirflowException) as err:
        return ti.sheets[-1], err
    return ti.sheets[-1], None
