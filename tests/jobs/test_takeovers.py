"""Two processes at one request: one took over since the other seemed dead, and then the answer of the first one comes.

The first process writes one heartbeat and no more, so the second takes over after two seconds. A test decides when each
answer is sent. Each picture costs the same.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.hooks.batch_jobs import run_batch_job
from deepshi_provider.hooks.jobs import run_job
from deepshi_provider.jobs.outcome import BatchOutcome, ImageOutcome
from deepshi_provider.journal.lease import Times
from tests.support import bodies
from tests.support.answering import Answer, AnsweringServer, answering
from tests.support.bodies import SSE, answer_text, completed, event
from tests.support.jobs import BOAT, make_batch, make_job
from tests.support.places import Place, document, images, state
from tests.support.waiting import until

pytestmark = pytest.mark.slow

FIRST, SECOND, THIRD = (bodies.picture(width=width) for width in (3, 4, 5))
COST = Decimal("0.000135")
STREAM = f"Content-Type: {SSE}\r\nConnection: close"
PAUSED = Times(lease=2, heartbeat=1000, poll=0.1)
USUAL = Times(lease=2, heartbeat=0.3, poll=0.1)


def picture(*pictures: bytes) -> Answer:
    return (
        Answer(body=answer_text(*pictures))
        if len(pictures) > 1
        else Answer(body=event(completed(*pictures)), head=STREAM)
    )


CUT = Answer(body=b": wait\n\n", head=STREAM)
REFUSED = Answer(
    status="402 Payment Required", body=b'{"error": {"message": "no credit", "code": "insufficient_quota"}}'
)
BROKEN = picture(SECOND[:30])


class Served:
    """A server whose answers to the paid requests, in order of arrival, wait until they are released."""

    def __init__(self, *answers: Answer) -> None:
        self._gates = [threading.Event() for _ in answers]
        self._answers = answers
        self.server: AnsweringServer

    def choose(self, number: int, _: bytes) -> Answer:
        answer = self._answers[number - 1]
        return Answer(**{**vars(answer), "after": self._gates[number - 1]})

    def release(self, *numbers: int) -> None:
        for number in numbers:
            self._gates[number - 1].set()

    async def arrived(self, number: int) -> None:
        await until(f"request {number}", lambda: self.server.posts >= number)


Serve = Callable[..., Served]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server behind the connection ``deepshi_default``."""
    running = []

    def start(*answers: Answer) -> Served:
        served = Served(*answers)
        running.append(answering(served.choose))
        served.server = running[-1].__enter__()
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", served.server.connection_json(read_timeout=300))
        return served

    yield start
    for context in running:
        context.__exit__(None, None, None)


def paused(place: Place, **more: Any) -> asyncio.Task[ImageOutcome]:
    return asyncio.create_task(run_job(make_job(place, **more), times=PAUSED))


def usual(place: Place, **more: Any) -> asyncio.Task[ImageOutcome]:
    return asyncio.create_task(run_job(make_job(place, **more), times=USUAL))


def kinds(place: Place) -> list[tuple[int, str]]:
    """Return number and kind of each record."""
    parts = (name.removeprefix("_deepshi/").split(".") for name in state(place, "record"))
    return [(int(part[1]), part[-2]) for part in parts]


def recorded(place: Place) -> Decimal:
    return sum((Decimal(document(place, name)["cost_usd"]) for name in state(place, "record")), Decimal(0))


async def finds_the_image(place: Place, served: Served, picture: bytes, posts: int) -> None:
    """Check that another try sends nothing, and returns this picture."""
    assert place.read("image-0.png") == picture
    again = await run_job(make_job(place, max_resends=0, owner={"try_number": 9}), times=USUAL)
    assert (again.status, again.reused, served.server.posts) == ("success", True, posts)
    assert again.images[0].size_bytes == len(picture)


#: What comes of the attempt that took over, and what its record and its claim are afterwards.
FATES: dict[str, tuple[Answer, list[tuple[int, str]], int]] = {
    "lost": (CUT, [], 1),
    "refused": (REFUSED, [], 0),
    "unusable": (BROKEN, [(2, "lost")], 0),
}


@pytest.mark.parametrize(("answer", "others", "possible"), FATES.values(), ids=FATES)
async def test_a_paid_picture_is_kept_if_the_attempt_that_took_over_has_none(
    serve: Serve, place: Place, answer: Answer, others: list[tuple[int, str]], possible: int
) -> None:
    served = serve(picture(FIRST), answer)
    first = paused(place)
    await served.arrived(1)
    served.release(2)
    assert (await usual(place)).status == "failed"
    served.release(1)
    kept = await first
    assert (kept.status, kept.reused, served.server.posts) == ("success", False, 2)
    assert (kinds(place), images(place)) == ([(1, "stored"), *others], ["image-0.png"])
    assert kept.costs is not None
    assert kept.costs.cost_usd == recorded(place) == COST * (1 + len(others))
    assert kept.costs.unknown_outcomes == possible
    await finds_the_image(place, served, FIRST, posts=2)


