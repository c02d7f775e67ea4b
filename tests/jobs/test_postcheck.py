"""A picture that differs from its request is reported everywhere, and fails the task if the user wants that."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import Asset, AssetAlias

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.jobs import run_job as run
from deepshi_provider.jobs.outcome import ImageOutcome, outcome_of
from tests.support import bodies
from tests.support.answering import Answer, AnsweringServer, answering
from tests.support.batches import batch, counts, ended, lines_of, result_of, rows_of
from tests.support.bodies import answer_text
from tests.support.counts import posts, taken
from tests.support.jobs import make_job
from tests.support.places import LocalPlace, Place, document, images, state
from tests.support.tasks import TaskInstance, context_of, generate

WIDE = {"width": None, "height": None, "aspect_ratio": "16:9", "seed": 7}
SAYS = "Image 0 has 1024x1024 pixels, which is not 16:9"


@pytest.fixture
def same_picture(monkeypatch: pytest.MonkeyPatch) -> Iterator[AnsweringServer]:
    """A server that always sends the same PNG of 3 x 2 pixels."""
    with answering(Answer(body=answer_text(bodies.picture()))) as server:
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", server.connection_json())
        yield server


async def test_a_difference_is_in_log_record_manifest_xcom_and_sheet_also_on_reuse(
    emulator: Emulator, local: LocalPlace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    job = make_job(local, fields=WIDE)
    first = await run(job)
    again = await run(make_job(local, fields=WIDE, owner={"run_id": "tuesday"}))
    assert (first.status, again.reused, posts(emulator)) == ("success", True, 1)
    (name,) = state(local, "record")
    assert document(local, name)["warnings"] == [SAYS]
    assert ImageOutcome.model_validate_json(local.read(job.manifest_name)).warnings == [SAYS]
    for outcome in (first, again):
        assert outcome.costs
        assert (outcome.as_xcom()["warnings"], outcome.costs.warnings) == ([SAYS], [SAYS])
    assert [line.message for line in caplog.records].count(SAYS) == 2


async def test_another_format_is_noticed(same_picture: AnsweringServer, local: Place) -> None:
    manifest = await run(make_job(local, fields={"width": 3, "height": 2, "output_format": "jpeg"}))
    assert manifest.warnings == ["Image 0 is image/png, asked for image/jpeg"]


async def test_fail_keeps_the_picture_and_a_second_try_fails_without_paying(emulator: Emulator, local: Place) -> None:
    first = await run(make_job(local, fields=WIDE, on_mismatch="fail"))
    paid = taken(emulator)
    assert first.error
    assert (first.error["type"], first.error["charged"], first.retry) == ("ResultMismatch", "yes", False)
    assert (first.error["message"].startswith(f"{SAYS}. on_mismatch is fail."), first.cost_usd) == (True, paid)
    second = await run(make_job(local, fields=WIDE, on_mismatch="fail", owner={"try_number": 2}))
    assert second.error
    assert (second.error["type"], second.error["charged"], second.cost_usd) == ("ResultMismatch", "no", Decimal(0))
    assert (posts(emulator), taken(emulator), images(local)) == (1, paid, ["image-0.png"])
    for outcome in (first, second):
        assert outcome.costs
        assert (outcome.task_cost_usd, [image.uri for image in outcome.costs.images]) == (paid, [outcome.images[0].uri])
    accepted = await run(make_job(local, fields=WIDE, owner={"try_number": 3}))
    assert (accepted.status, accepted.reused, posts(emulator)) == ("success", True, 1)


@pytest.fixture
def plain_picture(monkeypatch: pytest.MonkeyPatch) -> Iterator[AnsweringServer]:
    """A server that always sends a red picture of 64 x 48 pixels."""
    with answering(Answer(body=answer_text(bodies.picture("PNG", 64, 48)))) as server:
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", server.connection_json())
        yield server


async def test_a_picture_of_one_colour_is_reported_and_fails_if_the_user_wants_that(
    plain_picture: AnsweringServer, local: Place
) -> None:
    says = "Image 0 is all one colour"
    first = await run(make_job(local))
    assert (first.status, first.warnings) == ("success", [says])
    again = await run(make_job(local, owner={"run_id": "tuesday"}, on_mismatch="fail"))
    assert again.error
    assert (again.error["type"], again.reused, again.warnings) == ("ResultMismatch", True, [says])
    assert again.error["message"].startswith(f"{says}. on_mismatch is fail")
    assert (plain_picture.posts, images(local)) == (1, ["image-0.png"])


def test_a_row_of_one_colour_has_a_warning_in_the_manifest(plain_picture: AnsweringServer, local: Place) -> None:
    for owner in ({}, {"run_id": "tuesday"}):
        value = result_of(batch(local, [{"key": "a", "prompt": "a cup"}]), **owner)
        line = json.loads(local.read(value["manifest_uri"].rpartition("/")[2]))
        assert line["warnings"] == ["Image 0 is all one colour"]


async def test_missing_images_are_a_mismatch_too(same_picture: AnsweringServer, local: Place) -> None:
    fields = {"n": 2, "width": 3, "height": 2}
    manifest = await run(make_job(local, fields=fields, on_mismatch="fail"))
    assert manifest.error
    assert manifest.error["message"].startswith("Asked for 2 images, got 1. on_mismatch is fail")
    assert manifest.warnings == ["Asked for 2 images, got 1"]


def test_the_event_of_a_mismatch_is_small_and_names_the_manifest(emulator: Emulator, local: Place) -> None:
    event = asyncio.run(run(make_job(local, fields=WIDE, on_mismatch="fail"))).as_event(local.conn_id)
    assert (event["status"], event["error"]["type"]) == ("failed", "ResultMismatch")
    assert outcome_of(event).status == "failed"
    operator, ti = generate(output_uri=local.uri), TaskInstance(task_id="boat")
    with pytest.raises(AirflowFailException, match=SAYS) as caught:
        operator.execute_complete(context_of(ti), event)
    assert caught.type.__name__ == "ResultMismatch"
    assert (ti.sheets[-1].warnings, len(ti.sheets[-1].images)) == ([SAYS], 1)
    assert operator.lineage
    assert operator.lineage.image_count == 1


def test_asset_events_have_the_warnings(emulator: Emulator, local: Place) -> None:
    class Events(dict[Any, Any]):
        def __missing__(self, outlet: Any) -> Any:
            return self.setdefault(outlet, _Event())

    class _Event:
        def __init__(self) -> None:
            self.extra: dict[str, Any] = {}
            self.added: list[dict[str, Any]] = []

        def add(self, _: Asset, extra: dict[str, Any]) -> None:
            self.added.append(extra)

    asset, alias, events = Asset("boats"), AssetAlias("each boat"), Events()
    operator = generate(output_uri=local.uri, outlets=[asset, alias], preflight="off", **WIDE)
    context = context_of(TaskInstance(task_id="boat"), outlet_events=events)
    operator.prepare_for_execution().execute(context)
    assert events[asset].extra["warnings"] == [SAYS]
    assert [extra["warnings"] for extra in events[alias].added] == [[SAYS]]


def test_rows_with_the_same_picture_for_different_prompts_have_warnings(
    same_picture: AnsweringServer, local: Place
) -> None:
    rows = [
        {"key": "a", "prompt": "a cup"},
        {"key": "b", "prompt": "a jug"},
        {"key": "c", "prompt": "a cup", "seed": 1},
    ]
    fields: dict[str, Any] = {"width": 3, "height": 2, "max_concurrency": 1}
    says = "Image 0 is byte for byte the same as one of row a, whose prompt differs"
    for owner in ({}, {"run_id": "tuesday"}):
        value = result_of(batch(local, rows, **fields), **owner)
        assert value["warnings"] == [f"b: {says}"]
        lines = [json_line["warnings"] for json_line in lines_of(local)] if not owner else []
        assert lines in ([[], [says], []], [])
    assert same_picture.posts == 3


def test_rows_that_differ_fail_and_are_not_bought_again(emulator: Emulator, local: Place) -> None:
    rows = [*rows_of(2), {"key": "wide", "prompt": "a cup", "model": "grok-imagine"}]
    ti, error = ended(batch(local, rows, on_mismatch="fail"))
    paid = taken(emulator)
    again, error_again = ended(batch(local, rows, on_mismatch="fail"), try_number=2)
    for err in (error, error_again):
        assert "1 of 3 rows failed (wide: ResultMismatch)" in str(err)
        assert isinstance(err, AirflowFailException), "a retry cannot help"
    assert (posts(emulator), taken(emulator)) == (3, paid)
    assert float(paid) == ti.xcoms["cost_usd"] == again.xcoms["cost_usd"]
    (line,) = [line for line in lines_of(local) if line["key"] == "wide"]
    assert (line["status"], line["error"], line["charged"]) == ("failed", "ResultMismatch", "yes")
    assert (line["warnings"], len(line["uris"])) == (["Image 0 has 1024x1024 pixels, asked for 64x48"], 1)
    value = result_of(batch(local, rows, on_mismatch="fail", on_error="partial"), try_number=3)
    assert (counts(value), posts(emulator)) == ((2, 0, 1, 0), 3)
