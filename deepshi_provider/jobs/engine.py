"""Turns a request into stored images, and pays at most once, or knowingly more often within ``max_resends``.

What remains in the store if the process dies:

- before the claim: nothing was sent, nothing was paid;
- after the claim: the attempt counts as possibly paid until its record is written; ``max_resends`` limits how often the
  request is sent again;
- after the record: the images are proved, and every later try finds them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal

from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.client import metrics
from deepshi_provider.client.client import LEAST_TIME, Interrupted
from deepshi_provider.client.result import ImagesResult
from deepshi_provider.costs.money import paid
from deepshi_provider.costs.tally import Tally
from deepshi_provider.exceptions import DeepshiError, OutcomeUnknown, ResendsExhausted, StorageFailed, TimedOut
from deepshi_provider.jobs.context import JobContext
from deepshi_provider.jobs.fallbacks import Choice, choices, exposed, may_fall_back
from deepshi_provider.jobs.inputs import read_inputs
from deepshi_provider.jobs.own_output import refuse_own_output
from deepshi_provider.jobs.publisher import Publisher, described
from deepshi_provider.jobs.uninterrupted import uninterrupted
from deepshi_provider.journal.account import Reservation
from deepshi_provider.journal.entries import (
    IMAGE,
    Attempt,
    Claim,
    attempt_key,
    claim_name,
    next_k,
    since_purchase,
    unsettled,
)
from deepshi_provider.journal.journal import Purchase
from deepshi_provider.store.store import STATE, CreatedLate, in_time

log = logging.getLogger(__name__)

#: Seconds between the attempts to create a claim that already exists but is not in any listing.
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
#: Seconds for removing the claim of a cancelled request that was not sent; Airflow kills a task after 60.
_LONGEST_WITHDRAWAL = 5.0


class Engine:
    """Runs one request, or one of the job's fallbacks after errors that were certainly free.

    If an attempt of one of them cost money, or may have, that request is sent first, and no other in its place.

    :param name: the name of its images, claims and records, without index and extension.
    :param known: the attempts under this name, if just listed.
    """

    def __init__(
        self, context: JobContext, name: str, request: GenerateRequest, known: list[Attempt] | None = None
    ) -> None:
        self._context = context
        self._job = context.job
        self._journal = context.journal
        self._account = context.account
        self._name = name
        self._choices = [Choice(request=request)]
        self._at = 0
        self._has_fallback = False
        self._failures: list[DeepshiError] = []
        self._deadline = context.job.deadline_from(time.time())
        self._known = known
        self._waits_for: Attempt | None = None
        self._refused, self._refusals = "", 0
        self._is_in_doubt = False
        self._reservation: Reservation | None = None
        self._claimed_at = 0.0

    @property
    def _choice(self) -> Choice:
        return self._choices[self._at]

    @property
    def request(self) -> GenerateRequest:
        """The request that was sent last, or whose stored images were found."""
        return self._choice.request

    @property
    def fallback(self) -> int | None:
        """The position of :attr:`request` in the job's fallbacks, from 0; ``None`` if it is the job's own."""
        return self._at - 1 if self._at else None

    @property
    def fingerprint(self) -> str:
        """The fingerprint of :attr:`request`; ``""`` until its input images are read."""
        return self._choice.fingerprint

    def may_help_to_retry(self, error: DeepshiError) -> bool:
        """Return whether another try may help, after an error of :meth:`run`."""
        return any(err.retryable for err in [*self._failures, error])

    @property
    def exposed(self) -> list[Attempt]:
        """The attempts of all choices that cost money, or may have, each since its last stored images."""
        return exposed(self._choices, self._journal.attempts(self._name))

    async def run(self) -> Purchase:
        """Return the record of the stored images, bought now or earlier.

        :raises DeepshiError: there are no images; ``charged`` shows whether the request was paid for.
        """
        try:
            return await self._bought()
        except DeepshiError:
            raise
        except Exception as err:  # a bug here or in a library: it must not fail other rows and lose their costs
            log.exception("A request failed unexpectedly")
            message = f"Unexpected error ({type(err).__name__}: {str(err)[:200]})"
            if self._is_in_doubt:
                raise OutcomeUnknown(f"{message}; the image may have been paid for", sends=1) from err
            raise DeepshiError(f"{message}, before anything was sent") from err

    async def _bought(self) -> Purchase:
        self._choices = choices(self.request, self._job.fallbacks, self._job.stream)
        with ExitStack() as opened:
            for choice in self._choices:
                await self._identify(choice, opened)
            return await self._buy_or_reuse()

    async def _identify(self, choice: Choice, opened: ExitStack) -> None:
        """Read the input images of a choice, and compute its fingerprint."""
        request, account = choice.request, self._context.client.settings.account
        if isinstance(request, EditRequest):
            refuse_own_output(request, self._name, self._context.store.location)
            first = self._choices[0]
            if (
                choice is not first
                and isinstance(first.request, EditRequest)
                and request.images == first.request.images
            ):
                choice.inputs = first.inputs
            else:
                conn_id, stores = self._job.output_conn_id, self._context.stores
                read = await asyncio.to_thread(read_inputs, request.images, conn_id, stores, request.input_sha256)
                choice.inputs = opened.enter_context(read)
        choice.fingerprint = request.fingerprint(account, choice.inputs.digests if choice.inputs else ())

    async def _attempts(self) -> list[Attempt]:
        known, self._known = self._known, None
        return await self._journal.list_attempts(self._name) if known is None else known

    async def _buy_or_reuse(self) -> Purchase:
        if self._job.is_shared and self._name == IMAGE:
            # Also before reuse: another task of the run must not replace the reused images.
            await self._journal.take_slot(self._name, self._job.owner, self.fingerprint)
        while True:
            attempts = await self._attempts()
            if stored := await self._look_back(attempts):
                return stored
            seen: dict[str, bytes | None] = {}
            if await self._is_under_way_elsewhere(exposed(self._choices, attempts), seen):
                continue
            if seen and not await self._is_still_lost(attempts, seen):
                continue
            try:
                if bought := await self._bought_now(attempts):
                    return bought
            except DeepshiError as err:
                if not self._falls_back(err):
                    raise self._with_failures(err) from err.__cause__

    async def _bought_now(self, attempts: list[Attempt]) -> Purchase | None:
        """Buy the images; return ``None`` if the attempts have changed and must be listed again."""
        in_doubt = (at for at, c in enumerate(self._choices) if since_purchase(attempts, c.fingerprint))
        self._at = next(in_doubt, self._at)
        self._has_fallback = self._at + 1 < len(self._choices) and not exposed(self._choices, attempts)
        unknown = self._check_max_resends(since_purchase(attempts, self.fingerprint))
        await self._prepare(unknown)
        turn = self._context.turn
        number = turn.number
        async with self._account.reserved(self._choice.price_class) as self._reservation:
            if self._reservation.has_waited:
                self._deadline = self._job.deadline_from(time.time())
                if self._remaining() < LEAST_TIME * self._job.generation_timeout:
                    raise TimedOut("Waiting for other requests left too little of generation_timeout; nothing was sent")
                if await self._attempts() != attempts:
                    return None
            # Before the lease lists the attempt: the process that has the turn would wait for it.
            if self._context.needs_turn and (await turn.take(self._recount) or turn.number != number):
                self._deadline = self._job.deadline_from(time.time())
                return None
            # No await between the turn and the lease's list of attempts, for which a recount waits.
            return await self._claim_and_buy(attempts, unknown)

    async def _recount(self) -> None:
        """Add what other processes of this task instance have spent to the account.

        Wait for this process's own requests first: in the journal, their claims are like those of requests that other
        processes have lost. Rows that wait for the turn meanwhile have reservations, but no claims.
        """
        while self._context.lease.attempts:  # noqa: ASYNC110 -- only after a lost turn: not worth an event
            await asyncio.sleep(self._context.times.poll)
        await self._journal.refresh()
        tally = await self._journal.tally(self._job.owner)
        await self._account.recount(tally, await self._context.recent_tally())

    def _falls_back(self, err: DeepshiError) -> bool:
        """Switch to the next choice and return ``True``; return ``False`` if there is none, or it might pay twice."""
        if not may_fall_back(err, on_refusal=self._job.fallback_on_refusal) or self._at + 1 == len(self._choices):
            return False
        if self.exposed:  # an earlier attempt may have been paid for
            return False
        if self._remaining() < LEAST_TIME * self._job.generation_timeout:
            log.warning("No fallback is sent, since less than half of generation_timeout is left")
            return False
        self._failures.append(err)
        log.warning("%s failed, and nothing was charged: %s", self.request.model, err)
        self._at += 1
        log.warning("Sending %s instead: %s", self._choice.where, self.request.model)
        return True

    def _with_failures(self, err: DeepshiError) -> DeepshiError:
        """Add the errors of earlier choices to an error's message."""
        if self._failures and err is not self._account.closed_by:
            before = "; ".join(
                f"{choice.request.model}: {type(failure).__name__}"
                for choice, failure in zip(self._choices, self._failures, strict=False)
            )
            err.message = f"{self.request.model}: {err.message}. These failed before, at no cost: {before}"
            err.args = (err.message,)
            err.sends += self._earlier_sends
        return err

    @property
    def _earlier_sends(self) -> int:
        return sum(failure.sends for failure in self._failures)

    async def _claim_and_buy(self, attempts: list[Attempt], unknown: list[Attempt]) -> Purchase | None:
        """Create the claim and buy the images; return ``None`` if another process was first."""
        k = next_k(attempts, self.fingerprint)
        with self._context.lease.attempt(attempt_key(self._name, k, self.fingerprint)) as heartbeat:
            try:
                is_ours = await self._claim(k, heartbeat)
            except CreatedLate as err:  # the lease lists the attempt during the wait, so that others wait as well
                await self._wait_for_outcome(k, err)
                return None
            if is_ours and len(self._choices) > 1 and await self._has_rival(attempts, k):
                await self._journal.withdraw(self._name, k, self.fingerprint, self._context.lease)
                # Else two processes that withdraw for each other would do so again.
                await asyncio.sleep(random.uniform(0, self._context.times.poll))  # noqa: S311
                return None
            if is_ours:
                return await self._buy(k, unknown)
        await self._wait_for_listing(k)
        return None

    async def _has_rival(self, attempts: list[Attempt], k: int) -> bool:
        """Return whether another process has begun an attempt of one of the choices since the attempts were listed.

        Claims of two choices have different names, so neither process is refused its own.
        """
        own = claim_name(self._name, k, self.fingerprint)
        choices = {choice.fingerprint[:16] for choice in self._choices}
        listed = await self._journal.list_attempts(self._name)
        return any(a.fingerprint in choices and a not in attempts and a.claim != own for a in listed)

    async def _look_back(self, attempts: list[Attempt]) -> Purchase | None:
        """Return usable stored images, or ``None``; pass the costs of earlier tries to the account."""
        earlier = Tally()
        if not self._account.has_begun:
            earlier = await self._journal.tally_of(self._job.owner, self._name)
        if earlier:  # a process may have died before it could report its costs
            recent = self._journal.known_tally_of(self._job.owner, self._name, self._account.counts_since or 0.0)
            await self._account.begin(earlier, recent)
        return await self._stored(attempts)

    async def _stored(self, attempts: list[Attempt]) -> Purchase | None:
        for at, choice in enumerate(self._choices):
            async for purchase in self._journal.purchases(attempts, choice.fingerprint):
                if self._job.may_use(purchase.record) and await self._journal.is_intact(self._name, purchase, attempts):
                    self._at = at
                    if purchase.record.owner != self._job.owner:
                        metrics.reused(choice.request, len(purchase.record.images))
                    return purchase
        return None

    def _remaining(self) -> float:
        return max(0.0, self._deadline - time.time())

    async def _is_under_way_elsewhere(self, attempts: list[Attempt], seen: dict[str, bytes | None]) -> bool:
        """Return whether another process may still get the answer to this request; if so, wait a little first."""
        claim = await self._journal.live_claim(self._name, attempts, self._context.watch, self._context.lease, seen)
        if claim is None:
            return False
        uri = self._journal.claim_uri(claim)
        if self._remaining() <= self._context.times.poll:
            raise OutcomeUnknown(f"Another process sent this request ({uri}) and got no answer in time")
        if claim != self._waits_for:
            self._waits_for = claim
            log.info("Another process is waiting for this request's answer: %s", uri)
        await asyncio.sleep(self._context.times.poll)
        return True

    async def _is_still_lost(self, attempts: list[Attempt], seen: dict[str, bytes | None]) -> bool:
        """Return whether claims without a live process are still unsettled, and still the same ones.

        A process may record its images and end, or withdraw its claim for another one to make, between the listing
        and the look at its lease.
        """
        if await self._journal.list_attempts(self._name) != attempts:
            return False
        return await self._journal.are_unchanged(seen)

    def _check_max_resends(self, attempts: list[Attempt]) -> list[Attempt]:
        """Return the earlier attempts with unknown outcome.

        :raises ResendsExhausted: ``max_resends`` does not allow another attempt.
        """
        unknown = unsettled(attempts)
        if len(attempts) > self._job.max_resends:
            claims = ", ".join(self._journal.claim_uri(a) for a in unknown) or "none"
            raise ResendsExhausted(
                f"Not sent: this request was sent {len(unknown)} time(s) with unknown outcome and "
                f"{len(attempts) - len(unknown)} time(s) paid for without a usable image, and max_resends is "
                f"{self._job.max_resends}. Raise max_resends, or delete its claims if you accept the loss. "
                f"Claims: {claims}"
            )
        if unknown:
            log.warning("Earlier attempts of this request with unknown outcome: %d; sending it again", len(unknown))
        return unknown

    async def _prepare(self, unknown: list[Attempt]) -> None:
        """Do everything that can fail at no cost, before the claim."""
        if self._remaining() <= 0:
            over = "generation_timeout has passed"
            if unknown:
                raise OutcomeUnknown(f"{over}; an earlier attempt of this request may have been paid for")
            raise TimedOut(f"{over}, and nothing was sent")
        if not self._account.has_begun:
            await self._account.begin(Tally())
        await self._context.lease.start()
        for choice in reversed(self._choices[self._at :]):  # check all before the first may fail
            await self._context.preflight.check(choice.request, choice.inputs, choice.where)

    async def _claim(self, k: int, heartbeat: int) -> bool:
        self._claimed_at = time.time()
        claim = Claim(
            fingerprint=self.fingerprint,
            owner=self._job.owner,
            lease_owner=self._context.lease.owner,
            model=self.request.model,
            price_class=self._choice.price_class,
            claimed_at=self._claimed_at,
            heartbeat=heartbeat,
        )
        return await self._journal.claim(self._name, k, claim)

    async def _wait_for_listing(self, k: int) -> None:
        """Wait a little after another process has created the claim first, so that the next listing shows it.

        :raises StorageFailed: the claim cannot be created, but is in no listing.
        """
        refused = claim_name(self._name, k, self.fingerprint)
        self._refusals = self._refusals + 1 if refused == self._refused else 1
        self._refused = refused
        if self._refusals > len(_PAUSES):
            uri = self._context.store.uri_of(f"{STATE}/{refused}")
            raise StorageFailed(
                f"Not sent: the store contradicts itself. {uri} cannot be created, as if it existed, but is in no "
                "listing of its directory. Check for a gateway that changes names or listings"
            )
        await asyncio.sleep(_PAUSES[self._refusals - 1])

    async def _wait_for_outcome(self, k: int, late: CreatedLate) -> None:
        """Wait until a claim that another process may have made first has a record.

        :raises OutcomeUnknown: it has none before the deadline.
        """
        log.warning("Nothing was sent yet: %s. Waiting for its answer", late)
        while self._remaining() > self._context.times.poll:
            await asyncio.sleep(self._context.times.poll)
            listed = unsettled(await self._journal.list_attempts(self._name))
            if (k, self.fingerprint[:16]) not in ((attempt.k, attempt.fingerprint) for attempt in listed):
                return
        raise OutcomeUnknown(f"{late}, and had no answer in time. This task sent nothing")

    async def _buy(self, k: int, unknown: list[Attempt]) -> Purchase:
        """Send the request, store the images, write the record; return the purchase whose images are in place."""
        publisher = Publisher(self._context, self._name, self.request, self.fingerprint, k, unknown)
        self._is_in_doubt = True
        arrived: list[ImagesResult | DeepshiError] = []
        try:
            result = await self._send(arrived.append)
        except DeepshiError as err:
            await uninterrupted(self._settle(publisher, err))
            self._is_in_doubt = err.charged != "no"
            if rival := await self._rival(publisher, err):
                return rival
            raise
        except (asyncio.CancelledError, Exception):
            await uninterrupted(self._keep(publisher, *arrived))
            raise
        purchase = await uninterrupted(self._publish(publisher, result))
        self._is_in_doubt = False
        return purchase

    async def _keep(self, publisher: Publisher, arrived: ImagesResult | DeepshiError | None = None) -> None:
        """Store what had arrived when the request was cancelled, or record what it cost.

        :param arrived: ``None`` if the request had not left.
        """
        if isinstance(arrived, ImagesResult):
            with contextlib.suppress(StorageFailed):  # it is logged, and the sheet has the cost
                await self._publish(publisher, arrived)
        elif arrived:
            await self._settle(publisher, arrived)
        else:
            self._is_in_doubt = False
            free = DeepshiError("Interrupted before it was sent")
            with contextlib.suppress(StorageFailed):  # a claim that stays limits later tries, but costs nothing
                await in_time(publisher.settle(free), _LONGEST_WITHDRAWAL)

    async def _rival(self, publisher: Publisher, err: DeepshiError) -> Purchase | None:
        """Return the images that another process has stored while this one's attempt failed."""
        try:
            rival = await publisher.rival()
        except StorageFailed:
            return None  # the next try will look again
        if rival:
            log.warning("Another process has stored images of this request, although this attempt failed: %s", err)
        return rival

    async def _settle(self, publisher: Publisher, err: DeepshiError) -> None:
        now = time.time()
        await publisher.settle(err)
        if err.charged == "yes":
            await self._count(paid(err), now)
        elif err.charged == "unknown":
            await self._count(None, self._claimed_at)  # also if 0 was reported, which is no price

    async def _publish(self, publisher: Publisher, result: ImagesResult) -> Purchase:
        """Store the images and write the record; return the purchase whose images are in place."""
        recorded_at: float | None = None
        with result:
            try:
                published = await publisher.publish(replace(result, sends=result.sends + self._earlier_sends))
                recorded_at = published[0].recorded_at
            finally:
                await self._count(paid(result), recorded_at or time.time())
        record, purchase = published
        level = self._context.image_log_level
        log.log(level, "%s in %.1f s", described(record, self.request), record.recorded_at - self._claimed_at)
        return purchase

    async def _count(self, cost_usd: Decimal | None, at: float) -> None:
        """Add a cost to the account, at the time of its record or claim, which later tries will use too."""
        await self._account.add(self._choice.price_class, cost_usd, at=at, reservation=self._reservation)

    async def _send(self, interrupted: Interrupted) -> ImagesResult:
        client, timeout, counts_refusals = self._context.client, self._remaining(), self._has_fallback
        if isinstance(self.request, EditRequest):
            inputs = self._choice.inputs
            assert inputs is not None  # noqa: S101 -- the inputs of an edit are already read
            return await client.edit(
                self.request, inputs, timeout=timeout, counts_refusals=counts_refusals, interrupted=interrupted
            )
        return await client.generate(
            self.request, timeout=timeout, counts_refusals=counts_refusals, interrupted=interrupted
        )
