"""From a request to stored images, paying at most once, and never unnoticed more than once.

What is durable when a process dies, by line of :meth:`Engine._buy`:

- before the claim: nothing was sent, nothing was paid;
- after the claim: the sending counts as possibly paid until its record is written; ``max_resends`` bounds how often it
  is sent again;
- after the record: the images are proved, and found again by every later try.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import tempfile
import time
from pathlib import Path

from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.exceptions import DeepshiError, OutcomeUnknown, ResendsExhausted, StorageFailed, TimedOut
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.inputs import InputImages
from deepshi_provider.hooks.result import Image, ImagesResult
from deepshi_provider.jobs.job import IMAGE, Job
from deepshi_provider.jobs.lease import Lease, Watch
from deepshi_provider.jobs.ledger import Ledger, Purchase, new_claim
from deepshi_provider.jobs.preflight import preflight
from deepshi_provider.manifest import Record, Sending, StoredImage, next_k, plain, since_purchase, unsettled
from deepshi_provider.storage import Store, in_thread

log = logging.getLogger(__name__)

#: Seconds between two looks at another process that may be waiting for the same answer.
POLL = 2.0


class Engine:
    """Carries out one job; :meth:`run` is its only use.

    :param hook: to send with, its session open.
    :param lease: this process's sign of life.
    :ivar fingerprint: of the request; ``""`` until its input images were read.
    """

    def __init__(self, job: Job, hook: DeepshiHook, store: Store, lease: Lease) -> None:
        self._job = job
        self._hook = hook
        self._store = store
        self._lease = lease
        self._watch = Watch(store)
        self._request = job.request
        self.fingerprint = ""
        self._checked = False
        self._waits_for = 0
        self.ledger = Ledger(store, IMAGE)

    async def run(self) -> Purchase:
        """Return the record of the stored images, bought now or earlier.

        :raises DeepshiError: there are none; ``charged`` tells what was paid.
        """
        if not isinstance(self._request, EditRequest):
            return await self._run(None)
        with await self._hook.aread_inputs(self._request, self._images_conn_id) as inputs:
            return await self._run(inputs)

    @property
    def _images_conn_id(self) -> str | None:
        return self._job.output_conn_id

    async def _run(self, inputs: InputImages | None) -> Purchase:
        account = (await self._hook.asettings()).account
        self.fingerprint = self._request.fingerprint(account, inputs.digests if inputs else ())
        while True:
            sendings = await self.ledger.sendings()
            purchase = await self.ledger.newest_purchase(sendings, self.fingerprint)
            if purchase and await self._is_wanted(purchase, sendings):
                return purchase
            exposed = since_purchase(sendings, self.fingerprint)
            if await self._others_are_at_it(exposed):
                continue
            unknown = self._bounded(exposed)
            await self._prepare(unknown)
            k = next_k(sendings)
            if not await self._claim(k):
                continue
            bought = await self._buy(k, unknown, inputs)
            if bought:
                return bought

    async def _is_wanted(self, purchase: Purchase, sendings: list[Sending]) -> bool:
        """Return whether stored images serve: always those of this same try, which may run for the second time."""
        if not self._job.reuse and purchase.record.owner != self._job.owner:
            return False
        return await self.ledger.is_intact(purchase, sendings)

    async def _others_are_at_it(self, sendings: list[Sending]) -> bool:
        """Wait a little if another process may still get the answer to this very request."""
        claim = await self.ledger.live_claim(sendings, self._watch)
        if claim is None:
            return False
        if self._job.remaining() <= POLL:
            raise OutcomeUnknown(
                f"Another process sent this request ({self.ledger.claim_uri(claim)}) and had no answer in time"
            )
        if claim.k != self._waits_for:
            self._waits_for = claim.k
            log.info("Another process is waiting for this request's answer: %s", self.ledger.claim_uri(claim))
        await asyncio.sleep(POLL)
        return True

    def _bounded(self, sendings: list[Sending]) -> int:
        """Return how many earlier sendings have an unknown outcome.

        :raises ResendsExhausted: one more sending is more than the user allows.
        """
        unknown = unsettled(sendings)
        if len(sendings) > self._job.max_resends:
            claims = ", ".join(self.ledger.claim_uri(s) for s in unknown) or "none"
            raise ResendsExhausted(
                f"Not sent: this request was sent {len(unknown)} time(s) with unknown outcome and "
                f"{len(sendings) - len(unknown)} time(s) paid for without a usable image, and max_resends is "
                f"{self._job.max_resends}. Raise max_resends, or delete its claims to say that you accept the loss. "
                f"Claims: {claims}"
            )
        if unknown:
            log.warning("Earlier sendings of this request with unknown outcome: %d; sending once more", len(unknown))
        return len(unknown)

    async def _prepare(self, unknown: int) -> None:
        """Do everything that can fail for free, before the claim."""
        if self._job.remaining() <= 0:
            over = "The time that generation_timeout allows is over"
            if unknown:
                raise OutcomeUnknown(f"{over}; an earlier sending of this request may have been paid for")
            raise TimedOut(f"{over}, and nothing was sent")
        await self._lease.start()
        if not self._checked:
            if self._job.owner.map_index >= 0:
                await self.ledger.take_slot(self._job.owner)
            await preflight(self._hook, self._request, self._job.preflight)
            self._checked = True

    async def _claim(self, k: int) -> bool:
        claim = new_claim(self.fingerprint, self._job.owner, self._lease.holder, self._request.model)
        return await self.ledger.claim(k, claim)

    async def _buy(self, k: int, unknown: int, inputs: InputImages | None) -> Purchase | None:
        """Send, store, record. Return ``None`` if another process has taken over meanwhile."""
        begun = time.monotonic()
        try:
            result = await self._send(inputs)
        except DeepshiError as err:
            await self._settle_failure(k, unknown, err)
            raise
        # Paid: from here on a cancellation waits until the images are safe.
        keeping = asyncio.ensure_future(self._keep(k, unknown, result))
        try:
            record = await asyncio.shield(keeping)
        except asyncio.CancelledError:
            await asyncio.wait([keeping])
            raise
        seconds = time.monotonic() - begun
        log.info("%s in %.1f s", _said(record, self._request), seconds)
        return Purchase(k=k, record=record) if record.kind == "stored" else None

    async def _send(self, inputs: InputImages | None) -> ImagesResult:
        if isinstance(self._request, EditRequest):
            return await self._hook.aedit(self._request, inputs=inputs, timeout=self._job.remaining())
        return await self._hook.agenerate(self._request, timeout=self._job.remaining())

    async def _settle_failure(self, k: int, unknown: int, err: DeepshiError) -> None:
        if err.charged == "no":
            await self.ledger.withdraw(k, self.fingerprint)
        elif err.charged == "yes":
            lost = Record(
                kind="lost",
                fingerprint=self.fingerprint,
                owner=self._job.owner,
                cost_usd=err.cost_usd,
                sends=err.sends,
                unknown_outcomes=unknown,
                recorded_at=time.time(),
            )
            await self.ledger.record(k, lost)

    async def _keep(self, k: int, unknown: int, result: ImagesResult) -> Record:
        """Put paid images in place and record them, whatever it takes."""
        with result:
            try:
                # Without a gap in its sign of life nobody can have taken this process for dead.
                superseded = self._lease.lapsed and await self._store.patiently(lambda: self._was_superseded(k))
                if not superseded:
                    for image in result.images:
                        await self._store.patiently(functools.partial(self._publish, image))
                record = self._record(result, unknown, superseded=superseded)
                await self.ledger.record(k, record)
            except StorageFailed as err:
                raise await in_thread(_rescued, err, result) from err
            return record

    async def _was_superseded(self, k: int) -> bool:
        sendings = await self.ledger.sendings()
        return any(s.k > k and s.fingerprint == self.fingerprint[:16] for s in sendings)

    async def _publish(self, image: Image) -> None:
        await self._store.publish(self._image_name(image), image.open, image.media_type)

    def _image_name(self, image: Image) -> str:
        return f"{IMAGE}-{image.index}.{image.extension}"

    def _record(self, result: ImagesResult, unknown: int, *, superseded: bool) -> Record:
        images = [
            StoredImage(
                uri=self._store.uri_of(self._image_name(image)),
                index=image.index,
                media_type=image.media_type,
                width=image.width,
                height=image.height,
                size_bytes=image.size_bytes,
                sha256=image.sha256,
                revised_prompt=image.revised_prompt,
            )
            for image in result.images
        ]
        return Record(
            kind="superseded" if superseded else "stored",
            fingerprint=self.fingerprint,
            owner=self._job.owner,
            images=[] if superseded else images,
            model=result.model or self._request.model,
            size=result.size,
            created=result.created,
            usage=plain(result.usage),
            cost_usd=result.cost_usd,
            sends=result.sends,
            unknown_outcomes=unknown,
            recorded_at=time.time(),
        )


def _rescued(err: StorageFailed, result: ImagesResult) -> StorageFailed:
    """Save paid images on this machine, since the store does not take them, and say where."""
    folder = Path(tempfile.mkdtemp(prefix="deepshi-rescued-"))
    saved = [str(image.save(folder / f"image-{image.index}.{image.extension}")) for image in result.images]
    return StorageFailed(
        f"{err.message}. The images were paid for; they are saved on {socket.gethostname()}: {', '.join(saved)}",
        charged="yes",
        cost_usd=result.cost_usd,
        sends=result.sends,
    )


def _said(record: Record, request: GenerateRequest) -> str:
    cost = "cost not told" if record.cost_usd is None else f"cost ${record.cost_usd}"
    if record.kind != "stored":
        return f"Another process took over; an image of {record.model} was paid for and thrown away, {cost}"
    uris = ", ".join(image.uri for image in record.images)
    return f"{request.operation.capitalize()} with {record.model}: {record.size}, {cost}, stored as {uris}"
