"""From a request to stored images, paying at most once, and never unnoticed more than once.

What is durable when a process dies, by line of :meth:`Engine._buy`:

- before the claim: nothing was sent, nothing was paid;
- after the claim: the attempt counts as possibly paid until its record is written; ``max_resends`` bounds how often it
  is sent again;
- after the record: the images are proved, and found again by every later try.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.client import metrics
from deepshi_provider.client.inputs import InputImages
from deepshi_provider.client.result import ImagesResult
from deepshi_provider.costs.money import paid
from deepshi_provider.costs.price_class import price_class
from deepshi_provider.costs.tally import Tally
from deepshi_provider.exceptions import DeepshiError, OutcomeUnknown, ResendsExhausted, StorageFailed, TimedOut
from deepshi_provider.jobs.context import JobContext
from deepshi_provider.jobs.inputs import read_inputs
from deepshi_provider.jobs.own_output import refuse_own_output
from deepshi_provider.jobs.publisher import Publisher, described
from deepshi_provider.journal.entries import (
    IMAGE,
    Attempt,
    Claim,
    Record,
    claim_name,
    next_k,
    since_purchase,
    unsettled,
)
from deepshi_provider.journal.journal import Purchase
from deepshi_provider.store.store import STATE

log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Seconds between the attempts to make a claim that others make first and no listing shows.
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


class Engine:
    """Carries out one request, once.

    :param name: what its images, claims and records are called, in its directory.
    :param known: the attempts under this name, if they were listed a moment ago.
    :ivar fingerprint: of the request; ``""`` until its input images were read.
    """

    def __init__(
        self, context: JobContext, name: str, request: GenerateRequest, known: list[Attempt] | None = None
    ) -> None:
        self._context = context
        self._job = context.job
        self._journal = context.journal
        self._account = context.account
        self._name = name
        self._request = request
        self._price_class = price_class(request)
        self._deadline = context.job.deadline_from(time.time())
        self._known = known
        self._waits_for = self._refused_k = self._refusals = 0
        self._is_in_doubt = False
        self.fingerprint = ""

    @property
    def request(self) -> GenerateRequest:
        """The request that was sent last, or whose images were found."""
        return self._request

    @property
    def exposed(self) -> list[Attempt]:
        """The request's attempts, since its last stored images, that cost money or may have."""
        return since_purchase(self._journal.attempts(self._name), self.fingerprint) if self.fingerprint else []

    async def run(self) -> Purchase:
        """Return the record of the stored images, bought now or earlier.

        :raises DeepshiError: there are none; ``charged`` says whether it was paid for.
        """
        try:
            return await self._bought()
        except DeepshiError:
            raise
        except Exception as err:  # a fault of ours or of a library: it must not take other rows and their costs along
            log.exception("A request failed unexpectedly")
            message = f"Unexpected error ({type(err).__name__}: {str(err)[:200]})"
            if self._is_in_doubt:
                raise OutcomeUnknown(f"{message}; the image may have been paid for", sends=1) from err
            raise DeepshiError(f"{message}, before anything was sent") from err

    async def _bought(self) -> Purchase:
        account = self._context.client.settings.account
        if not isinstance(self._request, EditRequest):
            self.fingerprint = self._request.fingerprint(account)
            return await self._buy_or_reuse(None)
        refuse_own_output(self._request, self._name, self._context.store.location)
        conn_id, stores = self._job.output_conn_id, self._context.stores
        with await asyncio.to_thread(read_inputs, self._request.images, conn_id, stores) as inputs:
            self.fingerprint = self._request.fingerprint(account, inputs.digests)
            return await self._buy_or_reuse(inputs)

    async def _attempts(self) -> list[Attempt]:
        known, self._known = self._known, None
        return await self._journal.list_attempts(self._name) if known is None else known

    async def _buy_or_reuse(self, inputs: InputImages | None) -> Purchase:
        if self._job.is_shared and self._name == IMAGE:
            # Before reuse too: what is reused must not be replaced by a neighbour.
            await self._journal.take_slot(self._name, self._job.owner, self.fingerprint)
        while True:
            attempts = await self._attempts()
            if stored := await self._look_back(attempts):
                return stored
            exposed = since_purchase(attempts, self.fingerprint)
            if await self._others_are_at_it(exposed):
                continue
            unknown = self._bounded(exposed)
            await self._prepare(unknown, inputs)
            async with self._account.reserved(self._price_class) as has_waited:
                if has_waited:
                    self._deadline = self._job.deadline_from(time.time())
                    if await self._attempts() != attempts:
                        continue
                if bought := await self._claim_and_buy(next_k(attempts), unknown, inputs):
                    return bought

    async def _claim_and_buy(self, k: int, unknown: int, inputs: InputImages | None) -> Purchase | None:
        """Return ``None`` if another process was first."""
        with self._context.lease.attempt(self._name, k) as heartbeat:
            if await self._claim(k, heartbeat):
                return await self._buy(k, unknown, inputs)
        await self._let_others_go_first(k)
        return None

    async def _look_back(self, attempts: list[Attempt]) -> Purchase | None:
        """Return the stored images that can be used, if there are some; let the account know of earlier tries."""
        earlier = Tally()
        if not self._account.has_begun:
            earlier = await self._journal.tally_of(self._job.owner, self._name)
        if earlier:  # a process may have died before it could tell the run
            await self._account.begin(earlier)
        return await self._stored(attempts)

    async def _stored(self, attempts: list[Attempt]) -> Purchase | None:
        async for purchase in self._journal.purchases(attempts, self.fingerprint):
            if await self._is_wanted(purchase, attempts):
                if purchase.record.owner != self._job.owner:
                    metrics.reused(self._request, len(purchase.record.images))
                return purchase
        return None

    async def _is_wanted(self, purchase: Purchase, attempts: list[Attempt]) -> bool:
        """Return whether stored images can be used: always those of this same try, which may run twice."""
        if not self._job.reuse and purchase.record.owner != self._job.owner:
            return False
        return await self._journal.is_intact(self._name, purchase, attempts)

    def _remaining(self) -> float:
        return max(0.0, self._deadline - time.time())

    async def _others_are_at_it(self, attempts: list[Attempt]) -> bool:
        """Wait a little if another process may still get the answer to this very request."""
        claim = await self._journal.live_claim(self._name, attempts, self._context.watch, self._context.lease)
        if claim is None:
            return False
        uri = self._journal.claim_uri(claim)
        if self._remaining() <= self._context.times.poll:
            raise OutcomeUnknown(f"Another process sent this request ({uri}) and had no answer in time")
        if claim.k != self._waits_for:
            self._waits_for = claim.k
            log.info("Another process is waiting for this request's answer: %s", uri)
        await asyncio.sleep(self._context.times.poll)
        return True

    def _bounded(self, attempts: list[Attempt]) -> int:
        """Return how many earlier attempts have an unknown outcome.

        :raises ResendsExhausted: one more attempt is more than the user allows.
        """
        unknown = unsettled(attempts)
        if len(attempts) > self._job.max_resends:
            claims = ", ".join(self._journal.claim_uri(a) for a in unknown) or "none"
            raise ResendsExhausted(
                f"Not sent: this request was sent {len(unknown)} time(s) with unknown outcome and "
                f"{len(attempts) - len(unknown)} time(s) paid for without a usable image, and max_resends is "
                f"{self._job.max_resends}. Raise max_resends, or delete its claims to say that you accept the loss. "
                f"Claims: {claims}"
            )
        if unknown:
            log.warning("Earlier attempts of this request with unknown outcome: %d; sending once more", len(unknown))
        return len(unknown)

    async def _prepare(self, unknown: int, inputs: InputImages | None) -> None:
        """Do everything that can fail for free, before the claim."""
        if self._remaining() <= 0:
            over = "The time that generation_timeout allows is over"
            if unknown:
                raise OutcomeUnknown(f"{over}; an earlier attempt of this request may have been paid for")
            raise TimedOut(f"{over}, and nothing was sent")
        if not self._account.has_begun:
            await self._account.begin(Tally())
        await self._context.lease.start()
        await self._context.preflight.check(self._request, inputs)

    async def _claim(self, k: int, heartbeat: int) -> bool:
        claim = Claim(
            fingerprint=self.fingerprint,
            owner=self._job.owner,
            lease_owner=self._context.lease.owner,
            model=self._request.model,
            price_class=self._price_class,
            claimed_at=time.time(),
            heartbeat=heartbeat,
        )
        return await self._journal.claim(self._name, k, claim)

    async def _let_others_go_first(self, k: int) -> None:
        """Wait a little after a claim that another process was first to make: the next listing shows it.

        :raises StorageFailed: the listings never show what cannot be created.
        """
        self._refusals = self._refusals + 1 if k == self._refused_k else 1
        self._refused_k = k
        if self._refusals > len(_PAUSES):
            uri = self._context.store.uri_of(f"{STATE}/{claim_name(self._name, k, self.fingerprint)}")
            raise StorageFailed(
                f"Not sent: the store contradicts itself. {uri} cannot be created, as if it existed, and is in no "
                "listing of its directory. A gateway that changes names or listings does this"
            )
        await asyncio.sleep(_PAUSES[self._refusals - 1])

    async def _buy(self, k: int, unknown: int, inputs: InputImages | None) -> Purchase | None:
        """Send, store, record. Return ``None`` if another process has taken over meanwhile."""
        begun = time.monotonic()
        publisher = Publisher(self._context, self._name, self._request, self.fingerprint)
        self._is_in_doubt = True
        try:
            result = await self._send(inputs)
        except DeepshiError as err:
            await _to_its_end(self._settle(publisher, k, unknown, err))
            raise
        except (asyncio.CancelledError, Exception):
            await _to_its_end(self._account.add(self._price_class, None))
            raise
        record = await _to_its_end(self._publish(publisher, k, unknown, result))
        self._is_in_doubt = False
        level = self._context.image_log_level
        log.log(level, "%s in %.1f s", described(record, self._request), time.monotonic() - begun)
        return Purchase(k=k, record=record) if record.kind == "stored" else None

    async def _settle(self, publisher: Publisher, k: int, unknown: int, err: DeepshiError) -> None:
        await publisher.settle(k, unknown, err)
        if err.charged != "no":
            await self._account.add(self._price_class, paid(err))

    async def _publish(self, publisher: Publisher, k: int, unknown: int, result: ImagesResult) -> Record:
        try:
            return await publisher.publish(k, unknown, result)
        finally:
            await self._account.add(self._price_class, paid(result))

    async def _send(self, inputs: InputImages | None) -> ImagesResult:
        if isinstance(self._request, EditRequest):
            assert inputs is not None  # noqa: S101 -- an edit's are read before
            return await self._context.client.edit(self._request, inputs, timeout=self._remaining())
        return await self._context.client.generate(self._request, timeout=self._remaining())


class _Unstoppable(asyncio.Task[Result]):
    """Goes on to its end: a triggerer that stops cancels all tasks of its loop, then waits for them."""

    def cancel(self, msg: object = None) -> bool:
        """Do nothing."""
        return False


async def _to_its_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Await work about money that was spent; however often this is cancelled, it waits, and only then says so."""
    task = _Unstoppable(work, loop=asyncio.get_running_loop())
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as err:
            cancelled = err
    if cancelled:
        if error := task.exception():
            log.error("%s: %s", type(error).__name__, error)
        raise cancelled
    return task.result()
