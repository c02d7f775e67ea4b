"""Many requests in one job: bounded in flight, bounded in cost, and nothing bought twice when it is started anew."""

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

#: After one of these no other row would fare better.
_HOPELESS = (AuthenticationFailed, InsufficientQuota, ConnectionFailed, RateLimited, StorageFailed)


class Batch:
    """Carries out the rows of one job: :meth:`prepare`, then :meth:`run`.

    :ivar error: why the batch stopped starting rows, if it did.
    :ivar results: what became of the rows.
    :ivar plan: what it is about to buy.
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
        """Make the plan, and take note of the rows that are stored unless the plan is all that is asked for.

        If the plan is surely over a limit, or cannot be made, no row will start that costs money.

        :raises StorageFailed: what was paid before is not known.
        """
        await self._look_back()
        try:
            plan = self.plan = await self._plan()
        except StorageFailed as err:
            self._stop(err)
            return
        log.info("%s", plan.in_words())
        refusal = plan.refusal()
        if refusal and self._job.plan_only:
            log.warning("%s", refusal.message)
        elif refusal and not self._job.start_over_budget:
            self._stop(refusal)

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
            await asyncio.sleep(0)  # thousands of rows without a request must not hold up the loop
        return await planner.plan()

    async def run(self) -> None:
        """Work off the rows that are not stored; afterwards every started row has its line in the table."""
        rows = self._rows.unfinished()
        async with self._context.lease:
            workers = [asyncio.create_task(self._work(rows)) for _ in range(max(1, self._job.max_concurrency))]
            try:
                # Not gather(): it passes a cancellation on before the workers know that no row is to start anew, and
                # before Python 3.12 an answer that comes at that moment swallows it.
                await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
                if not all(worker.done() for worker in workers):
                    # One has failed unexpectedly, such as on a full disk; the others' answers are still paid for.
                    self._stop(DeepshiError("Another row failed unexpectedly"))
                    await asyncio.wait(workers)
            finally:
                # Cancelled: each row closes its connection, or first stores what it has paid for; none starts anew.
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
        """Let the account know what pictures have cost before, and what earlier tries have spent."""
        account = self._context.account
        account.prices.take(await in_thread(self._journal.prices))
        owner, since = self._job.owner, account.counts_since
        earlier = await self._journal.tally(owner)
        lately = None if since is None else await in_thread(self._journal.known_tally, owner, since)
        await account.begin(earlier, lately, report=not self._job.plan_only)

    async def _work(self, rows: Iterator[Row]) -> None:
        for row in rows:
            if self.error and not isinstance(self.error, BudgetExceeded):
                return
            await self._buy(row, request_of(row.fields))
            await self._pace.keep()
            await asyncio.sleep(0)  # nor must thousands that may not be bought

    def _stored(self, row: Row, request: GenerateRequest) -> Purchase | None:
        """Return the record whose images are this row's, if the listings alone show it."""
        purchase = self._bought(row, request)
        if purchase is None or not (self._job.reuse or purchase.record.owner == self._job.owner):
            return None
        return purchase if self._journal.images_were_in_place(purchase.record) else None

    def _bought(self, row: Row, request: GenerateRequest) -> Purchase | None:
        """Return the newest record under a row's name, if it is surely of this request.

        For an edit, the input images would have to be read.
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
            return None  # if another attempt may have replaced the images, the engine looks closer
        record = self._journal.known_record(newest)
        return Purchase(k=newest.k, record=record) if record and record.fingerprint == fingerprint else None

    async def _buy(self, row: Row, request: GenerateRequest) -> None:
        """Buy a row's images, within the budget; an attempt that is lost is made again, within ``max_resends``."""
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
                # One that came inside of an answer is about that answer alone.
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
        """Let no further row start that costs money."""
        self._context.account.close(error)
        self.error = self._context.account.closed_by

    def _done(
        self, row: Row, request: GenerateRequest, purchase: Purchase, seconds: float | None, fallback: int | None = None
    ) -> None:
        self.results.done(row, request, purchase, self._costs(row), seconds, fallback)

    def _costs(self, row: Row) -> NameCosts:
        return name_costs(self._journal, self._job.owner, row.name, self._context.account.prices)

    async def _recent(self, row: Row) -> list[Attempt] | None:
        """Return what is known of the attempts under a row's name, if it is surely all."""
        try:
            known = await self._journal.recent(row.name)
        except StorageFailed:
            return None  # the engine lists them itself, and raises what is wrong
        return None if known and unsettled(known) else known  # the outcome of one may not have been listed
