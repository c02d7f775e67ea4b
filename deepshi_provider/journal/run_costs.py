"""The spending of a DAG run, which its tasks share through small objects in the object store.

``<output_uri of the connection>/_deepshi_runs/<run>/<task>.<USD>.json`` is the cost of one task instance over all its
tries. If some costs were not reported or some outcomes are unknown, the name is
``<task>.<USD>_<possible USD>_<lost>_<learning>.json``; see
:meth:`~deepshi_provider.journal.spending.Spending.as_name`. The sums are in the name, so that one listing shows the
spending of all tasks. A new entry is written before the old one is removed; if
a task has several entries, the highest counts.

An entry repeats the costs of the task's records and claims. It is written after each paid attempt, before the task may
send again. If the run has a limit, it includes requests under way, and is also written before each attempt. If the
process dies between record and entry, the task's next try corrects the entry.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterable
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, ValidationError

from deepshi_provider.costs.money import Usd
from deepshi_provider.costs.sheet import Operation
from deepshi_provider.exceptions import Charged, DeepshiError, StorageFailed
from deepshi_provider.journal.entries import Owner
from deepshi_provider.journal.lease import TIMES
from deepshi_provider.journal.spending import SPENDING, Limit, Spending
from deepshi_provider.store.store import Store, in_time

log = logging.getLogger(__name__)

#: Directory, in the connection's ``output_uri``, of all runs' entries.
RUNS = "_deepshi_runs"
#: Seconds before an old sum is deleted again.
_PAUSE = 1.0

_ENTRY = re.compile(rf"([0-9a-f]{{16}})\.(?:(\d+(?:\.\d+)?)|({SPENDING}))\.json", re.ASCII)


class HookPurchase(BaseModel):
    """One request by a hook in a task that was or may have been paid for.

    :param price_class: see :func:`deepshi_provider.costs.price_class.price_class`.
    :param deepshi_conn_id: the hook's connection.
    :param images: number of images received.
    :param cost_usd: ``None`` if unknown.
    :param cost_is_complete: whether ``cost_usd`` is the whole cost.
    :param charged: ``unknown`` if the outcome is unknown.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    model: str
    price_class: str
    deepshi_conn_id: str | None = None
    images: int
    cost_usd: Usd | None
    cost_is_complete: bool = True
    charged: Charged


