"""The progress of a batch: counts, and a log line at intervals."""

from __future__ import annotations

import logging
import time
from collections import Counter

from deepshi_provider.journal.spending import Spending

log = logging.getLogger(__name__)

#: Seconds between two log lines.
INTERVAL = 10.0


class Progress:
    """Counts rows by outcome.

    :param rows: number of rows.
    """

    def __init__(self, rows: int) -> None:
        self.counts: Counter[str] = Counter()
        self._rows = rows
        self._bought = 0
        self._begun = self._logged_at = time.monotonic()

    def add(self, status: str, spent: Spending, *, sent: bool) -> None:
        """Count one row, and log the progress if the interval has passed.

        :param spent: spending so far.
        :param sent: whether a request was sent for the row; only these count for the rate.
        """
        self.counts[status] += 1
        self._bought += sent
        if time.monotonic() - self._logged_at >= INTERVAL:
            self.log(spent)

    def log(self, spent: Spending) -> None:
        """Log the progress: rows done, reused and failed, rate, cost so far, expected time left."""
        now = self._logged_at = time.monotonic()
        done = self.counts.total()
        per_second = self._bought / max(now - self._begun, 1e-9)
        left = f"{(self._rows - done) / per_second:.0f} s" if per_second > 0 else "unknown"
        log.info(
            "%d of %d rows done: %d created, %d reused, %d failed; %.1f pictures/s, %s so far, expected time left: %s",
            done,
            self._rows,
            self.counts["created"],
            self.counts["reused"],
            self.counts["failed"],
            per_second,
            spent.as_text(),
            left,
        )
