"""Runs the rows of a batch: limits requests in flight and costs, and buys nothing twice when started again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator

from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.batch.kept_pace import KeptPace
from deepshi_provider.batch.planning import Planner
from deepshi_provider.batch.row_results import RowResults
from deepshi_provider.batch.row_table import Row, RowTable
from deepshi_provider.batch.rows import request_of
from deepshi_provider.client import metrics
from deepshi_provider.exceptions import (
    AuthenticationFailed,
    BudgetExceeded,
    ConnectionFailed,
    DeepshiError,
    InsufficientQuota,
    RateLimited,
    StorageFailed,
)
from deepshi_provider.jobs.context import JobContext
from deepshi_provider.jobs.engine import Engine
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.jobs.plan import Plan
from deepshi_provider.journal.directory import DirectoryJournal
from deepshi_provider.journal.entries import Attempt, may_have_images, unsettled
from deepshi_provider.journal.journal import Purchase
from deepshi_provider.journal.sheets import NameCosts, name_costs
from deepshi_provider.store.store import in_thread

log = logging.getLogger(__name__)

#: Errors after which all other rows would fail too.
_HOPELESS = (AuthenticationFailed, InsufficientQuota, ConnectionFailed, RateLimited, StorageFailed)


class Batch:
    """Runs the rows of one job: :meth:`prepare`, then :meth:`run`.

    :ivar error: why the batch stopped starting rows; ``None`` if it did not.
    :ivar results: the outcomes of the rows.
    :ivar plan: what the batch is about to buy.
    """

    def __init__(
        self, job: BatchJob, context: JobContext, journal: DirectoryJournal, rows: RowTable, pace: KeptPace
    ) -> None:
        self._job = job
        self._context = context
        self._journal = journal
        self._rows = rows
        self._pace = pace
        self.results = RowResults(rows, context)
        self.error: DeepshiError | None = None
        self.plan: Plan | None = None

    async def prepare(self) -> None:
        """Make the plan and, unless ``plan_only``, write the results of rows that are already stored.

        If the plan certainly exceeds a limit, or cannot be made, no paid row will start.

        :raises StorageFailed: the costs of earlier tries cannot be read.
        """
        await self._look_back()
        try:
            plan = self.plan = await self._plan()
        except StorageFailed as err:
            self._stop(err)
            return
        log.info("%s", plan.summary())
        refusal = plan.refusal()
        if refusal and self._job.plan_only:
            log.warning("%s", refusal.message)
        elif refusal and not self._job.start_over_budget:
            self._stop(refusal)
            await self._context.account.warn()

    async def _plan(self) -> Plan:
        planner = Planner(self._job, self._context, self._journal)
        for row in self._rows:
            request = request_of(row.fields)
            purchase = self._stored(row, request)
            if purchase is None:
                await planner.add(row, request)
            else:
                planner.add_stored()
                if not self._job.plan_only:
                    metrics.reused(request, len(purchase.record.images))
                    self._done(row, request, purchase, None)
            await asyncio.sleep(0)  # thousands of rows without a request must not block the loop
        return await planner.plan()

    async def run(self) -> None:
        """Run the rows that are not stored; afterwards every started row has its line in the table."""
        rows = self._rows.unfinished()
        most = min(self._job.max_concurrency, len(self._rows))
        workers = [asyncio.create_task(self._work(rows)) for _ in range(max(1, most))]
        try:
            # Not gather(): it cancels the workers before _stop() keeps them from starting another row, and before
            # Python 3.12 an answer that arrives at that moment swallows the cancellation.
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            if not all(worker.done() for worker in workers):
                # A worker failed unexpectedly, such as on a full disk; requests in flight are paid for, so wait.
                self._stop(DeepshiError("Another row failed unexpectedly"))
                await asyncio.wait(workers)
        finally:
            # Cancelled: each row closes its connection, or stores its images first; no further row starts.
            if not all(worker.done() for worker in workers):
                self._stop(DeepshiError("The batch was cancelled"))
            for worker in workers:
                worker.cancel()
            ends = await asyncio.gather(*workers, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
                raise end
        self.results.log_progress()

    async def _look_back(self) -> None:
        """Pass known prices and the spending of earlier tries to the account."""
        account = self._context.account
        account.prices.take(await in_thread(self._journal.prices))
        earlier = await self._journal.tally(self._job.owner)
        await account.begin(earlier, await self._context.recent_tally(), report=not self._job.plan_only)

    async def _work(self, rows: Iterator[Row]) -> None:
        for row in rows:
            if self.error and not isinstance(self.error, BudgetExceeded):
                return
            await self._buy(row, request_of(row.fields))
            await self._pace.keep()
            await asyncio.sleep(0)  # thousands of rows over the budget must not block the loop

    def _stored(self, row: Row, request: GenerateRequest) -> Purchase | None:
        """Return the record of a row's stored images, if the listings alone prove that they are there."""
        purchase = self._bought(row, request)
        if purchase is None or not self._job.may_use(purchase.record):
            return None
        return purchase if self._journal.images_were_in_place(purchase.record) else None

    def _bought(self, row: Row, request: GenerateRequest) -> Purchase | None:
        """Return the newest record under a row's name if it is certainly of this request.

        ``None`` for an edit, whose input images would have to be read.
        """
        if isinstance(request, EditRequest):
            return None
        attempts = self._journal.attempts(row.name)
        newest = next((a for a in reversed(attempts) if a.kind == "stored"), None)
        if newest is None:
            return None
        fingerprint = request.fingerprint(self._context.client.settings.account)
        others = [attempt for attempt in attempts if attempt is not newest]
        if newest.fingerprint != fingerprint[:16] or any(map(may_have_images, others)):
            return None  # another attempt may have replaced the images, so the engine checks the store
        record = self._journal.known_record(newest)
        return Purchase(k=newest.k, record=record) if record and record.fingerprint == fingerprint else None

    async def _buy(self, row: Row, request: GenerateRequest) -> None:
        """Buy a row's images within the budget; repeat an attempt with unknown outcome within ``max_resends``."""
        if self.error and not any(a.kind == "stored" for a in self._journal.attempts(row.name)):
            return  # the budget is spent, and there is nothing to reuse
        begun = time.monotonic()
        known = await self._recent(row)
        failure: DeepshiError | None = None
        lost = False
        while True:
            engine = Engine(self._context, row.name, request, known)
            try:
                purchase = await engine.run()
            except DeepshiError as err:
                if err is self._context.account.closed_by:  # the row was not started
                    self._stop(err)
                    break
                # An error inside an answer concerns only that answer.
                if isinstance(err, _HOPELESS) and (err.charged == "no" or isinstance(err, StorageFailed)):
                    self._stop(err)
                failure = err
            else:
                was_sent = purchase.record.owner == self._job.owner
                seconds = time.monotonic() - begun if was_sent else None
                self._done(row, engine.request, purchase, seconds, engine.fallback)
                return
            lost = lost or failure.charged == "unknown"
            known = None
            may_help = failure.charged != "no" and failure.sends > 0 and failure.retryable
            if not may_help or self.error or len(engine.exposed) > self._job.max_resends:
                break
        if failure:
            self.results.failed(
                row,
                failure,
                self._costs(row),
                time.monotonic() - begun,
                charged="unknown" if lost and failure.charged == "no" else failure.charged,
                may_retry=engine.may_help_to_retry(failure) and len(engine.exposed) <= self._job.max_resends,
            )

    def _stop(self, error: DeepshiError) -> None:
        """Keep further paid rows from starting."""
        self._context.account.close(error)
        self.error = self._context.account.closed_by

    def _done(
        self, row: Row, request: GenerateRequest, purchase: Purchase, seconds: float | None, fallback: int | None = None
    ) -> None:
        self.results.done(row, request, purchase, self._costs(row), seconds, fallback)

    def _costs(self, row: Row) -> NameCosts:
        return name_costs(self._journal, self._job.owner, row.name, self._context.account.prices)

    async def _recent(self, row: Row) -> list[Attempt] | None:
        """Return the known attempts under a row's name, or ``None`` if there may be others."""
        try:
            known = await self._journal.recent(row.name)
        except StorageFailed:
            return None  # the engine lists them again and raises the error
        return None if known and unsettled(known) else known  # a listing may lack the record of an outcome
