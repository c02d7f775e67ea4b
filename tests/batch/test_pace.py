"""A rate limit slows the whole batch down once, and successes speed it up again."""

from __future__ import annotations

import asyncio
import json

import pytest

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.batch import kept_pace
from deepshi_provider.batch.kept_pace import KeptPace
from deepshi_provider.client.pace import FASTEST, FIRST_CUT, RECOVERY, SLOWEST, START, Pace
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import RateLimited, TimedOut
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.directories import STORES
from tests.support.batches import PRICE, batch, counts, ended, lines_of, result_of, rows_of
from tests.support.counts import posts, taken
from tests.support.jobs import BOAT
from tests.support.places import Place, state


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rate_limit_slows_the_whole_batch_down(emulator: Emulator, local: Place) -> None:
    emulator.settings(rate_limit=5)
    at_once = 50
    value = result_of(batch(local, rows_of(100), max_concurrency=at_once))
    assert counts(value) == (100, 0, 0, 0)
    stats = emulator.stats()
    # On a busy machine the first refusal arrives after the whole first burst; without a pace most of all are refused.
    assert stats["by_status"]["429"] <= at_once + 0.3 * (stats["posts"] - at_once)
    assert taken(emulator) == 100 * PRICE
    assert value["unknown_outcomes"] == 0


@pytest.mark.slow
def test_a_limit_that_lasts_too_long_stops_the_batch(emulator: Emulator, local: Place) -> None:
    emulator.fault("status", status=429, retry_after=3600, times=None)
    _, err = ended(batch(local, rows_of(100), max_concurrency=4))
    assert "429" in str(err)
    assert posts(emulator) <= 4


@pytest.mark.slow
def test_a_row_that_is_refused_until_its_time_is_over_fails_as_rate_limited(emulator: Emulator, local: Place) -> None:
    """Then the batch stops, as after a long wait: each of the other rows would block a worker as long."""
    emulator.fault("status", status=429, retry_after=0, times=None)
    _, err = ended(batch(local, rows_of(9), max_concurrency=1, generation_timeout=2))
    assert isinstance(err, RateLimited)
    (line,) = [line for line in lines_of(local) if line["error"]]
    assert (line["key"], line["error"], line["charged"]) == ("row-0", "rate_limit_exceeded", "no")
    assert {request["prompt"] for request in emulator.requests()} == {rows_of(1)[0]["prompt"]}
    assert (str(taken(emulator)), state(local, "claim")) == ("0", [])


@pytest.mark.slow
async def test_a_row_whose_turn_comes_too_late_is_not_sent(emulator: Emulator) -> None:
    """Its answer would be cut off after it was paid for."""
    pace = Pace()
    pace.refused(await pace.turn(), 60)
    client = await DeepshiHook().aclient()
    async with client.session(pace):
        with pytest.raises(TimedOut, match=r"rate limit .* nothing was sent"):
            await client.generate(GenerateRequest(**BOAT), timeout=1)
    assert posts(emulator) == 0


def test_the_pace_is_cut_once_per_round_of_refusals() -> None:
    async def scenario() -> list[float]:
        pace = Pace()
        seen = [pace.interval]
        together = [await pace.turn() for _ in range(3)]
        assert START > pace.interval > 0.9 * START, "a little faster as long as nothing is refused"
        for sent_at in together:
            pace.refused(sent_at, 0)
            seen.append(pace.interval)
        pace.refused(await pace.turn(), 0)
        seen.append(pace.interval)
        return seen

    assert asyncio.run(scenario()) == [START, FIRST_CUT, FIRST_CUT, FIRST_CUT, 2 * FIRST_CUT]


@pytest.mark.slow
def test_each_request_raises_the_pace_until_the_first_refusal() -> None:
    async def scenario() -> list[float]:
        pace = Pace()
        sent = [await pace.turn() for _ in range(200)]
        seen = [pace.interval]
        pace.refused(sent[-1], 0)
        await pace.turn()
        seen.append(pace.interval)
        pace.accepted()
        return [*seen, pace.interval]

    assert asyncio.run(scenario()) == [FASTEST, FIRST_CUT, FIRST_CUT * RECOVERY]


@pytest.mark.slow
def test_no_request_is_sent_before_the_servers_retry_after() -> None:
    async def scenario() -> float:
        pace = Pace()
        sent_at = await pace.turn()
        pace.refused(sent_at, 0.2)
        others = await asyncio.gather(*(pace.turn() for _ in range(3)))
        assert sorted(others) == list(others), "first come, first served"
        return min(others) - sent_at

    assert asyncio.run(scenario()) >= 0.19


def test_the_pace_has_limits() -> None:
    async def scenario() -> tuple[float, float]:
        pace = Pace()
        for _ in range(5000):
            pace.accepted()
        fastest = pace.interval
        for _ in range(30):
            pace.refused(float("inf"), 0)
        return fastest, pace.interval

    assert asyncio.run(scenario()) == (FASTEST, SLOWEST)


@pytest.mark.slow
def test_the_pace_survives_a_restart(emulator: Emulator, place: Place) -> None:
    emulator.settings(rate_limit=5)
    rows = rows_of(60)
    result_of(batch(place, rows[:40], max_concurrency=20))
    first = emulator.stats()["by_status"]["429"]
    kept = json.loads(place.read("_deepshi/pace.json"))["interval"]
    assert kept >= FIRST_CUT
    result_of(batch(place, rows, max_concurrency=20), try_number=2)
    again = emulator.stats()["by_status"]["429"] - first
    assert (again < first, taken(emulator)) == (True, 60 * PRICE)


async def test_an_old_or_unreadable_pace_is_not_used(local: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    store = STORES.at(local.uri)
    assert (await KeptPace.recall(store)).pace.interval == START
    kept = KeptPace(store, Pace())
    await kept.keep()
    assert local.names() == [], "without a refusal there is nothing to keep"
    kept.pace.refused(await kept.pace.turn(), 0)
    await kept.keep()
    assert (await KeptPace.recall(store)).pace.interval == FIRST_CUT
    monkeypatch.setattr(kept_pace, "LASTING", -1.0)
    assert (await KeptPace.recall(store)).pace.interval == START
    monkeypatch.undo()
    for text in (b"{", b"[]", b'{"interval": "soon"}', b'{"interval": null}'):
        local.write("_deepshi/pace.json", text)
        assert (await KeptPace.recall(store)).pace.interval == START