async def test_a_paid_picture_is_kept_if_the_process_that_took_over_was_cancelled(serve: Serve, local: Place) -> None:
    served = serve(picture(FIRST), picture(SECOND))
    first = paused(local)
    await served.arrived(1)
    second = usual(local)
    await served.arrived(2)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    served.release(1)
    kept = await first
    assert (kept.status, served.server.posts, kinds(local)) == ("success", 2, [(1, "stored")])
    assert kept.costs is not None
    assert (kept.costs.cost_usd, kept.costs.unknown_outcomes) == (COST, 1)
    await finds_the_image(local, served, FIRST, posts=2)


@pytest.mark.parametrize(
    ("answer", "others", "possible"), [*FATES.values(), (picture(SECOND), [(2, "superseded")], 0)], ids=[*FATES, "paid"]
)
async def test_the_first_picture_that_is_stored_stays_whatever_comes_of_the_other_attempt(
    serve: Serve, place: Place, answer: Answer, others: list[tuple[int, str]], possible: int
) -> None:
    served = serve(picture(FIRST), answer)
    first = paused(place)
    await served.arrived(1)
    second = usual(place)
    await served.arrived(2)
    served.release(1)
    kept = await first
    assert (kept.status, kinds(place)) == ("success", [(1, "stored")])
    served.release(2)
    found = await second
    assert (found.status, found.images, served.server.posts) == ("success", kept.images, 2)
    assert kinds(place) == [(1, "stored"), *others]
    assert found.costs is not None
    assert found.costs.cost_usd == recorded(place) == COST * (1 + len(others))
    assert found.costs.unknown_outcomes == possible
    await finds_the_image(place, served, FIRST, posts=2)


@pytest.mark.parametrize("reuse", [True, False])
async def test_a_picture_that_came_second_is_not_bought_a_third_time(serve: Serve, local: Place, reuse: bool) -> None:
    served = serve(picture(FIRST), picture(SECOND))
    first = paused(local, reuse=reuse)
    await served.arrived(1)
    served.release(2)
    found = await usual(local, reuse=reuse, owner={"try_number": 2})
    served.release(1)
    late = await first
    assert (late.status, late.images, served.server.posts) == ("success", found.images, 2)
    assert kinds(local) == [(1, "superseded"), (2, "stored")]
    assert late.costs is not None
    assert late.costs.cost_usd == recorded(local) == 2 * COST
    await finds_the_image(local, served, SECOND, posts=2)


async def test_pictures_of_a_third_attempt_stay_too(serve: Serve, local: Place) -> None:
    served = serve(picture(FIRST), CUT, picture(THIRD))
    first = paused(local, max_resends=2)
    await served.arrived(1)
    served.release(2)
    assert (await usual(local, max_resends=2)).status == "failed"
    third = usual(local, max_resends=2)
    await served.arrived(3)
    served.release(3)
    found = await third
    served.release(1)
    assert ((await first).images, found.unknown_outcomes) == (found.images, 2)
    assert kinds(local) == [(1, "superseded"), (3, "stored")]
    await finds_the_image(local, served, THIRD, posts=3)


async def test_a_picture_is_stored_if_the_other_process_has_stored_one_that_is_gone(serve: Serve, local: Place) -> None:
    served = serve(picture(FIRST), picture(SECOND))
    first = paused(local)
    await served.arrived(1)
    served.release(2)
    await usual(local)
    local.delete("image-0.png")
    served.release(1)
    assert (await first).status == "success"
    assert kinds(local) == [(1, "stored"), (2, "stored")]
    await finds_the_image(local, served, FIRST, posts=2)


async def test_two_sets_of_pictures_that_come_at_once_are_not_mixed(serve: Serve, place: Place) -> None:
    served = serve(picture(FIRST, SECOND), picture(SECOND, FIRST))
    fields = {"n": 2, "model": "flux-2-pro"}
    first = paused(place, fields=fields)
    await served.arrived(1)
    second = usual(place, fields=fields)
    await served.arrived(2)
    served.release(1, 2)
    assert [(await each).status for each in (first, second)] == ["success", "success"]
    assert [place.read(f"image-{index}.png") for index in (0, 1)] in ([FIRST, SECOND], [SECOND, FIRST])
    again = await run_job(make_job(place, max_resends=0, fields=fields, owner={"try_number": 9}), times=USUAL)
    assert (again.status, again.reused, served.server.posts, recorded(place)) == ("success", True, 2, 2 * COST)


async def test_a_row_keeps_its_paid_picture_too(serve: Serve, local: Place) -> None:
    served = serve(picture(FIRST), CUT)
    first = asyncio.create_task(run_row(local, PAUSED))
    await served.arrived(1)
    served.release(2)
    second = await run_row(local, USUAL, owner={"try_number": 2})
    assert (second.status, second.failed) == ("failed", 1)
    served.release(1)
    kept = await first
    assert (kept.created, kept.failed, served.server.posts) == (1, 0, 2)
    assert kinds(local) == [(1, "stored")]
    assert kept.costs is not None
    assert (kept.costs.cost_usd, kept.costs.unknown_outcomes) == (recorded(local), 1)
    assert local.read("boat-0.png") == FIRST
    again = await run_row(local, USUAL, owner={"try_number": 3})
    assert (again.created, again.failed, served.server.posts) == (1, 0, 2)


async def run_row(place: Place, times: Times, owner: dict[str, Any] | None = None) -> BatchOutcome:
    with RowTable() as rows:
        rows.fill([("boat", {**BOAT, "stream": True})])
        return await run_batch_job(make_batch(place, 1, owner=owner, generation_timeout=600), rows, times=times)
