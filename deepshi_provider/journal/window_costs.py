"""The spending of a connection per day and month, which its tasks share through small objects in the store.

``_deepshi_spending/<account>/<day>/<hour>.<task>.<try>.<process>.<sums>.<group>.json``, below the connection's
``output_uri``, is the spending of one task instance in an hour. ``<sums>`` is
``<USD>_<possible USD>_<lost>_<learning>``; see
:meth:`~deepshi_provider.journal.spending.Spending.as_name`. Its possible costs include requests under way, so that
these are still counted if the process is killed. The entry of a later try has the costs of the records and claims of
that hour, and replaces the entry of the earlier try. ``<group>`` is a hash of the budget group, or ``-``.

``<account>/<month>.json`` holds the sums of hours that ended at least an hour ago. It is a cache: a task that finds an
hour missing lists that hour and writes the object again. A task whose spending in such an hour changes, such as after a
request that took longer, removes the hour. So the spending of a month takes the listings of this hour and the last, and
one object, whoever was killed.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta

from deepshi_provider.client.budgets import Budgets
from deepshi_provider.costs.budget_state import WindowState
from deepshi_provider.exceptions import DeepshiError, StorageFailed
from deepshi_provider.journal.budget_warnings import BudgetWarnings
from deepshi_provider.journal.entries import short_hash
from deepshi_provider.journal.hour_sums import (
    ALL,
    Sums,
    by_hour,
    dumped,
    entry_name,
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
#: Seconds for which the sums of hours before the last one are cached.
_FRESH = 60.0
#: Seconds by which moments differ that may be in different hours: clocks are put forward by half an hour at least.
_STEP = 1800.0
#: Maximum number of hours to list one by one; if there are more, whole days are listed.
_FEW = 4


class WindowCosts:
    """Reports this task's spending per hour, and reads that of all tasks of the connection.

    :param entry: the entry of this task, without its cost.
    :param store: the connection's ``output_uri``.
    :param account: see :attr:`deepshi_provider.client.settings.Settings.account`.
    :param key: key in the names of its entries, 16 hex digits; by default the task's own.
    :param patience: seconds to keep trying a store that fails.
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
        self._process = uuid.uuid4().hex[:8]
        self._store = store
        self._budgets = budgets
        self._patience = patience
        self._clock = clock
        self._folder = f"{SPENDING}/{short_hash(account)}"
        self._group = short_hash(budgets.group) if budgets.group else "-"
        self._reported: dict[str, SharedSum] = {}
        self._listing = asyncio.Lock()
        self._listed_at = float("-inf")
        self._others: dict[str, Sums] = {}
        self._own_since = ""
        self._earlier: tuple[str, float, dict[str, Sums]] = ("", float("-inf"), {})
        #: Warnings that a budget is nearly spent.
        self.warnings = BudgetWarnings(store, self._folder, entry.owner, self._key, budgets.warn_at, clock)

    @property
    def has_limits(self) -> bool:
        """Whether there are budgets per day or month."""
        return bool(self._budgets.limits)

    def this_hour(self) -> str:
        """Return the hour, such as ``2026-11-26T14``, in the budgets' time zone."""
        return self.hour_of(self._clock())

    def hour_of(self, at: float) -> str:
        """Return the hour of a moment in unix seconds."""
        return datetime.fromtimestamp(at, self._budgets.zone).isoformat()[:13]

    def began_at(self) -> float:
        """Return when this hour began, in unix seconds."""
        now = self._clock()
        hour = self.hour_of(now)
        # All time zones change at a quarter of an hour. An hour that the clocks repeat is longer, by up to two hours.
        quarters = (now - now % 900 - 900 * back for back in range(14))
        return min([now, *(at for at in quarters if self.hour_of(at) == hour)])

    async def report(self, hour: str, spent: Spending) -> None:
        """Report the task's spending in an hour, with requests under way; return when it is written.

        Never raises; :meth:`check` does.
        """
        if not self.has_limits or self._store is None:
            return
        if hour not in self._reported:
            if not any(spent) and self._entry.owner.try_number == 1:
                return  # nothing to report; a later try writes even 0, in place of what an earlier one had under way
            name_of = functools.partial(self._name, hour)
            self._reported[hour] = SharedSum(self._store, self._entry, name_of, self._patience)
        if await self._reported[hour].report(spent) and hour < min(self._open_hours()):
            await self._forget(self._store, hour)

    def check(self) -> None:
        """Check that all reports were written.

        :raises StorageFailed: a report could not be written.
        """
        for reported in self._reported.values():
            if reported.failure:
                raise StorageFailed(f"Not sent: this hour's costs could not be reported ({reported.failure.message})")

    async def limits(self, known_since: Callable[[], str | None] = lambda: None) -> list[Limit]:
        """Return today's limits, with the spending of other tasks, and of this task before ``own_since``.

        Of this hour and the last one, the caller adds the task's own spending, since the listing may be out of date.
        Concurrent calls share one listing.

        :param known_since: returns the hour since which the caller knows all spending of the task; by default this
            hour. Called just before the listing, since a recount may have changed it meanwhile.
        :raises StorageFailed: the spending cannot be read; it is never taken as 0.
        """
        if not self.has_limits:
            return []
        if self._store is None:
            raise StorageFailed("Not sent: the spending of this connection is unknown (it has no output_uri)")
        asked_at = time.monotonic()
        async with self._listing:
            if self._listed_at < asked_at:
                begun = time.monotonic()
                await self._ask(self._store, known_since())
                self._listed_at = begun
            return self._limits_from(self._others)

    async def warnings_to_call(self, noticed: Sequence[WindowState]) -> list[WindowState]:
        """Return the warnings for which the task must call its callbacks now, each only once. Never raises.

        :param noticed: warnings that the task's last process has reported.
        """
        return await self.warnings.to_call(noticed, self._date()) if self.has_limits else list(noticed)

    async def _ask(self, store: Store, known_since: str | None) -> None:
        """List this hour and the last one, and read the sums of earlier hours."""
        this, hours = self.this_hour(), self._open_hours()
        own_since = min(this, max(known_since or this, min(hours)))
        listed = [self._listed(store, hour, self._key if hour >= own_since else "") for hour in hours]
        before, *found = await asyncio.gather(self._before(store, min(hours)), *listed)
        self._others = {**before, **{hour: sums for some in found for hour, sums in some.items()}}
        self._own_since = own_since

    def _open_hours(self) -> set[str]:
        """Return this hour and the last one; in between, the clocks may have skipped half an hour or repeated hours."""
        now = self._clock()
        return {self.hour_of(now - back * _STEP) for back in range(3)}

    async def _listed(self, store: Store, hour: str, without: str = "") -> dict[str, Sums]:
        """Return the sums of one hour.

        :param without: key of a task to leave out.
        """
        day, _, name = hour.partition("T")
        names = await store.list(f"{self._folder}/{day}", f"{name}.")
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
        if found:
            await _quietly_written(store, name, {**{part: known[part] for part in parts if part in known}, **found})
        return {**{part: known[part] for part in wanted if part in known}, **found}

    async def _forget(self, store: Store, hour: str) -> None:
        """Remove an hour and its day from the month's object, since its entries have changed. Never raises."""
        name = f"{self._folder}/{hour[:7]}.json"
        try:
            known = parsed(await store.read(name))
        except DeepshiError as err:
            log.warning("The sum of the month may lack the latest change of this task in hour %s: %s", hour, err)
            return
        if hour in known or hour[:10] in known:
            await _quietly_written(store, name, {part: known[part] for part in known if part not in (hour, hour[:10])})

    async def _list_all(self, store: Store, parts: list[str]) -> dict[str, Sums]:
        """Return the sums of days and hours; if there are many hours, list whole days."""
        hours = [part for part in parts if "T" in part]
        single = hours if len(hours) <= _FEW else []
        days = {part[:10] for part in parts if part not in single}
        of_hours = await asyncio.gather(*(self._listed(store, hour) for hour in single))
        of_days = await asyncio.gather(*(store.list(f"{self._folder}/{day}") for day in sorted(days)))
        found = {hour: sums for some in of_hours for hour, sums in some.items()}
        for day, names in zip(sorted(days), of_days, strict=True):
            hours_of_day = by_hour(day, names)
            found |= {day: together(hours_of_day.values()), **hours_of_day}
        return {part: {group: spent.settled() for group, spent in found.get(part, {}).items()} for part in parts}

    def _limits_from(self, parts: Mapping[str, Sums]) -> list[Limit]:
        today = self._date()
        month = together(sums for part, sums in parts.items() if part[:7] == today.isoformat()[:7])
        day = together(sums for part, sums in parts.items() if part[:10] == today.isoformat())
        limits = []
        for budget in self._budgets.limits:
            sums, ends = (month, _next_month(today)) if budget.is_month else (day, today + timedelta(days=1))
            spent = sums.get(self._group if budget.group else ALL, Spending())
            resets_at = datetime.combine(ends, datetime.min.time(), self._budgets.zone).isoformat()
            window = today.isoformat()[:7] if budget.is_month else today.isoformat()
            whose = f"{'in' if budget.is_month else 'on'} {window} with connection {self._budgets.conn_id!r}"
            own_since = self._own_since
            limits.append(Limit(budget.name, budget.usd, spent, whose, budget.group, window, resets_at, own_since))
        return limits

    def _date(self) -> date:
        return date.fromisoformat(self.this_hour()[:10])

    def _name(self, hour: str, spent: Spending) -> str:
        day, _, number = hour.partition("T")
        entry = entry_name(number, self._key, self._entry.owner.try_number, self._process, spent, self._group)
        return f"{self._folder}/{day}/{entry}"


async def _quietly_written(store: Store, name: str, parts: Mapping[str, Sums]) -> None:
    try:
        await store.write(name, dumped(parts))
    except DeepshiError as err:
        log.warning("The sums of the month could not be written: %s", err)


def _next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)
