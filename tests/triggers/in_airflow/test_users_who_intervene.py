"""If a user clears or marks a deferred task, its request is cancelled at once, and its claim stays."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.support.places import images, state
from tests.triggers.in_airflow.world import Run, World

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]


@dataclass(frozen=True, kw_only=True)
class Intervened:
    """Runs that a user cleared or marked while their answers were being sent."""

    cleared: Run
    cleared_with_no_resend: Run
    failed: Run
    failed_with_no_resend: Run


@pytest.fixture(scope="module")
def intervened(running_world: World) -> Intervened:
    world = running_world
    world.reset()
    runs = Intervened(
        cleared=world.start_slowly("deferred"),
        cleared_with_no_resend=world.start_slowly("deferred_never_twice"),
        failed=world.start_slowly("deferred"),
        failed_with_no_resend=world.start_slowly("deferred_never_twice"),
    )
    for run in vars(runs).values():
        run.wait_until_paid()
    for run in (runs.cleared, runs.cleared_with_no_resend):
        run.clear()
        run.wait_until_left(0)
    for run in (runs.failed, runs.failed_with_no_resend):
        run.mark("failed")
        run.wait_until_left(0)
        assert run.end() == "failed"
        assert (run.posts, len(run.claims()), run.records(), images(run.place)) == (1, 1, [], [])
        run.clear()
    return runs


@pytest.mark.parametrize("name", ["cleared", "failed"])
def test_next_run_sends_once_more_and_logs_it(intervened: Intervened, name: str) -> None:
    run: Run = getattr(intervened, name)
    assert run.end() == "success"
    assert (run.posts, len(run.claims()), len(run.records())) == (2, 2, 1)
    result = run.result()
    assert (result["unknown_outcomes"], result["sends"], result["reused"]) == (1, 1, False)
    assert run.xcom("cost_usd") == result["cost_usd"] == float(run.paid) / 2
    assert images(run.place) == ["image-0.png"]
    assert state(run.place, "lease") == []


@pytest.mark.parametrize("name", ["cleared_with_no_resend", "failed_with_no_resend"])
def test_with_max_resends_0_next_run_fails_and_names_the_claim(intervened: Intervened, name: str) -> None:
    run: Run = getattr(intervened, name)
    assert run.end() == "failed"
    assert (run.posts, run.records(), images(run.place)) == (1, [], [])
    (claim,) = run.claims()
    assert f"{run.place.uri}/{claim}" in run.log(2)
    assert run.xcom("cost_usd") == 0


def test_clear_after_success_costs_nothing(world: World) -> None:
    run = world.start("deferred")
    assert run.end() == "success"
    first = run.result()
    run.clear()
    run.wait_for_try(2)
    assert run.end() == "success"
    again = run.result()
    assert (again["reused"], again["cost_usd"], again["sends"], run.posts) == (True, 0, 0, 1)
    assert again["images"] == first["images"]
    assert run.xcom("cost_usd") == first["cost_usd"] == float(run.paid)
