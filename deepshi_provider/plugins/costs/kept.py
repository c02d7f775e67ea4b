"""Caches sums of cost sheets, since adding up a million of them takes seconds."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import date, timedelta
from typing import NamedTuple

from deepshi_provider.plugins.costs.book import Book

#: Seconds; a count that took less is not cached, but repeated for each request.
QUICK_S = 0.3
#: Seconds after which a cached count is repeated in the background.
FRESH_FOR_S = 60.0
#: The same as a multiple of the seconds that the count took: at most 5 % of the time is spent on repeating it.
FRESH_FOR_COUNTS = 20
#: Maximum number of cached counts; each has a line per day, run, task and model.
MOST_KEPT = 3


class Period(NamedTuple):
    """The days of a book.

    :ivar first: first day of the preceding period, which has the same length.
    :ivar start: first day of the period itself.
    :ivar end: last day.
    """

    first: date
    start: date
    end: date

    @classmethod
    def of(cls, start: date, end: date) -> Period:
        """Return a period with the one that precedes it."""
        return cls(start - timedelta(days=(end - start).days + 1), start, end)

    @property
    def days(self) -> int:
        """Number of days, without the preceding period."""
        return (self.end - self.start).days + 1

    def covers(self, other: Period) -> bool:
        """Return whether this period's book has the lines of another."""
        return self.first <= other.first and self.start <= other.start and other.end <= self.end


class KeptBooks:
    """A cache of this process's last books, each counted by one thread at a time.

    :param count: counts the sheets of a period.
    :param clock: returns unix seconds.
    """

    def __init__(self, count: Callable[[Period], Book], clock: Callable[[], float] = time.time) -> None:
        self._count = count
        self._clock = clock
        self._books: OrderedDict[Period, Book] = OrderedDict()
        self._lock = threading.Lock()
        self._counting: dict[Period, threading.Lock] = {}

    def get(self, period: Period, *, anew: bool = False) -> Book:
        """Return a cached book that has a period, or count it now.

        :param anew: count, even if the book is cached.
        """
        asked_at = self._clock()
        with self._lock:
            period = self._covering(period)
            book = self._books.get(period)
            gate = self._counting.setdefault(period, threading.Lock())
        if book and book.seconds >= QUICK_S and not anew:
            if asked_at - book.counted_at > max(FRESH_FOR_S, FRESH_FOR_COUNTS * book.seconds):
                threading.Thread(target=self._renew, args=(period, gate, book), daemon=True).start()
            return book
        with gate:
            # Another thread may have counted it during the wait for the lock. A slow count may have begun before.
            book = self._books.get(period)
            if book is None or (book.counted_at < asked_at and (anew or book.seconds < QUICK_S)):
                book = self._keep(period)
            return book

    def _covering(self, period: Period) -> Period:
        """Return the shortest cached period that has all sheets of another, or that one itself."""
        covering = [kept for kept, book in self._books.items() if kept.covers(period) and not book.truncated]
        found = min(covering, key=lambda kept: kept.days, default=period)
        if found in self._books:
            self._books.move_to_end(found)
        return found

    def _renew(self, period: Period, gate: threading.Lock, old: Book) -> None:
        if gate.acquire(blocking=False):  # otherwise another thread is already counting
            try:
                if self._books.get(period) is old:
                    self._keep(period)
            finally:
                gate.release()

    def _keep(self, period: Period) -> Book:
        book = self._count(period)
        with self._lock:
            day = timedelta(days=1)
            # The same period of yesterday, which nobody asks for again.
            if (gone := Period.of(period.start - day, period.end - day)) in self._books:
                self._forget(gone)
            if period in self._books:
                self._books.pop(period).views.clear()
            self._books[period] = book
            while len(self._books) > MOST_KEPT:
                self._forget(next(iter(self._books)))
        return book

    # A book and its views refer to each other, so they would stay until the garbage collector looks at all objects.
    def _forget(self, period: Period) -> None:
        self._books.pop(period).views.clear()
        self._counting.pop(period, None)
