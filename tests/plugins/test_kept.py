"""The cache of sums that take long to compute."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

from deepshi_provider.plugins.costs.book import Book
from deepshi_provider.plugins.costs.kept import FRESH_FOR_COUNTS, FRESH_FOR_S, MOST_KEPT, QUICK_S, KeptBooks, Period
from tests.support.waiting import wait_until

TODAY = date(2026, 3, 10)


def last(days: int, end: date = TODAY) -> Period:
    return Period.of(end - timedelta(days=days - 1), end)


MONTH, YEAR = last(30), last(365)


class Counter:
    """Creates books whose count took these seconds, with a clock that only tests advance."""

    def __init__(self, seconds: float) -> None:
        self.now = 1_000.0
        self.seconds = seconds
        self.counted: list[Period] = []
        self.truncated = False
        self.books = KeptBooks(self.count, lambda: self.now)

    def count(self, period: Period) -> Book:
        self.counted.append(period)
        return Book(counted_at=self.now, seconds=self.seconds, truncated=self.truncated)


def test_a_quick_count_is_repeated_for_each_request() -> None:
    counter = Counter(QUICK_S / 2)
    for expected in (1, 2, 3):
        counter.now += 0.001
        counter.books.get(MONTH)
        assert len(counter.counted) == expected


def test_a_slow_count_is_used_for_a_minute_and_then_renewed_in_the_background() -> None:
    counter = Counter(QUICK_S * 10)
    first = counter.books.get(MONTH)
    counter.now += FRESH_FOR_S
    assert counter.books.get(MONTH) is first
    assert len(counter.counted) == 1
    counter.now += 1
    assert counter.books.get(MONTH) is first
    wait_until(lambda: counter.books.get(MONTH) is not first)
    assert len(counter.counted) == 2


def test_the_slower_a_count_the_longer_it_is_used() -> None:
    counter = Counter(30)
    first = counter.books.get(YEAR)
    counter.now += FRESH_FOR_COUNTS * 30
    assert counter.books.get(YEAR) is first
    counter.now += 1
    assert counter.books.get(YEAR) is first
    wait_until(lambda: counter.books.get(YEAR) is not first)
    assert counter.counted == [YEAR, YEAR]


def test_a_new_count_can_be_requested() -> None:
    counter = Counter(QUICK_S * 10)
    first = counter.books.get(MONTH)
    counter.now += 1
    assert counter.books.get(MONTH, anew=True) is not first


def test_concurrent_requests_share_a_count() -> None:
    counter = Counter(QUICK_S * 10)
    barrier = threading.Barrier(8)

    def ask() -> Book:
        barrier.wait()
        return counter.books.get(MONTH)

    with ThreadPoolExecutor(8) as pool:
        found = [future.result() for future in [pool.submit(ask) for _ in range(8)]]
    assert all(book is found[0] for book in found)
    assert len(counter.counted) == 1


def test_a_request_uses_a_slow_count_that_began_before_it() -> None:
    begun, go_on = threading.Event(), threading.Event()
    now = 1_000.0
    counted: list[Period] = []

    def count(period: Period) -> Book:
        counted_at = now
        counted.append(period)
        begun.set()
        assert go_on.wait(60)
        return Book(counted_at=counted_at, seconds=30)

    gates: list[bool] = []

    def clock() -> float:
        gates.append(True)
        return now

    books = KeptBooks(count, clock)
    with ThreadPoolExecutor(2) as pool:
        ahead = pool.submit(books.get, YEAR)
        assert begun.wait(60)
        now += 10
        late = pool.submit(books.get, YEAR)
        wait_until(lambda: len(gates) == 2)
        go_on.set()
        assert late.result(60) is ahead.result(60)
    assert counted == [YEAR]


def test_a_replaced_book_is_freed_at_once() -> None:
    class View:
        pass

    counter = Counter(QUICK_S * 10)
    old = counter.books.get(YEAR)
    view = View()
    view.book = old  # type: ignore[attr-defined]  # as a view has
    old.views["a"] = view
    freed = weakref.ref(view)
    del old, view
    counter.now += 1
    gc.disable()
    try:
        counter.books.get(YEAR, anew=True)
        assert freed() is None
    finally:
        gc.enable()


def test_a_cached_year_answers_for_shorter_periods() -> None:
    counter = Counter(QUICK_S * 10)
    year = counter.books.get(YEAR)
    assert counter.books.get(last(90)) is year
    assert counter.books.get(last(7, TODAY - timedelta(days=100))) is year
    counter.now += 1
    month = counter.books.get(MONTH, anew=True)
    assert counter.counted == [YEAR, YEAR], "what is counted again is what was shown"
    assert counter.books.get(MONTH) is month


def test_the_shortest_cached_period_answers() -> None:
    counter = Counter(QUICK_S * 10)
    month, year = counter.books.get(MONTH), counter.books.get(YEAR)
    assert counter.books.get(MONTH) is counter.books.get(last(7)) is month
    assert counter.books.get(last(31)) is year


def test_a_book_does_not_answer_for_days_that_it_lacks() -> None:
    counter = Counter(QUICK_S * 10)
    counter.books.get(MONTH)
    for other in (last(31), last(30, TODAY + timedelta(days=1)), last(30, TODAY - timedelta(days=15))):
        assert counter.books.get(other).counted_at == counter.now
        assert counter.counted[-1] == other


def test_a_book_with_too_few_sheets_answers_only_for_its_own_period() -> None:
    counter = Counter(QUICK_S * 10)
    counter.truncated = True
    year = counter.books.get(YEAR)
    assert year.truncated
    counter.truncated = False
    assert not counter.books.get(last(90)).truncated
    assert counter.books.get(YEAR) is year
    assert counter.counted == [YEAR, last(90)]


def test_few_books_are_cached_and_those_in_use_are() -> None:
    counter = Counter(QUICK_S * 10)
    used, *others = [last(10, TODAY - timedelta(days=50 * number)) for number in range(MOST_KEPT + 1)]
    counter.books.get(used)
    for other in others:
        counter.books.get(other)
        counter.books.get(used)
    assert counter.counted == [used, *others]
    counter.books.get(others[0])
    assert counter.counted == [used, *others, others[0]]


def test_a_new_day_replaces_the_book_of_the_day_before() -> None:
    counter = Counter(QUICK_S * 10)
    counter.books.get(YEAR)
    counter.books.get(last(365, TODAY + timedelta(days=1)))
    counter.books.get(last(365, TODAY))
    assert len(counter.counted) == 3
