"""What all tasks of a connection spend in a day and in a month: they share it through small objects in the store.

``_deepshi_spending/<account>/<day>/<hour>.<task>.<try>.<USD>_<possible USD>_<blind>_<under way>.<group>.json``, below
the connection's ``output_uri``, is what one task instance has spent in an hour; see
:class:`~deepshi_provider.journal.spending.Spending`. What it has under way is in its possible sum, so that a process
that is killed leaves it behind. The entry of a later try repeats what its records and claims of that hour say, and
takes the place of the earlier one. ``<group>`` is a hash of the budget group, or ``-``.

``<account>/<month>.json`` holds the sums of hours that nothing can change any more: they ended an hour ago or earlier,
and nothing that began in them is under way; or their day ended a day ago. It is a cache: who misses an hour in it lists
that one, and writes the object anew. So whatever a month holds, it is known from the listings of this hour and the
last, and one object.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta

from deepshi_provider.client.budgets import Budgets
from deepshi_provider.costs.budget_state import WindowState
from deepshi_provider.exceptions import DeepshiError, StorageFailed
from deepshi_provider.journal.hour_sums import (
    ALL,
    Sums,
    by_hour,
    dumped,
    entry_name,
    is_open,
    parsed,
    parts_of,
    together,
)
from deepshi_provider.journal.lease import TIMES
from deepshi_provider.journal.run_costs import RunEntry, SharedSum
from deepshi_provider.journal.spending import Limit, Spending
from deepshi_provider.store.store import Store

log = logging.getLogger(__name__)

#: Directory, in the connection's ``output_uri``, of all days' entries.
SPENDING = "_deepshi_spending"
#: Seconds for which the sums of hours before the last one are taken for what they are.
_FRESH = 60.0
#: Hours that are listed one by one; of more, their whole days are.
_FEW = 4


class WindowCosts:
    """Reports what this task spends on each day, and reads what all tasks of the connection have.

    :param entry: of this task; its cost is filled in.
    :param store: the connection's ``output_uri``.
    :param account: who pays; see :attr:`deepshi_provider.client.settings.Settings.account`.
    :param key: what its entries are called, 16 hex digits; by default the task's name over all its tries.
    :param patience: seconds for which a store that does not take an entry is tried.
    :param clock: returns unix seconds.
    """

    def __init__(
        self,
        entry: RunEntry,
        store: Store | None,
        account: str,
        budgets: Budgets,
        *,
        key: str | None = None,
        patience: float = TIMES.run_entry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._entry = entry
        self._key = key or entry.owner.task_key
        self._store = store
        self._budgets = budgets
        self._patience = patience
        self._clock = clock
        self._folder = f"{SPENDING}/{_short(account)}"
        self._group = _short(budgets.group) if budgets.group else "-"
        self._reported: dict[str, SharedSum] = {}
        self._listing = asyncio.Lock()
        self._listed_at = float("-inf")
        self._others: dict[str, Sums] = {}
        #: The hour in which :meth:`limits` has left out what this task has spent.
        self.hour_without_own = ""
        self._earlier: tuple[str, float, dict[str, Sums]] = ("", float("-inf"), {})
        self._warned: set[str] = set()

    @property
    def has_limits(self) -> bool:
        """Whether anything is to be counted at all."""
        return bool(self._budgets.limits)

    def this_hour(self) -> str:
        """Return the hour, such as ``2026-11-26T14``, in the budgets' time zone."""
        return self.hour_of(self._clock())

    def hour_of(self, at: float) -> str:
        """Return the hour of a moment in unix seconds."""
        return datetime.fromtimestamp(at, self._budgets.zone).isoformat()[:13]

    def began_at(self) -> float:
        """Return when this hour began, in unix seconds."""
        now = datetime.fromtimestamp(self._clock(), self._budgets.zone)
        return now.timestamp() - now.minute * 60 - now.second - now.microsecond / 1e6

    async def report(self, hour: str, spent: Spending) -> None:
        """Report what the task has spent in an hour by now, with what it has under way; return when that is written.

        Never raises; :meth:`check` does.
        """
        if not self.has_limits or self._store is None:
            return
        if hour not in self._reported:
            if not any(spent) and self._entry.owner.try_number == 1:
                return  # a later try takes back what an earlier one had in flight
            name_of = functools.partial(self._name, hour)
            self._reported[hour] = SharedSum(self._store, self._entry, name_of, self._patience)
        await self._reported[hour].report(spent)

    def check(self) -> None:
        """Make sure that all was written that was reported.

        :raises StorageFailed: it was not.
        """
        for reported in self._reported.values():
            if reported.failure:
                raise StorageFailed(f"Not sent: this hour's costs cannot be shared ({reported.failure.message})")

    async def limits(self) -> list[Limit]:
        """Return the limits that hold today, with what others have spent of them, and this task before today.

        Tasks that ask at one moment share one listing.

        :raises StorageFailed: that is not known, which is never taken for "nothing".
        """
        if not self.has_limits:
            return []
        if self._store is None:
            raise StorageFailed("Not sent: what this connection has spent is not known (it has no output_uri)")
        asked_at = time.monotonic()
        async with self._listing:
            if self._listed_at < asked_at:
                begun = time.monotonic()
                await self._ask(self._store)
                self._listed_at = begun
            return self._made_of(self._others)

    async def newly_crossed(self, limits: Iterable[Limit]) -> list[WindowState]:
        """Return which of these limits are spent to the share of ``warn_at``, each once for all tasks and processes.

        An object that is created says that a warning was given. Never raises.
        """
        crossed = []
        for limit in limits:
            if self._store is None or limit.spent.most_usd < self._budgets.warn_at * limit.usd:
                continue
            name = f"{self._folder}/warned/{limit.window}.{_short(f'{limit.name} {limit.usd} {self._budgets.warn_at}')}"
            if name in self._warned:
                continue
            self._warned.add(name)
            state = limit.state()
            try:
                if await self._store.create(f"{name}.json", self._told(state)):
                    crossed.append(state)
            except DeepshiError as err:
                self._warned.discard(name)
                log.warning("%s. Whether a warning was given of that is not known: %s", state.text, err)
        return crossed

    def _told(self, state: WindowState) -> bytes:
        """Return what an object of a warning says: who gave it, so that no other one has the same bytes."""
        by = {"owner": self._entry.owner.model_dump(), "key": self._key, "at": self._clock(), "by": uuid.uuid4().hex}
        return json.dumps({**state.model_dump(mode="json"), **by}).encode()

    async def _ask(self, store: Store) -> None:
        """List this hour and the last one, and find out what there was before."""
        now = self._clock()
        this, last = self.hour_of(now), self.hour_of(now - 3600)
        hours = [self._listed(store, hour, "" if hour < this else self._key) for hour in {this, last}]
        before, *found = reversed(await asyncio.gather(*hours, self._before(store, last)))
        self._others = {**before, **{hour: sums for some in found for hour, sums in some.items()}}
        self.hour_without_own = this

    async def _listed(self, store: Store, hour: str, without: str = "") -> dict[str, Sums]:
        """Return the sums of one hour.

        :param without: a task that is left out.
        """
        day, _, name = hour.partition("T")
        names = await store.scan(lambda objects: [entry for entry, _ in objects], f"{self._folder}/{day}", f"{name}.")
        return by_hour(day, names, without) or {hour: {}}

    async def _before(self, store: Store, last: str) -> dict[str, Sums]:
        """Return the sums of the month's days and hours before the last hour."""
        known_of, read_at, sums = self._earlier
        if known_of != last or time.monotonic() - read_at > _FRESH:
            begun = time.monotonic()
            sums = await self._read_earlier(store, last)
            self._earlier = last, begun, sums
        return sums

    async def _read_earlier(self, store: Store, last: str) -> dict[str, Sums]:
        today = self._date()
        name = f"{self._folder}/{today.isoformat()[:7]}.json"
        parts = parts_of(today, last)
        wanted = [part for part in parts if self._budgets.has_month or part.startswith(today.isoformat())]
        if not wanted:
            return {}
        known = parsed(await store.read(name))
        found = await self._list_all(store, [part for part in wanted if part not in known])
        over = {part: sums for part, sums in found.items() if "T" not in part or not is_open(sums)}
        if over:
            await _quietly_written(store, name, {**{part: known[part] for part in parts if part in known}, **over})
        return {**{part: known[part] for part in wanted if part in known}, **found}

    async def _list_all(self, store: Store, parts: list[str]) -> dict[str, Sums]:
        """Return the sums of days and hours; those of many hours by listing their days."""
        hours = [part for part in parts if "T" in part]
        single = hours if len(hours) <= _FEW else []
        days = {part[:10] for part in parts if part not in single}
        of_hours = await asyncio.gather(*(self._listed(store, hour) for hour in single))
        of_days = await asyncio.gather(*(store.list(f"{self._folder}/{day}") for day in sorted(days)))
        found = {hour: sums for some in of_hours for hour, sums in some.items()}
        for day, names in zip(sorted(days), of_days, strict=True):
            hours_of_day = by_hour(day, names)
            found |= {day: together(hours_of_day.values()), **hours_of_day}
        return {part: found.get(part, {}) for part in parts}

    def _made_of(self, parts: Mapping[str, Sums]) -> list[Limit]:
        today = self._date()
        month = together(sums for part, sums in parts.items() if part[:7] == today.isoformat()[:7])
        day = together(sums for part, sums in parts.items() if part[:10] == today.isoformat())
        limits = []
        for budget in self._budgets.limits:
            sums, ends = (month, _next_month(today)) if budget.is_month else (day, today + timedelta(days=1))
            spent = sums.get(self._group if budget.group else ALL, Spending())._replace(under_way=0)
            resets_at = datetime.combine(ends, datetime.min.time(), self._budgets.zone).isoformat()
            window = today.isoformat()[:7] if budget.is_month else today.isoformat()
            whose = f"{'in' if budget.is_month else 'on'} {window} with connection {self._budgets.conn_id!r}"
            limits.append(Limit(budget.name, budget.usd, spent, whose, budget.group, window, resets_at))
        return limits

    def _date(self) -> date:
        return date.fromisoformat(self.this_hour()[:10])

    def _name(self, hour: str, spent: Spending) -> str:
        day, _, number = hour.partition("T")
        entry = entry_name(number, self._key, self._entry.owner.try_number, spent, self._group)
        return f"{self._folder}/{day}/{entry}"


async def _quietly_written(store: Store, name: str, parts: Mapping[str, Sums]) -> None:
    try:
        await store.write(name, dumped(parts))
    except DeepshiError as err:
        log.warning("The sums of the month were not written, so the next task adds them up again: %s", err)


def _next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
