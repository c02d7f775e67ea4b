"""What a DAG run has spent so far: its tasks tell each other through small objects in the object store.

``<output_uri of the connection>/_deepshi_runs/<run>/<task>.<USD>.json`` is what one task instance has paid over all its
tries. The sum is in the name, so that one listing tells what all tasks have spent. A new entry is written before the
old one is removed, and of several entries of a task the greatest counts.

An entry repeats what the task's records say. It is written after each paid sending, before the task may send again;
if the process dies between record and entry, the task's next try mends the entry.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Iterable
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, ValidationError

from deepshi_provider.costs import Operation, Usd
from deepshi_provider.exceptions import BudgetExceeded, DeepshiError, StorageFailed
from deepshi_provider.jobs.job import BatchJob, Job, Terms
from deepshi_provider.manifest import Owner
from deepshi_provider.storage import Store

log = logging.getLogger(__name__)

#: Directory, in the connection's ``output_uri``, of all runs' entries.
RUNS = "_deepshi_runs"
#: Seconds for which a store that does not take an entry is tried again; the money itself is safe in the records.
PATIENCE = 30.0

_ENTRY = re.compile(r"([0-9a-f]{16})\.(\d+(?:\.\d+)?)\.json", re.ASCII)


class RunEntry(BaseModel):
    """What one task instance has told its run.

    :param cost_usd: over all its tries.
    :param output_uri: where its records and claims lie.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    owner: Owner
    operation: Operation
    cost_usd: Usd
    output_uri: str
    output_conn_id: str | None = None


class RunCosts:
    """Tells the run what this task has paid, and asks what the other tasks have.

    Without an ``output_uri`` of the connection it does nothing. Telling never fails the task.

    :ivar limit: USD that the run may spend; ``None`` for no limit.
    :ivar spent: USD that this task instance has paid.
    """

    def __init__(self, terms: Terms) -> None:
        self.limit = terms.max_run_cost_usd
        self.spent = Decimal(0)
        self._terms = terms
        self._store = Store(terms.runs_uri, terms.runs_conn_id, patience=PATIENCE) if terms.runs_uri else None
        self._folder = f"{RUNS}/{terms.owner.run_key}"
        self._begun = False
        self._failure: DeepshiError | None = None
        self._told: Decimal | None = None
        self._telling = asyncio.Lock()
        self._listing = asyncio.Lock()
        self._others = Decimal(0)
        self._listed_at = float("-inf")

    async def begin(self, spent: Decimal | None) -> None:
        """Tell what earlier tries have paid; only the first call counts. It also proves that the store takes entries.

        Never raises: :meth:`others` does, if there is a limit.
        """
        if self._begun or self._store is None:
            return
        self._begun = True
        self.spent = spent or Decimal(0)
        try:
            await _in_time(self._write(self._store, self.spent))
        except DeepshiError as err:
            log.warning("The run is not told what this task costs: %s", err)
            self._failure = err

    async def add(self, cost_usd: Decimal | None) -> None:
        """Tell of one paid sending; return when it is told. Never raises."""
        self.spent += cost_usd or Decimal(0)
        target = self.spent
        async with self._telling:  # those who wait here are told of by the next one together
            store = self._store
            if store is None or self._failure or (self._told is not None and self._told >= target):
                return
            try:
                await _in_time(store.patiently(lambda: self._write(store, self.spent)))
            except DeepshiError as err:
                log.warning("The run is not told any further what this task costs: %s", err)
                self._failure = err

    async def correct(self, spent: Decimal | None) -> None:
        """Tell what the records say in the end: a second process on this same job may have paid too. Never raises."""
        self.spent = max(self.spent, spent or Decimal(0))
        if self._begun:
            await self.add(None)

    async def others(self) -> Decimal:
        """Return what the run's other tasks have spent, in USD; tasks that ask at one moment share one listing.

        :raises StorageFailed: that is not known, which is never taken for "nothing".
        """
        if self._store is None or self._failure:
            reason = self._failure.message if self._failure else "the connection has no output_uri"
            raise StorageFailed(f"Not sent: what this DAG run has spent is not known ({reason})")
        asked_at = time.monotonic()
        async with self._listing:
            if self._listed_at < asked_at:
                begun = time.monotonic()
                sums = _greatest(await self._store.list(self._folder))
                sums.pop(self._terms.owner.task_key, None)
                self._others = sum((amount for amount, _ in sums.values()), Decimal(0))
                self._listed_at = begun
            return self._others

    async def check(self) -> None:
        """Make sure that the run may spend more.

        :raises BudgetExceeded: it has spent what it may.
        :raises StorageFailed: what it has spent is not known.
        """
        if self.limit is None:
            return
        spent = await self.others() + self.spent
        if spent >= self.limit:
            raise BudgetExceeded(
                f"Not sent: ${spent:f} of max_run_cost_usd ${self.limit:f} are spent by this DAG run, ${self.spent:f} "
                "of them by this task. Raise max_run_cost_usd and clear the task to go on"
            )

    async def _write(self, store: Store, spent: Decimal) -> None:
        terms = self._terms
        entry = RunEntry(
            owner=terms.owner,
            operation=_operation(terms),
            cost_usd=spent,
            output_uri=terms.output_uri,
            output_conn_id=terms.output_conn_id,
        )
        await store.write(self._name(spent), entry.model_dump_json().encode())
        before, self._told = self._told, spent
        if before is not None and before != spent:
            await store.remove(self._name(before))

    def _name(self, spent: Decimal) -> str:
        return f"{self._folder}/{self._terms.owner.task_key}.{spent:f}.json"


async def read_entries(runs_uri: str, conn_id: str | None, run_key: str) -> list[RunEntry]:
    """Return what the tasks of a DAG run have told.

    :raises StorageFailed: it cannot be read.
    """
    store = Store(runs_uri, conn_id)
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


async def _in_time(telling: Awaitable[None]) -> None:
    """Await it, but not for long: a store that does not answer at all must not hold up a task without any limit."""
    try:
        await asyncio.wait_for(telling, PATIENCE)
    except asyncio.TimeoutError:
        raise StorageFailed(f"The object store has not answered for {PATIENCE:g} s") from None


def _greatest(listing: Iterable[str]) -> dict[str, tuple[Decimal, str]]:
    """Return the greatest sum of each task, with the name of its object."""
    sums: dict[str, tuple[Decimal, str]] = {}
    for name in listing:
        if match := _ENTRY.fullmatch(name):
            task_key, amount = match[1], Decimal(match[2])
            sums[task_key] = max((amount, name), sums.get(task_key, (amount, name)))
    return sums


def _operation(terms: Terms) -> Operation:
    if isinstance(terms, BatchJob):
        return "batch"
    return terms.operation if isinstance(terms, Job) else "generate"
