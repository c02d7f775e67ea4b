"""Counts the page's default period, then a year, before anybody opens the page: a million sheets take long."""

from __future__ import annotations

import importlib
import logging
import threading
import time
from datetime import date, datetime, timedelta, timezone

from deepshi_provider.plugins.costs.question import AHEAD_DAYS, count_ahead

log = logging.getLogger(__name__)

#: Seconds until the next attempt if the database cannot be read.
_PAUSE_S = 60.0


def start() -> None:
    """Count now, and again at the beginning of each day, in a thread of the API server."""
    threading.Thread(target=_count_daily, name="deepshi-costs", daemon=True).start()


def _count_daily() -> None:
    importlib.import_module("deepshi_provider.plugins.costs.app")  # or the first request would wait for it
    while True:
        try:
            for days in AHEAD_DAYS:
                book = count_ahead(days)
                log.info("Costs of the last %d days are counted, in %.1f s", days, book.seconds)
        except Exception:  # from the database; the page counts when it is opened
            log.warning("The costs could not be counted ahead", exc_info=True)
            time.sleep(_PAUSE_S)
        else:
            time.sleep(_until_tomorrow(datetime.now(timezone.utc)))


def _until_tomorrow(now: datetime) -> float:
    """Return the seconds until the next day in UTC, as the page uses, has begun."""
    tomorrow: date = now.date() + timedelta(days=1)
    return (datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=timezone.utc) - now).total_seconds() + 1
