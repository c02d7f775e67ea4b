"""What all tasks of a connection spend in a day and in a month: they share it through small objects in the store.

``_deepshi_spending/<account>/<day>/<task>.<try>.<USD>_<possible USD>_<blind>.<group>.json``, below the connection's
``output_uri``, is what one task instance has spent on a day; see :class:`~deepshi_provider.journal.spending.Spending`.
What it has under way is in its possible sum, so that a process that is killed leaves it behind. The entry of a later
try repeats what its records and claims of that day say, and takes the place of the earlier one. ``<group>`` is a hash
of the budget group, or ``-``.

``<account>/<month>.json`` holds the sums of days that are over since a day at least. It is a cache: who misses a day in
it lists that day, and writes it anew. So whatever a month holds, it is known from two listings and one object.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation

from deepshi_provider.client.budgets import Budgets
from deepshi_provider.costs.budget_state import WindowState
from deepshi_provider.exceptions import DeepshiError, StorageFailed
from deepshi_provider.journal.lease import TIMES
from deepshi_provider.journal.run_costs import RunEntry, SharedSum
from deepshi_provider.journal.spending import Limit, Spending
from deepshi_provider.store.store import Store

log = logging.getLogger(__name__)

#: Directory, in the connection's ``output_uri``, of all days' entries.
SPENDING = "_deepshi_spending"
#: Seconds for which the sums of days that are over are taken for what they are: only what was under way at midnight
#: can still change them.
_FRESH = 60.0

_USD = r"(\d+(?:\.\d+)?)"
_ENTRY = re.compile(rf"([0-9a-f]{{16}})\.(\d+)\.{_USD}_{_USD}_(\d+)\.([0-9a-f]{{16}}|-)\.json", re.ASCII)
#: Stands for all groups.
_ALL = ""

Sums = dict[str, Spending]


@dataclass
class _Task:
    """The entries of one task instance on one day."""

    usd: Decimal = Decimal(0)
    newest: tuple[int, Decimal, Decimal, int] = (-1, Decimal(0), Decimal(0), 0)
    group: str = "-"

    def add(self, try_number: int, spent: Spending, group: str) -> None:
        self.usd = max(self.usd, spent.usd)
        if (entry := (try_number, *spent)) > self.newest:
            self.newest, self.group = entry, group

    @property
    def spending(self) -> Spending:
        """What was reported by any try, and what is in doubt by the newest."""
        return Spending(self.usd, *self.newest[2:])


@dataclass
class _Closed:
    """The sums of the month's days before today."""

    today: str
    read_at: float
    sums: Sums = field(default_factory=dict)


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
        self._days: dict[str, SharedSum] = {}
        self._listing = asyncio.Lock()
        self._listed_at = float("-inf")
        self._others: Sums = {}
        self._others_of_month: Sums = {}
        self._closed: _Closed | None = None
        self._warned: set[str] = set()

    @property
    def has_limits(self) -> bool:
        """Whether anything is to be counted at all."""
        return bool(self._budgets.limits)

    def today(self) -> str:
        """Return the day, ISO 8601, in the budgets' time zone."""
        return self.day_of(self._clock())

    def day_of(self, at: float) -> str:
        """Return the day of a moment in unix seconds."""
        return self._budgets.day_of(at)

    def began_at(self) -> float:
        """Return when today began, in unix seconds."""
        return datetime.combine(self._date(), datetime.min.time(), self._budgets.zone).timestamp()

    async def report(self, day: str, spent: Spending) -> None:
        """Report what the task has spent on a day by now, with what it has under way; return when that is written.

        Never raises; :meth:`check` does.
        """
        if not self.has_limits or self._store is None:
            return
        if day not in self._days:
            if not any(spent) and self._entry.owner.try_number == 1:
                return  # a later try takes back what an earlier one had in flight
            self._days[day] = SharedSum(self._store, self._entry, lambda sums: self._name(day, sums), self._patience)
        await self._days[day].report(spent)

    def check(self) -> None:
        """Make sure that all was written that was reported.

        :raises StorageFailed: it was not.
        """
        for reported in self._days.values():
            if reported.failure:
                raise StorageFailed(f"Not sent: this day's costs cannot be shared ({reported.failure.message})")

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
            return self._made_of(self._others, self._others_of_month)

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
        today = self.today()
        entries = await store.list(f"{self._folder}/{today}")
        self._others = _sums(entries, without=self._key)
        self._others_of_month = self._others
        if self._budgets.has_month:
            closed = self._closed
            if closed is None or closed.today != today or time.monotonic() - closed.read_at > _FRESH:
                closed = self._closed = await self._read_closed(store, today)
            self._others_of_month = _together([self._others, closed.sums])

    async def _read_closed(self, store: Store, today: str) -> _Closed:
        """Add up the days of the month before today: yesterday by its entries, the others by the month's object."""
        begun = time.monotonic()
        first = self._date(today).replace(day=1)
        days = [(first + timedelta(days=n)).isoformat() for n in range((self._date(today) - first).days)]
        open_days, over = days[-1:], days[:-1]
        name = f"{self._folder}/{today[:7]}.json"
        known = _parsed(await store.read(name)) if over else {}
        missing = [day for day in over if day not in known]
        listed = await asyncio.gather(*(store.list(f"{self._folder}/{day}") for day in [*missing, *open_days]))
        found = dict(zip([*missing, *open_days], map(_sums, listed), strict=True))
        if missing:
            known |= {day: found[day] for day in missing}
            await _quietly_written(store, name, {day: known[day] for day in over})
        return _Closed(today, begun, _together([*(known[day] for day in over), *(found[day] for day in open_days)]))

    def _made_of(self, day: Sums, month: Sums) -> list[Limit]:
        today = self._date()
        limits = []
        for budget in self._budgets.limits:
            sums, ends = (month, _next_month(today)) if budget.is_month else (day, today + timedelta(days=1))
            spent = sums.get(self._group if budget.group else _ALL, Spending())
            resets_at = datetime.combine(ends, datetime.min.time(), self._budgets.zone).isoformat()
            window = today.isoformat()[:7] if budget.is_month else today.isoformat()
            whose = f"{'in' if budget.is_month else 'on'} {window} with connection {self._budgets.conn_id!r}"
            limits.append(Limit(budget.name, budget.usd, spent, whose, budget.group, window, resets_at))
        return limits

    def _date(self, day: str = "") -> date:
        return date.fromisoformat(day or self.today())

    def _name(self, day: str, spent: Spending) -> str:
        sums = f"{spent.usd:f}_{spent.possible_usd:f}_{spent.blind}"
        return f"{self._folder}/{day}/{self._key}.{self._entry.owner.try_number}.{sums}.{self._group}.json"


