"""After the answer: put paid images in place, and write down what became of the money."""

from __future__ import annotations

import functools
import logging
import socket
import tempfile
import time
from pathlib import Path

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.client.result import Image, ImagesResult
from deepshi_provider.costs.price_class import price_class
from deepshi_provider.costs.sheet import usd
from deepshi_provider.exceptions import DeepshiError, StorageFailed
from deepshi_provider.jobs.context import Tools
from deepshi_provider.journal.entries import Record, StoredImage, plain
from deepshi_provider.journal.journal import Ledger
from deepshi_provider.store.store import in_thread

log = logging.getLogger(__name__)


class Keeper:
    """Keeps what one request brought."""

    def __init__(self, tools: Tools, ledger: Ledger, name: str, request: GenerateRequest, fingerprint: str) -> None:
        self._tools = tools
        self._terms = tools.terms
        self._ledger = ledger
        self._name = name
        self._request = request
        self._fingerprint = fingerprint

    async def settle(self, k: int, unknown: int, err: DeepshiError) -> None:
        """Write down what a failure means for the money: nothing, a loss, or that nobody knows.

        If the store does not take it, the claim stands: the sending counts as one whose outcome is unknown.
        """
        try:
            await self._settle(k, unknown, err)
        except StorageFailed as again:
            log.warning("What became of the request could not be written down: %s", again)

    async def _settle(self, k: int, unknown: int, err: DeepshiError) -> None:
        if err.charged == "no":
            await self._ledger.withdraw(k, self._fingerprint)
        elif err.charged == "yes":
            lost = Record(
                kind="lost",
                fingerprint=self._fingerprint,
                owner=self._terms.owner,
                holder=self._tools.lease.holder,
                model=self._request.model,
                price_class=price_class(self._request),
                cost_usd=err.cost_usd,
                cost_is_complete=err.cost_is_complete,
                sends=err.sends,
                unknown_outcomes=unknown,
                recorded_at=time.time(),
            )
            await self._ledger.record(k, lost)

    async def keep(self, k: int, unknown: int, result: ImagesResult) -> Record:
        """Put paid images in place and record them, whatever it takes."""
        with result:
            try:
                superseded = False
                for image in result.images:
                    superseded = superseded or not await self._tools.store.patiently(
                        functools.partial(self._publish, k, image)
                    )
                superseded = superseded or await self._tools.store.patiently(functools.partial(self._was_superseded, k))
                record = self._record(result, unknown, superseded=superseded)
                await self._ledger.record(k, record)
            except StorageFailed as err:
                rescued = await in_thread(_rescued, err, result)
                log.error("%s", rescued)  # noqa: TRY400 -- a trigger shows only a part of the message
                raise rescued from err
            return record

    async def _was_superseded(self, k: int) -> bool:
        """Return whether another process has sent this request since: only a gap in the sign of life lets it."""
        if not self._tools.lease.lapsed:
            return False
        sendings = await self._ledger.sendings()
        return any(s.k > k and s.fingerprint == self._fingerprint[:16] for s in sendings)

    async def _publish(self, k: int, image: Image) -> bool:
        """Put an image in place, unless another process has taken over; asked at each try, however long they take."""
        if await self._was_superseded(k):
            return False
        await self._tools.store.publish(self._image_name(image), image.open, image.media_type)
        return True

    def _image_name(self, image: Image) -> str:
        return f"{self._name}-{image.index}.{image.extension}"

    def _record(self, result: ImagesResult, unknown: int, *, superseded: bool) -> Record:
        images = [
            StoredImage(
                uri=self._tools.store.uri_of(self._image_name(image)),
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
            fingerprint=self._fingerprint,
            owner=self._terms.owner,
            holder=self._tools.lease.holder,
            images=[] if superseded else images,
            model=result.model or self._request.model,
            price_class=price_class(self._request),
            size=result.size,
            created=result.created,
            usage=plain(result.usage),
            cost_usd=result.cost_usd,
            cost_is_complete=result.cost_is_complete,
            sends=result.sends,
            unknown_outcomes=unknown,
            warnings=result.warnings,
            recorded_at=time.time(),
        )


def _rescued(err: StorageFailed, result: ImagesResult) -> StorageFailed:
    """Save paid images on this machine, since the store does not take them, and say where."""
    saved, problem = _saved(result)
    here = f"on {socket.gethostname()}"
    parts = [f"they are saved {here}: {', '.join(saved)}"] if saved else []
    if problem:
        count = f"{len(result.images) - len(saved)} of {len(result.images)}"
        parts.append(f"{count} could not be saved {here} either ({problem}), and are lost")
    return StorageFailed(
        f"Paid images could not be stored; {'; '.join(parts)}. {err.message}",
        charged="yes",
        cost_usd=result.cost_usd,
        cost_is_complete=result.cost_is_complete,
        sends=result.sends,
    )


def _saved(result: ImagesResult) -> tuple[list[str], OSError | None]:
    """Save images into a new local directory; return their paths, and why others could not be saved."""
    saved: list[str] = []
    problem = folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix="deepshi-rescued-"))
        for image in result.images:
            saved.append(str(image.save(folder / f"image-{image.index}.{image.extension}")))
    except OSError as err:
        problem = err
    if folder and not saved:
        folder.rmdir()
    return saved, problem


def described(record: Record, request: GenerateRequest) -> str:
    """Return the line that an on-call engineer reads about a paid request."""
    cost = "cost not reported" if record.cost_usd is None else f"cost {usd(record.cost_usd)}"
    if record.kind != "stored":
        return f"Another process took over; an image of {record.model} was paid for and thrown away, {cost}"
    uris = ", ".join(image.uri for image in record.images)
    return f"{request.operation.capitalize()} with {record.model}: {record.size}, {cost}, stored as {uris}"
