"""Keeps what was counted: with a million cost sheets, one count takes seconds."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from deepshi_provider.plugins.costs.book import Book

#: A count that took fewer seconds than this is not kept: it is made anew for each question.
QUICK_S = 0.3
#: Seconds after which a kept count is made anew, in the background.
FRESH_FOR_S = 60.0
#: Kept counts; each has a line per day, run, task and model.
MOST_KEPT = 3


class KeptBooks:
    """The last books of this process, each counted by one thread at a time.

    :param clock: unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._books: OrderedDict[Hashable, Book] = OrderedDict()
        self._lock = threading.Lock()
        self._counting: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, count: Callable[[], Book], *, anew: bool = False) -> Book:
        """Return a book: one that is kept, or else counted now.

        :param anew: count, even if one is kept.
        """
        asked_at = self._clock()
        with self._lock:
            book = self._books.get(key)
            gate = self._counting.setdefault(key, threading.Lock())
        if book and book.seconds >= QUICK_S and not anew:
            if asked_at - book.counted_at > FRESH_FOR_S:
                threading.Thread(target=self._renew, args=(key, count, gate, book), daemon=True).start()
            return book
        with gate:
            # Another question may have been waiting for the same count.
            book = self._books.get(key)
            if book is None or book.counted_at < asked_at:
                book = self._count(key, count)
            return book

    def _renew(self, key: Hashable, count: Callable[[], Book], gate: threading.Lock, old: Book) -> None:
        if gate.acquire(blocking=False):  # else another thread is at it
            try:
                if self._books.get(key) is old:
                    self._count(key, count)
            finally:
                gate.release()

    def _count(self, key: Hashable, count: Callable[[], Book]) -> Book:
        book = count()
        with self._lock:
            self._books[key] = book
            self._books.move_to_end(key)
            while len(self._books) > MOST_KEPT:
                gone, _ = self._books.popitem(last=False)
                self._counting.pop(gone, None)
        return book
