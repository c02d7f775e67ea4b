"""Concurrent tasks whose worker is killed, whose answer or store is missing, or that have to wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.places import document, images, state
from tests.support.waiting import wait_for
from tests.triggers.in_airflow.world import Run, World

pytestmark = [pytest.mark.airflow, pytest.mark.s3, pytest.mark.timeout(600)]


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Runs that do not affect each other."""

    killed: Run
    killed_with_no_resend: Run
    marked: Run
    short: Run
    refused: Run
    without_store: Run


@pytest.fixture(scope="module")
def waiting(running_world: World) -> Iterator[Waiting]:
    world = running_world
    world.reset()
    runs = Waiting(
        # About 20 s, in which the store is taken away, also on a busy machine.
        without_store=world.start_slowly("deferred", bytes_per_second=7_000, on_s3=True),
        killed=world.start_slowly("blocking"),
        killed_with_no_resend=world.start_slowly("blocking_never_twice"),
        marked=world.start_slowly("blocking"),
        short=world.start_slowly("deferred_short", times=9),
        refused=world.run_of("deferred"),
    )
    world.deepshi.fault("status", status=429, retry_after=3, prompt=runs.refused.prompt)
    runs.refused.begin()
    away = threading.Thread(target=take_the_store_away, args=(runs.without_store,))
    away.start()
    for run in (runs.killed, runs.killed_with_no_resend):
        run.wait_until_paid()
        world.airflow.kill_task(run.dag_id, run.run_id, run.task_id)
    yield runs
    away.join()


def take_the_store_away(run: Run) -> None:
    """Stop the store until the trigger has the image and failed to store it."""
    run.wait_until_paid()
    run.world.s3.stop()
    try:
        # If heartbeats failed before, it first looks for another process's images.
        failures = ("Could not store 'image-0.png'", "Could not list '_deepshi'")
        wait_for("a failure to store", 180, lambda: any(map(run.logged, failures)))
    finally:
        run.world.s3.start()


def test_one_more_request_follows_a_killed_worker(waiting: Waiting) -> None:
    run = waiting.killed
    assert run.end() == "success"
    assert (run.posts, len(run.claims()), len(run.records())) == (2, 2, 1)
    result = run.result()
    assert (result["unknown_outcomes"], result["sends"], result["reused"]) == (1, 1, False)
    assert run.xcom("cost_usd") == result["cost_usd"] == float(run.paid) / 2
    assert run.task()["try_number"] == 2
    assert images(run.place) == ["image-0.png"]


def test_with_max_resends_0_no_request_follows_a_killed_worker(waiting: Waiting) -> None:
    run = waiting.killed_with_no_resend
    assert run.end() == "failed"
    assert (run.posts, run.records(), images(run.place)) == (1, [], [])
    (claim,) = run.claims()
    assert f"{run.place.uri}/{claim}" in run.log(2)
    assert run.task()["try_number"] == 2, "max_resends is over: a third try could not help"


def test_killing_a_blocking_task_closes_its_connection_at_once(waiting: Waiting) -> None:
    run = waiting.marked
    run.wait_until_paid()
    run.mark("failed")
    run.wait_until_left(0)
    assert run.end() == "failed"
    assert (run.posts, len(run.claims()), run.records(), images(run.place)) == (1, 1, [], [])


def test_generation_timeout_ends_the_request_and_the_retries_are_bounded(waiting: Waiting) -> None:
    run = waiting.short
    assert run.end() == "failed"
    assert [entry["outcome"] for entry in run.requests] == ["disconnected"] * 2
    assert run.task()["try_number"] == 2, "it has two more tries, and they would be in vain"
    for number in (1, 2):
        assert "OutcomeUnknown" in run.log(number)
        assert "no complete answer arrived within generation_timeout" in run.log(number)
    assert (len(run.claims()), run.records(), images(run.place)) == (2, [], [])


def test_refusal_with_retry_after_is_waited_for(waiting: Waiting) -> None:
    run = waiting.refused
    assert run.end() == "success"
    first, second = run.requests
    assert (first["status"], second["status"]) == (429, 200)
    assert second["received_at"] - first["received_at"] >= 3
    result = run.result()
    assert (result["sends"], result["unknown_outcomes"], images(run.place)) == (2, 0, ["image-0.png"])
    assert run.xcom("cost_usd") == result["cost_usd"] == float(run.paid) > 0
    waits = [line for line in run.log().splitlines() if "Sending again in 3.0 s (try 2)" in line]
    assert len(waits) == 1
    assert '"level": "info"' in waits[0]


def test_store_that_was_unavailable_after_payment_gets_the_image(waiting: Waiting) -> None:
    run = waiting.without_store
    assert run.end() == "success"
    assert run.posts == 1
    assert images(run.place) == ["image-0.png"]
    (record,) = run.records()
    assert run.place.read("image-0.png") == run.world.deepshi.picture(run.requests[0]["id"])
    (manifest,) = state(run.place, "manifest")
    assert document(run.place, manifest)["cost_usd"] == record["cost_usd"]
    assert run.xcom("cost_usd") == float(run.paid) > 0
