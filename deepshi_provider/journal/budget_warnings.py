"""Warnings that a budget per day or month is nearly spent, each given once by one of many tasks.

``warned/<window>.<hash of limit and share>.json``, in the directory of the connection's spending, is created by the
process that notices first. It has the budget's state and the task instance. ``….called.json`` is created before that
task instance calls its callbacks. If the process that noticed ends before that, a later process or try of the task
instance finds the warning without that mark.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from decimal import Decimal

from pydantic import ValidationError

from deepshi_provider.costs.budget_state import WindowState
from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.journal.entries import Owner, short_hash
from deepshi_provider.journal.spending import Limit
from deepshi_provider.store.store import CreatedLate, Store

log = logging.getLogger(__name__)

_CALLED = "called.json"


class BudgetWarnings:
    """The warnings of one task instance.

    :param folder: directory of the connection's spending, in ``store``.
    :param key: key of the task instance, or of one purchase of a hook.
    :param warn_at: share of a limit at which a warning is given.
    :param clock: returns unix seconds.
    """

    def __init__(
        self, store: Store | None, folder: str, owner: Owner, key: str, warn_at: Decimal, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._folder = f"{folder}/warned"
        self._owner = owner
        self._key = key
        self._warn_at = warn_at
        self._clock = clock
        self._given: set[str] = set()

    async def newly_crossed(self, limits: Iterable[Limit]) -> list[WindowState]:
        """Return the limits whose spending has reached the share, each only once among all tasks. Never raises."""
        crossed = []
        for limit in limits:
            if self._store is None or limit.spent.most_usd < self._warn_at * limit.usd:
                continue
            name = f"{limit.window}.{short_hash(f'{limit.name} {limit.usd} {self._warn_at}')}.json"
            if name in self._given:
                continue
            self._given.add(name)
            state = limit.state()
            try:
                if await self._store.create(f"{self._folder}/{name}", self._content(state)):
                    crossed.append(state)
            except (DeepshiError, CreatedLate) as err:
                self._given.discard(name)
                log.warning("%s. Callbacks are not called, since the warning could not be stored: %s", state.text, err)
        return crossed

    async def to_call(self, noticed: Sequence[WindowState], today: date) -> list[WindowState]:
        """Return the warnings for which this task instance must call its callbacks now, each only once. Never raises.

        That includes warnings since yesterday whose process ended before it could call.

        :param noticed: warnings that the task's last process has reported; all of them are returned if the store fails,
            since two calls are better than none.
        :param today: the current day in the budgets' time zone.
        """
        if self._store is None:
            return list(noticed)
        days = [today.isoformat(), (today - timedelta(days=1)).isoformat()]
        windows = {*days, *(day[:7] for day in days), *(state.window for state in noticed)}
        try:
            names = await self._uncalled(self._store, windows)
            found = await asyncio.gather(*(self._own(self._store, name) for name in names))
        except DeepshiError as err:
            log.warning("Warnings of earlier processes were not looked for: %s", err)
            return list(noticed)
        own = [(name, state) for name, state in zip(names, found, strict=True) if state]
        return [state for name, state in own if await self._mark(self._store, name)]

    async def _uncalled(self, store: Store, windows: set[str]) -> list[str]:
        """Return the names of warnings about some windows for which nobody has called the callbacks."""
        months = sorted({window[:7] for window in windows})
        listed = await asyncio.gather(*(store.list(self._folder, month) for month in months))
        names = {name for some in listed for name in some}
        warnings = {name for name in names if name.endswith(".json") and not name.endswith(_CALLED)}
        return sorted(name for name in warnings if name.partition(".")[0] in windows and _mark_of(name) not in names)

    async def _own(self, store: Store, name: str) -> WindowState | None:
        """Return the state in a warning of this task instance; ``None`` if it is another's."""
        data = await store.read(f"{self._folder}/{name}")
        try:
            found = json.loads(data or b"{}")
            return WindowState.model_validate(found) if found.get("key") == self._key else None
        except (ValueError, AttributeError, ValidationError):  # another program has written it
            return None

    async def _mark(self, store: Store, name: str) -> bool:
        """Return whether this call must be made: no other process has made it."""
        try:
            return await store.create(f"{self._folder}/{_mark_of(name)}", json.dumps(self._by()).encode())
        except (DeepshiError, CreatedLate) as err:
            log.warning("A callback may be called again, since the call could not be stored: %s", err)
            return True

    def _content(self, state: WindowState) -> bytes:
        return json.dumps({**state.model_dump(mode="json"), **self._by()}).encode()

    def _by(self) -> dict[str, object]:
        """Return who writes an object, so that no other writer has the same bytes."""
        return {"owner": self._owner.model_dump(), "key": self._key, "at": self._clock(), "by": uuid.uuid4().hex}


def _mark_of(name: str) -> str:
    return f"{name.removesuffix('.json')}.{_CALLED}"