class RunEntry(BaseModel):
    """The entry of one task instance, or of one hook's purchase, in a run.

    :param cost_usd: over all its tries, as far as the API reported it.
    :param output_uri: directory of its records and claims.
    :param purchase: the hook's purchase, of which the entry is the only record; ``None`` for an image task.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    owner: Owner
    operation: Operation
    cost_usd: Usd = Decimal(0)
    output_uri: str
    output_conn_id: str | None = None
    purchase: HookPurchase | None = None


class SharedSum:
    """A sum of this task that others read: an object in the store with the sum in its name.

    :param name_of: returns the object's name.
    :param patience: seconds to keep trying a store that fails; the records hold the costs in any case.
    :ivar failure: why reporting has stopped; ``None`` if it has not.
    """

    def __init__(self, store: Store, entry: RunEntry, name_of: Callable[[Spending], str], patience: float) -> None:
        self._store = store
        self._entry = entry
        self._name_of = name_of
        self._patience = patience
        self._latest = Spending()
        self._reported: Spending | None = None
        #: Names of the objects that may exist: after a failure or a cancellation, more than one.
        self._names: set[str] = set()
        self._name = ""
        self._has_warned = False
        self._reporting = asyncio.Lock()
        self.failure: DeepshiError | None = None

    async def begin(self, spent: Spending) -> None:
        """Report the first sum, with a single attempt. Never raises."""
        self._latest = spent
        try:
            await in_time(self._write(spent), self._patience)
        except DeepshiError as err:
            log.warning("The costs of this task could not be reported to other tasks: %s", err)
            self.failure = err

    async def report(self, spent: Spending) -> bool:
        """Report another sum; return when it is written. Never raises.

        :returns: whether this call has written it.
        """
        self._latest = spent
        async with self._reporting:  # concurrent callers wait here; the next one reports the latest sum for all
            latest = self._latest
            if self.failure:
                return False
            if latest == self._reported:
                with contextlib.suppress(DeepshiError):
                    await in_time(self._remove_old(), self._patience)
                return False
            try:
                await in_time(self._store.patiently(lambda: self._write(latest)), self._patience)
            except DeepshiError as err:
                log.warning("Further costs of this task are not reported to other tasks: %s", err)
                self.failure = err
            return True

    async def _write(self, spent: Spending) -> None:
        entry, name = self._entry.model_copy(update={"cost_usd": spent.usd}), self._name_of(spent)
        self._reported = None
        self._names.add(name)
        await self._store.write(name, entry.model_dump_json().encode())
        self._reported, self._name = spent, name
        await self._remove_old()

    async def _remove_old(self) -> None:
        """Remove old objects, of which the highest would count. Try twice, and again with every report.

        A store that does not allow it must not stop the task.
        """
        for is_last in (self._has_warned, True):
            try:
                for name in self._names - {self._name}:
                    await self._store.remove(name)
                    self._names.remove(name)
            except StorageFailed as err:
                if not is_last:
                    await asyncio.sleep(_PAUSE)
                elif not self._has_warned:
                    self._has_warned = True
                    log.warning(
                        "An old sum of this task cannot be deleted, and counts for others if it is higher: %s", err
                    )
                if is_last:
                    return
            else:
                return


class RunCosts:
    """Reports this task's spending to its run, and reads that of the run's other tasks.

    Does nothing without an ``output_uri`` of the connection. Reporting never fails the task.

    :param entry: the entry of this task, without its cost.
    :param store: the connection's ``output_uri``.
    :param patience: see :class:`SharedSum`.
    :ivar limit: USD that the run may spend; ``None`` for no limit.
    """

    def __init__(
        self,
        entry: RunEntry,
        store: Store | None,
        *,
        limit: Decimal | None = None,
        patience: float = TIMES.run_entry,
    ) -> None:
        self.limit = limit
        self._task_key = entry.owner.task_key
        self._store = store
        self._folder = f"{RUNS}/{entry.owner.run_key}"
        self._sum = SharedSum(store, entry, self._name, patience) if store else None
        self._listing = asyncio.Lock()
        self._others = Spending()
        self._listed_at = float("-inf")

    async def begin(self, spent: Spending) -> None:
        """Report the spending of earlier tries, which also checks that the store is writable.

        Never raises; if there is a limit, :meth:`limits` raises the error.
        """
        if self._sum:
            await self._sum.begin(spent)

    async def report(self, spent: Spending) -> None:
        """Report the task instance's spending so far; return when it is written. Never raises."""
        if self._sum:
            await self._sum.report(spent)

    async def limits(self) -> list[Limit]:
        """Return the run's limit with the spending of its other tasks; empty if there is no limit.

        Concurrent calls share one listing.

        :raises StorageFailed: the spending cannot be read; it is never taken as 0.
        """
        if self.limit is None:
            return []
        if self._store is None or self._sum is None or self._sum.failure:
            failure = self._sum.failure if self._sum else None
            reason = failure.message if failure else "the connection has no output_uri"
            raise StorageFailed(f"Not sent: the spending of this DAG run could not be read ({reason})")
        asked_at = time.monotonic()
        async with self._listing:
            if self._listed_at < asked_at:
                begun = time.monotonic()
                entries = _greatest(await self._store.list(self._folder))
                entries.pop(self._task_key, None)
                self._others = sum((spent for spent, _ in entries.values()), Spending())
                self._listed_at = begun
            return [Limit("max_run_cost_usd", self.limit, self._others, "by this DAG run")]

    def check(self) -> None:
        """Check that all reports were written, if there is a limit.

        :raises StorageFailed: a report could not be written.
        """
        if self.limit is not None and self._sum and self._sum.failure:
            raise StorageFailed(f"Not sent: this run's costs could not be reported ({self._sum.failure.message})")

    def _name(self, spent: Spending) -> str:
        return f"{self._folder}/{run_entry_name(self._task_key, spent)}"


def run_entry_name(key: str, spent: Spending) -> str:
    """Return the name of an entry in the folder of its run.

    :param key: the task's key, or one of the purchase's own; 16 hex digits.
    """
    is_doubtful = spent.possible_usd or spent.blind
    return f"{key}.{spent.as_name() if is_doubtful else f'{spent.usd:f}'}.json"


async def read_entries(store: Store, run_key: str) -> list[RunEntry]:
    """Return the entries of a DAG run: one per task instance and per hook's purchase.

    :param store: the connection's ``output_uri``.

    :raises StorageFailed: an entry cannot be read.
    """
    folder = f"{RUNS}/{run_key}"
    names = [name for _, name in _greatest(await store.list(folder)).values()]
    found = await asyncio.gather(*(store.read(f"{folder}/{name}") for name in names))
    entries = []
    for name, data in zip(names, found, strict=True):
        try:
            entries.append(RunEntry.model_validate_json(data or b""))
        except ValidationError as err:
            raise StorageFailed(f"{store.uri_of(f'{folder}/{name}')} cannot be read") from err
    return entries


def _greatest(listing: Iterable[str]) -> dict[str, tuple[Spending, str]]:
    """Return the highest entry of each task, with the name of its object."""
    entries: dict[str, tuple[Spending, str]] = {}
    for name in listing:
        if match := _ENTRY.fullmatch(name):
            task_key, spent, doubtful = match.groups()
            entry = Spending.of_name(doubtful) if doubtful else Spending(Decimal(spent)), name
            entries[task_key] = max(entry, entries.get(task_key, entry))
    return entries
