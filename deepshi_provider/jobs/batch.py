"""Many requests in one job: bounded in flight, bounded in cost, and nothing bought twice when it is started anew."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.exceptions import (
    AuthenticationFailed,
    BudgetExceeded,
    ConnectionFailed,
    DeepshiError,
    InsufficientQuota,
    RateLimited,
    StorageFailed,
)
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.jobs.budget import Budget, price_class
from deepshi_provider.jobs.engine import Engine
from deepshi_provider.jobs.index import Index
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.jobs.progress import Progress
from deepshi_provider.jobs.rows import request_of
from deepshi_provider.jobs.table import Row, RowTable
from deepshi_provider.jobs.tools import Tools
from deepshi_provider.manifest import Record, Sending, as_number, total
from deepshi_provider.storage import Store

log = logging.getLogger(__name__)

#: After one of these no other row would fare better.
_HOPELESS = (AuthenticationFailed, InsufficientQuota, ConnectionFailed, RateLimited, StorageFailed)


#: A row that was not started, but for its key.
EMPTY_LINE: dict[str, Any] = {
    "key": None,
    "status": "skipped",
    "uri": None,
    "uris": [],
    "width": None,
    "height": None,
    "sha256": None,
    "model": None,
    "prompt_hash": None,
    "cost_usd": None,
    "error": None,
    "charged": "no",
    "seconds": None,
}


class Batch:
    """Carries out the rows of one job; :meth:`run` is its only use.

    :ivar error: why the batch stopped starting rows, if it did.
    :ivar failures: key and error of each row that failed.
    :ivar costs: what each sending of the task instance has cost, in USD, over all its tries.
    """

    def __init__(self, job: BatchJob, hook: DeepshiHook, store: Store, rows: RowTable, index: Index) -> None:
        self._job = job
        self._hook = hook
        self._rows = rows
        self._index = index
        self._tools = Tools.of(job, hook, store, image_log_level=logging.DEBUG)
        self.costs = index.cost_of(job.owner)
        self._budget = Budget(job.max_cost_usd, total(self.costs) or Decimal(0))
        self.progress = Progress(job.rows)
        self.unknown_outcomes = 0
        self.error: DeepshiError | None = None
        self.failures: list[tuple[str, DeepshiError]] = []
        self.may_retry = False

    async def run(self) -> None:
        """Work the rows off; afterwards every started row has its line in the table."""
        settings = await self._hook.asettings()
        rows = iter(self._rows)
        async with self._tools.lease:
            workers = [
                asyncio.create_task(self._work(rows, settings.account))
                for _ in range(max(1, self._job.max_concurrency))
            ]
            try:
                await asyncio.gather(*workers)
            finally:
                # Cancelled: each row closes its connection, or first stores what it has paid for.
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        self.progress.say(self._budget.spent)

    async def _work(self, rows: Iterator[Row], account: str) -> None:
        for row in rows:
            if self.error:
                return
            request = request_of(row.fields)
            record = self._stored(row, request, account)
            if record:
                self._done(row, request, record, 0.0)
                await asyncio.sleep(0)  # thousands of these must not hold up the loop
            else:
                await self._buy(row, request)

    def _stored(self, row: Row, request: GenerateRequest, account: str) -> Record | None:
        """Return the record that serves this row, if the listings alone tell; input images would have to be read."""
        if isinstance(request, EditRequest):
            return None
        fingerprint = request.fingerprint(account)
        sendings = self._index.sendings(row.name)
        newest = next((s for s in reversed(sendings) if s.kind == "stored"), None)
        if newest is None or newest.fingerprint != fingerprint[:16] or sendings[-1].k > newest.k:
            return None
        record = self._index.record(newest)
        wanted = self._job.reuse or record.owner == self._job.owner
        intact = all(self._index.has(image) for image in record.images)
        return record if wanted and intact and record.fingerprint == fingerprint else None

    async def _buy(self, row: Row, request: GenerateRequest) -> None:
        """Buy a row's images, within the budget; a sending that is lost is made again, within ``max_resends``."""
        kind = price_class(request)
        known: list[Sending] | None = self._index.sendings(row.name)
        begun = time.monotonic()
        while not self.error:
            try:
                await self._budget.reserve(kind)
            except BudgetExceeded as err:
                self.error = self.error or err
                return
            engine = Engine(self._tools, row.name, request, time.time() + self._job.generation_timeout, known)
            record, error = await self._run(engine)
            cost = self._book(engine, error)
            await self._budget.settle(kind, cost, may_be_paid=error is not None and error.charged == "unknown")
            if record:
                self._done(row, request, record, time.monotonic() - begun)
            if error and error.charged != "no" and engine.exposed <= self._job.max_resends:
                known = None
                continue
            if error:
                self._failed(row, request, engine, error, time.monotonic() - begun)
            return

    @staticmethod
    async def _run(engine: Engine) -> tuple[Record | None, DeepshiError | None]:
        try:
            return (await engine.run()).record, None
        except DeepshiError as err:
            return None, err

    def _book(self, engine: Engine, error: DeepshiError | None) -> Decimal | None:
        """Take note of what a run of the engine has paid, and return it."""
        costs = [record.cost_usd for _, record in engine.ledger.written]
        for sending, record in engine.ledger.written:
            self._index.add(sending, record)
        if isinstance(error, StorageFailed) and error.cost_usd is not None:
            costs.append(error.cost_usd)  # paid, and the failing store took no record
        self.costs += costs
        return total(costs) if costs else None

    def _done(self, row: Row, request: GenerateRequest, record: Record, seconds: float) -> None:
        own = record.owner.is_same_task(self._job.owner)
        status = "created" if own else "reused"
        self.unknown_outcomes += record.unknown_outcomes if own else 0
        image = record.images[0]
        line = _line(row, request, status, seconds) | {
            "uri": image.uri,
            "uris": [image.uri for image in record.images],
            "width": image.width,
            "height": image.height,
            "sha256": image.sha256,
            "model": record.model,
            "cost_usd": as_number(record.cost_usd if own else Decimal(0)),
            "charged": "yes" if own else "no",
        }
        self._rows.put(row, line)
        self.progress.add(status, self._budget.spent, sent=seconds > 0)

    def _failed(self, row: Row, request: GenerateRequest, engine: Engine, error: DeepshiError, seconds: float) -> None:
        if isinstance(error, _HOPELESS):
            self.error = self.error or error
        retry = error.retryable and engine.exposed <= self._job.max_resends
        self.may_retry = self.may_retry or retry
        self.unknown_outcomes += engine.unknown
        self.failures.append((row.key, error))
        lost = total(record.cost_usd for _, record in engine.ledger.written)
        line = _line(row, request, "failed", seconds) | {
            "cost_usd": as_number(lost),
            "error": error.code or type(error).__name__,
            "charged": error.charged,
        }
        self._rows.put(row, line)
        log.warning("Row %s failed: %s: %s", row.key, type(error).__name__, error)
        self.progress.add("failed", self._budget.spent, sent=True)


def _line(row: Row, request: GenerateRequest, status: str, seconds: float) -> dict[str, Any]:
    """Return a line of the manifest; every line has all columns, so that every reader finds one schema."""
    return {
        **EMPTY_LINE,
        "key": row.key,
        "status": status,
        "model": request.model,
        "prompt_hash": hashlib.sha256(request.prompt.encode()).hexdigest(),
        "seconds": round(seconds, 3),
    }
