"""Caches sums of cost sheets, since adding up a million of them takes seconds."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from deepshi_provider.plugins.costs.book import Book

#: Seconds; a count that took less is not cached, but repeated for each request.
QUICK_S = 0.3
#: Seconds after which a cached count is repeated in the background.
FRESH_FOR_S = 60.0
#: Maximum number of cached counts; each has a line per day, run, task and model.
MOST_KEPT = 3


class KeptBooks:
    """A cache of this process's last books, each counted by one thread at a time.

    :param clock: returns unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._books: OrderedDict[Hashable, Book] = OrderedDict()
        self._lock = threading.Lock()
        self._counting: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, count: Callable[[], Book], *, anew: bool = False) -> Book:
        """Return a cached book, or count it now.

        :param anew: count, even if the book is cached.
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
            # Another thread may have counted it during the wait for the lock.
            book = self._books.get(key)
            if book is None or book.counted_at < asked_at:
                book = self._count(key, count)
            return book

    def _renew(self, key: Hashable, count: Callable[[], Book], gate: threading.Lock, old: Book) -> None:
        if gate.acquire(blocking=False):  # otherwise another thread is already counting
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