def _sums(names: Iterable[str], without: str = "") -> Sums:
    """Return the sums of a day, by group and of all.

    :param without: a task that is left out.
    """
    tasks: dict[str, _Task] = {}
    for name in names:
        if match := _ENTRY.fullmatch(name):
            key, number, spent, possible, blind, group = match.groups()
            if key != without:
                entry = Spending(Decimal(spent), Decimal(possible), int(blind))
                tasks.setdefault(key, _Task()).add(int(number), entry, group)
    sums: Sums = {}
    for task in tasks.values():
        for group in (_ALL, task.group):
            sums[group] = sums.get(group, Spending()) + task.spending
    return sums


def _together(parts: Iterable[Sums]) -> Sums:
    sums: Sums = {}
    for part in parts:
        for group, spent in part.items():
            sums[group] = sums.get(group, Spending()) + spent
    return sums


def _parsed(data: bytes | None) -> dict[str, Sums]:
    """Return the sums of days that a month's object holds; nothing if it cannot be read, for it is a cache."""
    try:
        days = json.loads(data or b"{}")
        return {
            day: {
                group: Spending(Decimal(usd), Decimal(more), int(blind)) for group, (usd, more, blind) in sums.items()
            }
            for day, sums in days.items()
        }
    except (ValueError, TypeError, AttributeError, InvalidOperation):
        return {}


async def _quietly_written(store: Store, name: str, days: dict[str, Sums]) -> None:
    text = {
        day: {group: [f"{s.usd:f}", f"{s.possible_usd:f}", s.blind] for group, s in sums.items()}
        for day, sums in days.items()
    }
    try:
        await store.write(name, json.dumps(text).encode())
    except DeepshiError as err:
        log.warning("The sums of the month's days were not written, so the next task adds them up again: %s", err)


def _next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
