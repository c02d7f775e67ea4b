"""From a request to stored images, paying at most once, and never unnoticed more than once.

What is durable when a process dies, by line of :meth:`Engine._buy`:

- before the claim: nothing was sent, nothing was paid;
- after the claim: the sending counts as possibly paid until its record is written; ``max_resends`` bounds how often it
  is sent again;
- after the record: the images are proved, and found again by every later try.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from decimal import Decimal
from typing import Any, TypeVar

from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.client import metrics
from deepshi_provider.client.inputs import InputImages
from deepshi_provider.client.result import ImagesResult
from deepshi_provider.costs.price_class import price_class
from deepshi_provider.costs.sheet import paid
from deepshi_provider.exceptions import DeepshiError, OutcomeUnknown, ResendsExhausted, StorageFailed, TimedOut
from deepshi_provider.jobs.context import Tools
from deepshi_provider.jobs.inputs import read_inputs
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.jobs.own_output import refuse_own_output
from deepshi_provider.jobs.publisher import Keeper, described
from deepshi_provider.journal.entries import IMAGE, Record, Sending, next_k, since_purchase, unsettled
from deepshi_provider.journal.journal import Ledger, Purchase, claim_name, new_claim
from deepshi_provider.journal.spending import earlier_costs
from deepshi_provider.store.store import STATE

log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Seconds between the attempts to make a claim that others make first and no listing shows.
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


class Engine:
    """Carries out one request, or only looks for stored images of it; one of both, once.

    :param name: what its images, claims and records are called, in its directory.
    :param deadline: unix seconds; nothing is waited for beyond it.
    :param known: the sendings under this name, if they were listed a moment ago.
    :ivar fingerprint: of the request; ``""`` until its input images were read.
    :ivar model: that the request names.
    :ivar price_class: of the request.
    :ivar exposed: sendings of the request, since its last stored images, that cost money or may have.
    :ivar unknown: those of them whose outcome is unknown.
    :ivar paid: what each sending of this process has cost that was paid for, in USD; ``None`` if it was not reported.
    :ivar spent: USD that the task instance had paid before; ``None`` until the directory was read, and if it has costs
        and the API reported none of them.
    """

    def __init__(
        self,
        tools: Tools,
        name: str,
        request: GenerateRequest,
        deadline: float,
        known: list[Sending] | None = None,
    ) -> None:
        self._tools = tools
        self._terms = tools.terms
        self._name = name
        self._request = request
        self._deadline = deadline
        self._known = known
        self._checked = False
        self._waits_for = self._refused_k = self._refusals = 0
        self.fingerprint = ""
        self.model = request.model
        self.price_class = price_class(request)
        self.exposed = self.unknown = 0
        self._is_in_doubt = False
        self.paid: list[Decimal | None] = []
        self.spent: Decimal | None = None
        self.ledger = Ledger(tools.store, name)

    async def run(self) -> Purchase:
        """Return the record of the stored images, bought now or earlier.

        :raises DeepshiError: there are none; ``charged`` tells what was paid.
        """
        try:
            return await self._with_inputs(self._run)
        except DeepshiError:
            raise
        except Exception as err:  # a fault of ours or of a library: it must not take other rows and their costs along
            log.exception("A request failed in a way that is not foreseen")
            message = f"An error that is not foreseen ({type(err).__name__}: {str(err)[:200]})"
            if self._is_in_doubt:
                raise OutcomeUnknown(f"{message}; the image may have been paid for", sends=1) from err
            raise DeepshiError(f"{message}, before anything was sent") from err

    async def find(self) -> Purchase | None:
        """Return the record of stored images that serve, if there is one; nothing is sent or claimed.

        :raises DeepshiError: the store or an input image cannot be read.
        """
        return await self._with_inputs(self._find)

    async def _with_inputs(self, work: Callable[[InputImages | None], Awaitable[Result]]) -> Result:
        account = self._tools.client.settings.account
        if not isinstance(self._request, EditRequest):
            self.fingerprint = self._request.fingerprint(account)
            return await work(None)
        refuse_own_output(self._request, self._name, self._tools.store.location)
        conn_id, stores = self._terms.output_conn_id, self._tools.stores
        with await asyncio.to_thread(read_inputs, self._request.images, conn_id, stores) as inputs:
            self.fingerprint = self._request.fingerprint(account, inputs.digests)
            return await work(inputs)

    async def _find(self, _: InputImages | None) -> Purchase | None:
        sendings = await self.ledger.sendings() if self._known is None else self._known
        return await self._stored(sendings)

    async def _run(self, inputs: InputImages | None) -> Purchase:
        self._keeper = Keeper(self._tools, self.ledger, self._name, self._request, self.fingerprint)
        if self._terms.is_shared and self._name == IMAGE:
            # Before reuse too: what is reused must not be replaced by a neighbour.
            await self.ledger.take_slot(self._terms.owner, self.fingerprint)
        while True:
            sendings = await self.ledger.sendings() if self._known is None else self._known
            self._known = None
            spent, doubts = await earlier_costs(self._tools.store, self.ledger, self._terms.owner, sendings)
            if spent or doubts:  # a process may have died before it could tell the run
                await self._tools.run_costs.begin(spent, doubts)
            if stored := await self._stored(sendings):
                return stored
            exposed = since_purchase(sendings, self.fingerprint)
            self.exposed, self.unknown = len(exposed), len(unsettled(exposed))
            if await self._others_are_at_it(exposed):
                continue
            unknown = self._bounded(exposed)
            self.spent = spent
            await self._tools.run_costs.begin(spent, doubts)
            await self._prepare(unknown)
            k = next_k(sendings)
            with self._tools.lease.attempt(self._name, k) as heartbeat:
                is_claimed = await self._claim(k, heartbeat)
                bought = await self._buy(k, unknown, inputs) if is_claimed else None
            if bought:
                return bought
            if not is_claimed:
                await self._let_others_go_first(k)

    async def _stored(self, sendings: list[Sending]) -> Purchase | None:
        async for purchase in self.ledger.purchases(sendings, self.fingerprint):
            if await self._is_wanted(purchase, sendings):
                if purchase.record.owner != self._terms.owner:
                    metrics.reused(self._request, len(purchase.record.images))
                return purchase
        return None

    async def _is_wanted(self, purchase: Purchase, sendings: list[Sending]) -> bool:
        """Return whether stored images serve: always those of this same try, which may run for the second time."""
        if not self._terms.reuse and purchase.record.owner != self._terms.owner:
            return False
        return await self.ledger.is_intact(purchase, sendings)

    def _remaining(self) -> float:
        return max(0.0, self._deadline - time.time())

    async def _others_are_at_it(self, sendings: list[Sending]) -> bool:
        """Wait a little if another process may still get the answer to this very request."""
        claim = await self.ledger.live_claim(sendings, self._tools.watch, self._tools.lease)
        if claim is None:
            return False
        if self._remaining() <= self._tools.times.poll:
            raise OutcomeUnknown(
                f"Another process sent this request ({self.ledger.claim_uri(claim)}) and had no answer in time"
            )
        if claim.k != self._waits_for:
            self._waits_for = claim.k
            log.info("Another process is waiting for this request's answer: %s", self.ledger.claim_uri(claim))
        await asyncio.sleep(self._tools.times.poll)
        return True

    def _bounded(self, sendings: list[Sending]) -> int:
        """Return how many earlier sendings have an unknown outcome.

        :raises ResendsExhausted: one more sending is more than the user allows.
        """
        unknown = unsettled(sendings)
        if len(sendings) > self._terms.max_resends:
            claims = ", ".join(self.ledger.claim_uri(s) for s in unknown) or "none"
            raise ResendsExhausted(
                f"Not sent: this request was sent {len(unknown)} time(s) with unknown outcome and "
                f"{len(sendings) - len(unknown)} time(s) paid for without a usable image, and max_resends is "
                f"{self._terms.max_resends}. Raise max_resends, or delete its claims to say that you accept the loss. "
                f"Claims: {claims}"
            )
        if unknown:
            log.warning("Earlier sendings of this request with unknown outcome: %d; sending once more", len(unknown))
        return len(unknown)

    async def _prepare(self, unknown: int) -> None:
        """Do everything that can fail for free, before the claim."""
        if self._remaining() <= 0:
            over = "The time that generation_timeout allows is over"
            if unknown:
                raise OutcomeUnknown(f"{over}; an earlier sending of this request may have been paid for")
            raise TimedOut(f"{over}, and nothing was sent")
        await self._tools.lease.start()
        if not self._checked:
            await self._tools.preflight.check(self._request)
            self._checked = True
        if not isinstance(self._terms, BatchJob):  # a batch has asked already, with what it has in flight
            await self._tools.run_costs.check(self.price_class)

    async def _claim(self, k: int, heartbeat: int) -> bool:
        owner, holder = self._terms.owner, self._tools.lease.holder
        claim = new_claim(self.fingerprint, owner, holder, self._request.model, heartbeat, self.price_class)
        return await self.ledger.claim(k, claim)

    async def _let_others_go_first(self, k: int) -> None:
        """Wait a little after a claim that another process was first to make: the next listing shows it.

        :raises StorageFailed: the listings never show what cannot be created.
        """
        self._refusals = self._refusals + 1 if k == self._refused_k else 1
        self._refused_k = k
        if self._refusals > len(_PAUSES):
            uri = self._tools.store.uri_of(f"{STATE}/{claim_name(self._name, k, self.fingerprint)}")
            raise StorageFailed(
                f"Not sent: the store contradicts itself. {uri} cannot be created, as if it existed, and is in no "
                "listing of its directory. A gateway that changes names or listings does this"
            )
        await asyncio.sleep(_PAUSES[self._refusals - 1])

    async def _buy(self, k: int, unknown: int, inputs: InputImages | None) -> Purchase | None:
        """Send, store, record. Return ``None`` if another process has taken over meanwhile."""
        begun = time.monotonic()
        self._is_in_doubt = True
        try:
            result = await self._send(inputs)
        except DeepshiError as err:
            self.exposed += err.charged != "no"
            self.unknown += err.charged == "unknown"
            await _to_its_end(self._settle(k, unknown, err))
            raise
        except (asyncio.CancelledError, Exception):
            self.exposed += 1
            self.unknown += 1
            await _to_its_end(self._tools.paid(self.price_class, None))
            raise
        else:
            record = await _to_its_end(self._keep(k, unknown, result))
        self._is_in_doubt = False
        log.log(self._tools.image_log_level, "%s in %.1f s", described(record, self._request), time.monotonic() - begun)
        return Purchase(k=k, record=record) if record.kind == "stored" else None

    async def _settle(self, k: int, unknown: int, err: DeepshiError) -> None:
        if err.charged == "yes":
            self.paid.append(paid(err))
        await self._keeper.settle(k, unknown, err)
        if err.charged != "no":
            await self._tools.paid(self.price_class, paid(err))

    async def _keep(self, k: int, unknown: int, result: ImagesResult) -> Record:
        self.paid.append(paid(result))
        try:
            return await self._keeper.keep(k, unknown, result)
        finally:
            await self._tools.paid(self.price_class, paid(result))

    async def _send(self, inputs: InputImages | None) -> ImagesResult:
        if isinstance(self._request, EditRequest):
            assert inputs is not None  # noqa: S101 -- an edit's are read before
            return await self._tools.client.edit(self._request, inputs, timeout=self._remaining())
        return await self._tools.client.generate(self._request, timeout=self._remaining())


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
