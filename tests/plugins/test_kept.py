"""The cache of sums that take long to compute."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from deepshi_provider.plugins.costs.book import Book
from deepshi_provider.plugins.costs.kept import FRESH_FOR_S, MOST_KEPT, QUICK_S, KeptBooks
from tests.support.waiting import wait_until


class Counter:
    """Creates books whose count took these seconds, with a clock that only tests advance."""

    def __init__(self, seconds: float) -> None:
        self.now = 1_000.0
        self.seconds = seconds
        self.counted = 0

    def clock(self) -> float:
        return self.now

    def count(self) -> Book:
        self.counted += 1
        return Book(counted_at=self.now, seconds=self.seconds)


def test_a_quick_count_is_repeated_for_each_request() -> None:
    counter = Counter(QUICK_S / 2)
    books = KeptBooks(counter.clock)
    for expected in (1, 2, 3):
        counter.now += 0.001
        books.get("a", counter.count)
        assert counter.counted == expected


def test_a_slow_count_is_used_for_a_minute_and_then_renewed_in_the_background() -> None:
    counter = Counter(QUICK_S * 10)
    books = KeptBooks(counter.clock)
    first = books.get("a", counter.count)
    counter.now += FRESH_FOR_S
    assert books.get("a", counter.count) is first
    assert counter.counted == 1
    counter.now += 1
    assert books.get("a", counter.count) is first
    wait_until(lambda: books.get("a", counter.count) is not first)
    assert counter.counted == 2


def test_a_new_count_can_be_requested() -> None:
    counter = Counter(QUICK_S * 10)
    books = KeptBooks(counter.clock)
    first = books.get("a", counter.count)
    counter.now += 1
    assert books.get("a", counter.count, anew=True) is not first


def test_concurrent_requests_share_a_count() -> None:
    counter = Counter(QUICK_S * 10)
    books = KeptBooks(counter.clock)
    barrier = threading.Barrier(8)

    def ask() -> Book:
        barrier.wait()
        return books.get("a", counter.count)

    with ThreadPoolExecutor(8) as pool:
        found = [future.result() for future in [pool.submit(ask) for _ in range(8)]]
    assert all(book is found[0] for book in found)
    assert counter.counted == 1


def test_few_books_are_cached() -> None:
    counter = Counter(QUICK_S * 10)
    books = KeptBooks(counter.clock)
    for name in range(MOST_KEPT + 1):
        books.get(name, counter.count)
    books.get(0, counter.count)
    assert counter.counted == MOST_KEPT + 2
