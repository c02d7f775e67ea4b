"""Many requests in one job: bounded in flight, bounded in cost, and nothing bought twice when it is started anew."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar

from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.batch.budget import Budget
from deepshi_provider.batch.row_results import Costs, Report
from deepshi_provider.batch.row_table import Row, RowTable
from deepshi_provider.batch.rows import request_of
from deepshi_provider.client import metrics
from deepshi_provider.costs.price_class import price_class
from deepshi_provider.costs.sheet import paid
from deepshi_provider.exceptions import (
    AuthenticationFailed,
    BudgetExceeded,
    Charged,
    ConnectionFailed,
    DeepshiError,
    InsufficientQuota,
    RateLimited,
    StorageFailed,
)
from deepshi_provider.jobs.context import Tools
from deepshi_provider.jobs.engine import Engine
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.journal.bill import Bill
from deepshi_provider.journal.entries import Record, Sending, may_have_images, unsettled
from deepshi_provider.journal.index import Index
from deepshi_provider.journal.journal import Purchase
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.spending import doubtful_claims
from deepshi_provider.store.store import in_thread

log = logging.getLogger(__name__)

Found = TypeVar("Found")

#: After one of these no other row would fare better.
_HOPELESS = (AuthenticationFailed, InsufficientQuota, ConnectionFailed, RateLimited, StorageFailed)


@dataclass
class _Work:
    """A row that is being bought.

    :ivar costs: of each of its sendings by the task instance, in USD.
    :ivar lost: its sendings by this process whose outcome is unknown, whatever the store shows later.
    """

    row: Row
    request: GenerateRequest
    kind: str
    costs: Costs
    begun: float = field(default_factory=time.monotonic)
    engine: Engine | None = None
    error: DeepshiError | None = None
    goes_on: bool = True
    was_sent: bool = False
    lost: int = 0

    @property
    def unknown(self) -> int:
        """Its sendings whose outcome is unknown."""
        return max(self.engine.unknown if self.engine else 0, self.lost)

    @property
    def charged(self) -> Charged:
        """What its failure means for the money."""
        charged = self.error.charged if self.error else "no"
        return "unknown" if self.lost and charged == "no" else charged


class Batch:
    """Carries out the rows of one job; :meth:`run` is its only use.

    :param bill: what the task instance has paid over all its tries; kept up to date.
    :ivar error: why the batch stopped starting rows, if it did.
    :ivar report: what became of the rows.
    """

    def __init__(self, job: BatchJob, tools: Tools, rows: RowTable, index: Index, bill: Bill) -> None:
        self._job = job
        self._store = tools.store
        self._rows = rows
        self._index = index
        self._bill = bill
        self._tools = tools
        self._starting = asyncio.Lock()
        self._budget = Budget(job.max_cost_usd, bill.usd or Decimal(0), self._tools.run_costs)
        self.report = Report(rows, job.rows, job.owner, self._budget)
        self.error: DeepshiError | None = None
        self._is_stopping = False

    async def run(self) -> None:
        """Work the rows off; afterwards every started row has its line in the table."""
        account = self._tools.client.settings.account
        await self._look_back()
        rows = iter(self._rows)
        async with self._tools.lease:
            workers = [asyncio.create_task(self._work(rows, account)) for _ in range(max(1, self._job.max_concurrency))]
            try:
                # Not gather(): it passes a cancellation on before the workers know that no row is to start anew, and
                # before Python 3.12 an answer that comes at that moment swallows it.
                await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
                # If one has failed in a way that is not foreseen, such as a full disk, the others' answers are still
                # paid for.
                self._is_stopping = True
                await asyncio.wait(workers)
            finally:
                # Cancelled: each row closes its connection, or first stores what it has paid for; none starts anew.
                self._is_stopping = True
                for worker in workers:
                    worker.cancel()
                ends = await asyncio.gather(*workers, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
                raise end
        self.report.say()

    @property
    def prices(self) -> Prices:
        """The known prices of the connection."""
        return self._tools.prices

    async def correct_run_costs(self, spent: Decimal | None) -> None:
        """Tell the DAG run what the records say that this task instance has paid, in USD."""
        await self._tools.run_costs.correct(spent)

    async def _look_back(self) -> None:
        """Let the budget and the run know what pictures have cost before, and what earlier tries left in doubt."""
        prices = await in_thread(self._index.prices)
        self._tools.prices.take(prices)
        for kind, price in prices.items():
            self._budget.learn(kind, price)
        owner = self._job.owner
        doubts = await in_thread(self._index.unreported, owner)
        doubts += [doubt async for doubt in doubtful_claims(self._store, owner, self._index.unsettled())]
        for doubt in doubts:
            await self._learn_price(doubt.price_class)
            self._budget.count_doubt(doubt)
        await self._tools.run_costs.begin(self._bill.usd, doubts)

    async def _learn_price(self, kind: str) -> None:
        """Let the budget know what other directories have paid for requests of a class."""
        if not self._budget.is_limited or self._budget.knows(kind):
            return
        if (price := await self._tools.prices.known(kind)) is not None:
            self._budget.learn(kind, price)

    async def _work(self, rows: Iterator[Row], account: str) -> None:
        for row in rows:
            if self._is_stopping or (self.error and not isinstance(self.error, BudgetExceeded)):
                return
            request = request_of(row.fields)
            record = self._stored(row, request, account)
            if record:
                metrics.reused(request, len(record.images))
                self.report.done(row, request, record, self._index.costs_of(self._job.owner, row.name), None)
            else:
                await self._buy(row, request)
            await asyncio.sleep(0)  # thousands of rows without a request must not hold up the loop

    def _stored(self, row: Row, request: GenerateRequest, account: str) -> Record | None:
        """Return the record that serves this row, if the listings alone tell."""
        record = self._bought(row, request, account)
        if record is None or not (self._job.reuse or record.owner == self._job.owner):
            return None
        return record if all(self._index.has(image) for image in record.images) else None

    def _bought(self, row: Row, request: GenerateRequest, account: str) -> Record | None:
        """Return the newest record under a row's name, if it is surely of this request.

        For an edit, the input images would have to be read.
        """
        if isinstance(request, EditRequest):
            return None
        sendings = self._index.sendings(row.name)
        newest = next((s for s in reversed(sendings) if s.kind == "stored"), None)
        if newest is None:
            return None
        fingerprint = request.fingerprint(account)
        others = (may_have_images(s) for s in sendings if s is not newest)
        if newest.fingerprint != fingerprint[:16] or any(others):
            return None  # if another sending may have replaced the images, the engine looks closer
        record = self._index.record(newest)
        return record if record.fingerprint == fingerprint else None

    async def _buy(self, row: Row, request: GenerateRequest) -> None:
        """Buy a row's images, within the budget; a sending that is lost is made again, within ``max_resends``."""
        work = _Work(row, request, price_class(request), self._index.costs_of(self._job.owner, row.name))
        try:
            if await self._serve_stored(work):
                return
            while work.goes_on and await self._may_start(work.kind):
                if await self._send(work):
                    return
        except asyncio.CancelledError:  # there will be no line for this row
            self.report.unknown_outcomes += work.unknown
            raise
        if work.engine and work.error:
            self.report.failed(
                row,
                request,
                work.error,
                work.costs,
                time.monotonic() - work.begun,
                unknown=work.unknown,
                charged=work.charged,
                may_retry=work.error.retryable and work.engine.exposed <= self._job.max_resends,
            )

    async def _serve_stored(self, work: _Work) -> bool:
        """Look closer at what is stored under a row's name; it is free, whatever the budget says."""
        if not any(sending.kind == "stored" for sending in self._index.sendings(work.row.name)):
            return False
        engine = work.engine = self._engine(work.row, work.request, await self._recent(work.row))
        purchase, work.error = await self._attempt(engine.find())
        work.goes_on = work.error is None
        if purchase is None:
            return False
        news = self._book(work.row, engine, purchase, None)
        self._budget.count(work.kind, news)
        self.report.done(work.row, work.request, purchase.record, work.costs + news, None)
        return True

    async def _send(self, work: _Work) -> bool:
        """Make one attempt, for which the budget has reserved its price, and return whether the row is done."""
        news: Costs = []
        may_be_paid = False
        try:
            known = None if work.was_sent else await self._recent(work.row)
            engine = work.engine = self._engine(work.row, work.request, known)
            work.was_sent = True
            purchase, error = await self._attempt(self._started(engine))
            work.error = error
            may_be_paid = error is not None and error.charged != "no" and error.sends > 0
            work.lost += error is not None and error.charged == "unknown"
            news = self._book(work.row, engine, purchase, error)
            work.costs += news
            self._budget.count(work.kind, news[:-1])
        finally:  # whatever is raised, nobody waits for this reservation
            await self._budget.settle(work.kind, news[-1] if news else None, paid=bool(news) or may_be_paid)
        may_help = error is not None and error.retryable
        work.goes_on = may_be_paid and may_help and engine.exposed <= self._job.max_resends
        if purchase is None:
            return False
        if purchase.record.cost_usd is not None and purchase.record.cost_is_complete:
            self._budget.learn(work.kind, purchase.record.cost_usd)
        self.report.done(work.row, work.request, purchase.record, work.costs, time.monotonic() - work.begun)
        return True

    async def _recent(self, row: Row) -> list[Sending] | None:
        """Return what is known of the sendings under a row's name, if it is surely all."""
        try:
            known = await self._index.recent(row.name)
        except StorageFailed:
            return None  # the engine lists them by itself, and says what is wrong
        return None if known and unsettled(known) else known  # what became of one may not have been listed

    async def _may_start(self, kind: str) -> bool:
        """Wait for the budget, and return whether a request may start."""
        if self.error or self._is_stopping:
            return False
        try:
            await self._learn_price(kind)
            await self._budget.reserve(kind)
        except (BudgetExceeded, StorageFailed) as err:
            self.error = self.error or err
            return False
        if self.error:  # meanwhile
            await self._budget.settle(kind, None)
            return False
        return True

    def _engine(self, row: Row, request: GenerateRequest, known: list[Sending] | None) -> Engine:
        return Engine(self._tools, row.name, request, time.time() + self._job.generation_timeout, known)

    async def _started(self, engine: Engine) -> Purchase:
        async with self._starting:  # one sign of life for all rows
            await self._tools.lease.start()
        return await engine.run()

    async def _attempt(self, work: Awaitable[Found]) -> tuple[Found | None, DeepshiError | None]:
        """Return what came of it, or its error, which may stop the batch."""
        try:
            return await work, None
        except DeepshiError as err:
            # One that came inside of an answer is about that answer.
            if isinstance(err, _HOPELESS) and (err.charged == "no" or isinstance(err, StorageFailed)):
                self.error = self.error or err
            return None, err

    def _book(self, row: Row, engine: Engine, purchase: Purchase | None, error: DeepshiError | None) -> Costs:
        """Take note of what is new on the bill, and return it."""
        found = [(sending.k, record) for sending, record in engine.ledger.written]
        if purchase:  # a second process on this same job may have made it
            found.append((purchase.k, purchase.record))
        own = [record.owner.is_same_task(self._job.owner) for _, record in found]
        news = [self._index.add(row.name, k, record) for k, record in found]
        costs = [paid(record) for (_, record), mine, new in zip(found, own, news, strict=True) if mine and new]
        if error and error.cost_usd is not None and not engine.ledger.written:
            costs.append(paid(error))  # paid, and the failing store took no record
            self._bill.unrecorded.append((engine.model, paid(error) or Decimal(0)))
        for cost in costs:
            self._bill.add(cost)
        return costs
