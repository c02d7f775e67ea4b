"""Makes the plan of a batch before anything is bought."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.batch.row_table import Row
from deepshi_provider.exceptions import DeepshiError, PreflightFailed, StorageFailed
from deepshi_provider.jobs.context import JobContext
from deepshi_provider.jobs.fallbacks import MODEL_NOT_FOUND, Choice, choices, exposed
from deepshi_provider.jobs.inputs import read_inputs
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.jobs.plan import Plan, make_plan
from deepshi_provider.journal.directory import DirectoryJournal
from deepshi_provider.journal.entries import Attempt


class Planner:
    """Sorts rows into stored, new, changed and refused; reads the store only where the listings are not enough."""

    def __init__(self, job: BatchJob, context: JobContext, journal: DirectoryJournal) -> None:
        self._job = job
        self._context = context
        self._journal = journal
        self._counts: Counter[str] = Counter()
        self._to_buy: Counter[str] = Counter()
        self._undecided: Counter[str] = Counter()

    def add_stored(self) -> None:
        """Count a row whose images are certainly stored."""
        self._counts["stored"] += 1

    async def add(self, row: Row, request: GenerateRequest) -> None:
        """Count a row whose images may not be stored.

        :raises StorageFailed: a record cannot be read.
        """
        attempts = self._journal.attempts(row.name)
        was_stored = any(attempt.kind == "stored" for attempt in attempts)
        found = choices(request, self._job.fallbacks, self._job.stream)
        if isinstance(request, EditRequest) and attempts and not self._job.plan_only:
            if was_stored:
                self._undecided[found[0].price_class] += 1
                return
        elif attempts and not await self._identified(found):
            self._counts["refused"] += 1
            return
        if await self._is_stored(row, attempts, found):
            self._counts["stored"] += 1
            return
        is_exhausted = len(exposed(found, attempts)) > self._job.max_resends
        choice = None if is_exhausted else await self._sent(found)
        if choice is None:
            self._counts["refused"] += 1
            return
        self._counts["changed" if was_stored else "new"] += 1
        self._to_buy[choice.price_class] += 1

    async def plan(self) -> Plan:
        """Return the plan of all rows.

        :raises StorageFailed: the spending of the DAG run cannot be read.
        """
        classes = [*self._to_buy, *self._undecided]
        prices = await asyncio.gather(*map(self._context.account.prices.range_of, classes))
        known = dict(zip(classes, prices, strict=True))
        return make_plan(self._counts, self._to_buy, self._undecided, known, await self._context.account.limits())

    async def _identified(self, found: Sequence[Choice]) -> bool:
        """Set the fingerprints; return ``False`` if an input image is invalid."""
        account, conn_id, stores = self._context.client.settings.account, self._job.output_conn_id, self._context.stores
        for choice in found:
            digests: Sequence[str] = ()
            if isinstance(request := choice.request, EditRequest):
                try:
                    read = asyncio.to_thread(read_inputs, request.images, conn_id, stores, request.input_sha256)
                    with await read as inputs:
                        digests = inputs.digests
                except StorageFailed:
                    raise
                except DeepshiError:
                    return False
            choice.fingerprint = choice.request.fingerprint(account, digests)
        return True

    async def _is_stored(self, row: Row, attempts: list[Attempt], found: Sequence[Choice]) -> bool:
        for choice in found:
            async for purchase in self._journal.purchases(attempts, choice.fingerprint):
                if self._job.may_use(purchase.record) and await self._journal.is_intact(row.name, purchase, attempts):
                    return True
        return False

    async def _sent(self, found: Sequence[Choice]) -> Choice | None:
        """Return the first choice that passes preflight; ``None`` if the row would fail before it is sent."""
        for choice in found:
            try:
                await self._context.preflight.check(choice.request, None, choice.where)
            except PreflightFailed as err:
                if err.code != MODEL_NOT_FOUND:
                    return None
            else:
                return choice
        return None
