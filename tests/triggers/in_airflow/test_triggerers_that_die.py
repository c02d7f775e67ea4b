"""Whatever happens to a triggerer, there are at most ``1 + max_resends`` POSTs, then an image or a clear error."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.support.places import images, state
from tests.support.waiting import wait_for
from tests.triggers.in_airflow.world import Run, World

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]


@dataclass(frozen=True, kw_only=True)
class Killed:
    """Runs whose triggerer got SIGKILL: two during a stream, one after its image was stored."""

    sent: Run
    sent_with_no_resend: Run
    stored: Run


@pytest.fixture(scope="module")
def killed(running_world: World) -> Killed:
    world = running_world
    world.reset()
    world.deepshi.settings(hold=True)  # until there is a second triggerer
    (first,) = world.airflow.triggerers
    runs = Killed(
        sent=world.start_slowly("deferred"),
        sent_with_no_resend=world.start_slowly("deferred_never_twice"),
        stored=world.start("deferred"),
    )
    for run in (runs.sent, runs.sent_with_no_resend, runs.stored):
        run.wait_until_sent()
        assert run.triggerer() is first
    world.airflow.start_triggerer()
    # Only the supervisor delivers events. While it is stopped, its triggers continue without it.
    world.airflow.suspend(first, only_supervisor=True)
    world.deepshi.settings(hold=False)
    for run in (runs.sent, runs.sent_with_no_resend):
        run.wait_until_paid()
    wait_for("the manifest", 180, lambda: state(runs.stored.place, "manifest"), every=0.01)
    first.kill_hard()
    return runs


def test_another_triggerer_sends_once_more_and_logs_it(killed: Killed) -> None:
    run = killed.sent
    assert run.end() == "success"
    assert (run.posts, len(run.claims()), len(run.records())) == (2, 2, 1)
    result = run.result()
    assert (result["unknown_outcomes"], result["sends"], result["reused"]) == (1, 1, False)
    assert images(run.place) == ["image-0.png"]
    assert run.xcom("cost_usd") == result["cost_usd"] == float(run.paid) / 2
    assert "Earlier attempts of this request with unknown outcome: 1; sending it again" in run.log()


def test_with_max_resends_0_the_failure_names_the_claim(killed: Killed) -> None:
    run = killed.sent_with_no_resend
    assert run.end() == "failed"
    assert run.posts == 1
    (claim,) = run.claims()
    log = run.log()
    assert "ResendsExhausted" in log or "max_resends is 0" in log
    assert f"{run.place.uri}/{claim}" in log
    assert "Raise max_resends, or delete its claims if you accept the loss" in log
    assert images(run.place) == []
    assert run.xcom("cost_usd") == 0


def test_an_image_stored_before_its_event_is_not_bought_again(killed: Killed) -> None:
    run = killed.stored
    assert run.end() == "success"
    assert (run.posts, run.requests[0]["outcome"]) == (1, "delivered")
    result = run.result()
    assert (result["unknown_outcomes"], result["sends"], result["reused"]) == (0, 1, False)
    assert run.xcom("cost_usd") == result["cost_usd"] == float(run.paid)
    assert run.task()["try_number"] == 1


def test_rolling_deploy_with_20_in_flight_loses_nothing(world: World) -> None:
    run = world.start_slowly("many", times=20, count=20)
    run.wait_until_paid(20)
    first = run.triggerer(0)
    second = world.airflow.start_triggerer()
    first.terminate(timeout=120)
    assert first.exit_code == 0
    assert run.end() == "success"
    tasks = world.airflow.task_instances(run.dag_id, run.run_id)
    assert {task["state"] for task in tasks} == {"success"}
    assert 20 <= run.posts <= 40
    results = [run.result(map_index=index) for index in range(20)]
    assert sum(1 + result["unknown_outcomes"] for result in results) == run.posts
    assert sum(run.xcom("cost_usd", map_index=index) for index in range(20)) <= float(run.paid)
    assert second in world.airflow.triggerers


def test_stopped_and_continued_triggerer_does_not_overwrite_the_others_image(world: World) -> None:
    """One of two answers arrives while its triggerer is stopped, the other never ends."""
    first = world.airflow.triggerers[0]
    endless = world.start_slowly("deferred")
    ending = world.start_slowly("deferred", bytes_per_second=20_000)
    for run in (endless, ending):
        run.wait_until_paid()
        assert run.triggerer() is first
    world.airflow.suspend(first)
    world.airflow.start_triggerer()
    wait_for("the take-over", 180, lambda: endless.triggerer() is not first and ending.triggerer() is not first)
    wait_for("the answer's end", 180, lambda: ending.requests[0]["outcome"] != "in_flight")
    first.resume()
    for run in (endless, ending):
        assert run.end() == "success"
        result = run.result()
        assert (run.posts, result["unknown_outcomes"]) in [(1, 0), (2, 1)]
        (image,) = result["images"]
        assert images(run.place) == ["image-0.png"]
        stored = run.place.read("image-0.png")
        assert stored == world.deepshi.picture(run.requests[-1]["id"])
        assert len(stored) == image["size_bytes"]
    first.terminate(timeout=120)
