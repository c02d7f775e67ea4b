"""Records the emulator's requests and charges."""

from __future__ import annotations

import time
import uuid
from collections import Counter, deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

Outcome = Literal["in_flight", "delivered", "refused", "disconnected", "faulted"]
_MOST_ENTRIES = 20_000


@dataclass(kw_only=True)
class Entry:
    """One POST to the API.

    ``cost_usd`` may be set after ``finished_at``, since the work continues without its client. ``n`` and
    ``stream`` are the values used, ``None`` if the request was refused.
    """

    path: str
    user_agent: str | None
    id: str = field(default_factory=lambda: f"req_{uuid.uuid4().hex}")
    fields: dict[str, object] = field(default_factory=dict)
    n: int | None = None
    stream: bool | None = None
    images: list[dict[str, object]] = field(default_factory=list)
    status: int | None = None
    outcome: Outcome = "in_flight"
    cost_usd: Decimal | None = None
    fault: str | None = None
    received_at: float = field(default_factory=time.time)
    finished_at: float | None = None

    def as_json(self) -> dict[str, object]:
        """Return the entry for ``GET /emulator/requests``."""
        sent = self.fields
        return {
            "id": self.id,
            "path": self.path,
            "model": sent.get("model"),
            "prompt": sent.get("prompt"),
            "n": self.n,
            "stream": self.stream,
            "fields": sent,
            "images": self.images,
            "status": self.status,
            "outcome": self.outcome,
            "cost_usd": None if self.cost_usd is None else f"{self.cost_usd:f}",
            "fault": self.fault,
            "received_at": self.received_at,
            "finished_at": self.finished_at,
            "user_agent": self.user_agent,
        }


class Ledger:
    """Counts calls and money. A reset starts a new one; work from before is counted in the old one."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque(maxlen=_MOST_ENTRIES)
        self._methods: Counter[str] = Counter()
        self._paths: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._charged_requests = 0
        self._images = 0
        self._cost_usd = Decimal(0)
        self._in_flight = 0
        self._peak_in_flight = 0
        self._disconnects = 0

    def called(self, method: str, path: str) -> None:
        """Count a call to the API."""
        self._methods[method] += 1
        self._paths[path] += 1

    def answered(self, status: int) -> None:
        """Count an answer whose head was sent."""
        self._statuses[str(status)] += 1

    def open(self, entry: Entry) -> None:
        """Add a generation or edit request that has arrived."""
        self.entries.append(entry)
        self._in_flight += 1
        self._peak_in_flight = max(self._peak_in_flight, self._in_flight)

    def close(self, entry: Entry, outcome: Outcome, *, client_left: bool) -> None:
        """Close a request whose answer has ended, or whose client has left."""
        entry.outcome = outcome
        entry.finished_at = time.time()
        self._in_flight -= 1
        self._disconnects += client_left

    def charge(self, entry: Entry, cost_usd: Decimal, images: int) -> None:
        """Charge for a finished request."""
        entry.cost_usd = cost_usd
        self._charged_requests += 1
        self._images += images
        self._cost_usd += cost_usd

    def stats(self) -> dict[str, object]:
        """Return all counts, for ``GET /emulator/stats``."""
        return {
            "posts": self._methods["POST"],
            "gets": self._methods["GET"],
            "by_path": dict(self._paths),
            "by_status": dict(self._statuses),
            "charged_requests": self._charged_requests,
            "images": self._images,
            "cost_usd": f"{self._cost_usd.normalize():f}",
            "in_flight": self._in_flight,
            "peak_in_flight": self._peak_in_flight,
            "disconnects": self._disconnects,
        }
