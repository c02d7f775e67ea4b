"""Stores the images of an answer, then writes the record."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepshi_provider.api.one_colour import is_one_colour
from deepshi_provider.api.postcheck import added, mismatches
from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.client.result import Image, ImagesResult
from deepshi_provider.costs.money import plain, usd
from deepshi_provider.costs.price_class import price_class
from deepshi_provider.exceptions import DeepshiError, StorageFailed
from deepshi_provider.jobs.context import JobContext
from deepshi_provider.journal.entries import Attempt, Record, RecordKind, StoredImage
from deepshi_provider.journal.journal import Purchase
from deepshi_provider.journal.sheets import plain_uri
from deepshi_provider.store.store import in_thread

log = logging.getLogger(__name__)

#: Maximum characters in a record of a field other than the prompt.
_LONGEST_FIELD = 500
#: Maximum number of times to put images in place while another process does the same.
_MOST_ROUNDS = 5


class Publisher:
    """Stores images and record of one attempt.

    :param name: the name of its images, claims and records, without index and extension.
    :param k: the attempt's number.
    :param unknown: earlier attempts of the request that may have been paid for.
    """

    def __init__(
        self,
        context: JobContext,
        name: str,
        request: GenerateRequest,
        fingerprint: str,
        k: int,
        unknown: Sequence[Attempt],
    ) -> None:
        self._context = context
        self._store = context.store
        self._journal = context.journal
        self._name = name
        self._request = request
        self._fingerprint = fingerprint
        self._k = k
        self._unknown = unknown

    async def settle(self, err: DeepshiError) -> None:
        """Record whether a failed attempt was free, paid for, or has an unknown outcome.

        If the store fails, the claim is kept: the attempt counts as one with unknown outcome.
        """
        lost: Record | None = None
        try:
            if err.charged == "no":
                await self._journal.withdraw(self._name, self._k, self._fingerprint, self._context.lease)
            elif err.charged == "yes":
                costs = {"cost_usd": err.cost_usd, "cost_is_complete": err.cost_is_complete, "sends": err.sends}
                lost = self._record("lost", **costs)
                await self._journal.settle(self._name, self._k, lost)
        except StorageFailed as again:
            log.warning("The outcome of the request could not be recorded, so it counts as unknown: %s", again)
            if lost:
                self._journal.keep(self._name, self._k, lost)

    async def publish(self, result: ImagesResult) -> tuple[Record, Purchase]:
        """Put paid images in place and record them; keep trying while the store fails.

        Return the attempt's record, and the purchase whose images are in place: this one's, unless another process has
        stored images of the same request meanwhile.

        :raises StorageFailed: the store kept failing; the images are saved on this machine.
        """
        try:
            one_colour = await in_thread(functools.partial(_of_one_colour, result))
            rival = await self._put_in_place(result)
            record = self._record_of(result, "superseded" if rival else "stored", one_colour)
            await self._journal.settle(self._name, self._k, record)
        except Exception as err:  # any error: the money is spent, and only this process knows the cost
            self._journal.keep(self._name, self._k, self._record_of(result, "lost"))
            if not isinstance(err, StorageFailed):
                raise
            rescued = await in_thread(_rescued, err, result)
            log.error("%s", rescued)  # noqa: TRY400 -- a trigger shows only a part of the message
            raise rescued from err
        return record, rival or Purchase(k=self._k, record=record)

    async def rival(self) -> Purchase | None:
        """Return the images of the same request that another process has stored since this one's claim, if in place.

        Two processes can be at one request only if one took over because the other seemed dead: one of them had a gap
        in its heartbeats, or the other's attempt counted as one with unknown outcome. What counts is what is stored:
        an attempt that was free, is lost or is still under way has no images for which these may be discarded.

        :raises StorageFailed: the store cannot be read.
        """
        if not self._is_contested:
            return None
        attempts = await self._journal.list_attempts(self._name)
        unknown = [attempt.k for attempt in self._unknown]
        others = [attempt for attempt in attempts if attempt.k > self._k or attempt.k in unknown]
        async for purchase in self._journal.purchases(others, self._fingerprint):
            if await self._journal.is_intact(self._name, purchase, attempts):
                return purchase
        return None

    @property
    def _is_contested(self) -> bool:
        return bool(self._unknown) or self._context.lease.lapsed_since(0.0)

    async def _put_in_place(self, result: ImagesResult) -> Purchase | None:
        """Put all images in place; return another process's purchase instead if that is in place."""
        for _ in range(_MOST_ROUNDS):
            for image in result.images:
                if rival := await self._store.patiently(functools.partial(self._put, image)):
                    return rival
            # Both may have put theirs at once; without this, a mixture of both could remain.
            if rival := await self._store.patiently(self.rival):
                return rival
            if await self._store.patiently(functools.partial(self._is_in_place, result)):
                break
        return None

    async def _put(self, image: Image) -> Purchase | None:
        """Put an image in place unless another process has stored its own, which is checked before each try."""
        if rival := await self.rival():
            return rival
        await self._store.publish(self._image_name(image), image.open, image.media_type)
        return None

    async def _is_in_place(self, result: ImagesResult) -> bool:
        if not self._is_contested:
            return True
        return await self._journal.are_intact(self._stored_images(result), compare=True)

    def _image_name(self, image: Image) -> str:
        return f"{self._name}-{image.index}.{image.extension}"

    def _warnings(self, result: ImagesResult, one_colour: Sequence[int]) -> list[str]:
        """Return all mismatches; log those that were not logged with the answer."""
        warnings = added(result.warnings, mismatches(self._request, result.images, one_colour))
        level = logging.WARNING if self._context.image_log_level >= logging.INFO else logging.DEBUG
        for warning in warnings[len(result.warnings) :]:
            log.log(level, "%s", warning)
        return warnings

    def _stored_images(self, result: ImagesResult) -> list[StoredImage]:
        return [
            StoredImage(
                uri=self._store.uri_of(self._image_name(image)),
                index=image.index,
                media_type=image.media_type,
                width=image.width,
                height=image.height,
                size_bytes=image.size_bytes,
                sha256=image.sha256,
                revised_prompt=image.revised_prompt if self._context.keeps_prompts else None,
            )
            for image in result.images
        ]

    def _record_of(self, result: ImagesResult, kind: RecordKind, one_colour: Sequence[int] = ()) -> Record:
        return self._record(
            kind,
            images=self._stored_images(result) if kind == "stored" else [],
            model=result.model or self._request.model,
            size=result.size,
            created=result.created,
            usage=plain(result.usage),
            cost_usd=result.cost_usd,
            cost_is_complete=result.cost_is_complete,
            sends=result.sends,
            one_colour=list(one_colour),
            warnings=self._warnings(result, one_colour) if kind == "stored" else result.warnings,
        )

    def _record(self, kind: RecordKind, **fields: Any) -> Record:
        return Record(
            kind=kind,
            fingerprint=self._fingerprint,
            owner=self._context.job.owner,
            lease_owner=self._context.lease.owner,
            price_class=price_class(self._request),
            unknown_outcomes=len(self._unknown),
            recorded_at=time.time(),
            request=_shown(self._request, with_prompt=self._context.keeps_prompts),
            **{"model": self._request.model, **fields},
        )


def _of_one_colour(result: ImagesResult) -> list[int]:
    found = []
    for image in result.images:
        with contextlib.suppress(OSError), image.open() as file:  # a paid image is stored in any case
            if is_one_colour(file, image.media_type, image.width, image.height, image.size_bytes):
                found.append(image.index)
    return found


def _shown(request: GenerateRequest, *, with_prompt: bool) -> dict[str, Any]:
    """Return a request's fields for its record; very long ones, such as a mask, are cut."""
    fields = {name: _cut(value) for name, value in request.picture_fields().items() if name != "prompt"}
    prompt = {"prompt": request.prompt} if with_prompt else {}
    uris = request.images if isinstance(request, EditRequest) else []
    return {**prompt, **fields, **({"images": [_cut(plain_uri(uri)) for uri in uris]} if uris else {})}


def _cut(value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value)
    return value if len(text) <= _LONGEST_FIELD else f"{text[:_LONGEST_FIELD]}…"


def _rescued(err: StorageFailed, result: ImagesResult) -> StorageFailed:
    """Save paid images on this machine, and return an error that says where."""
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
    """Save images into a new local directory; return their paths, and the error if one could not be saved."""
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
    """Return the log line for a paid request."""
    cost = "cost not reported" if record.cost_usd is None else f"cost {usd(record.cost_usd)}"
    if record.kind != "stored":
        return (
            f"Another process has stored images of this request; an image of {record.model} was paid for and "
            f"discarded, {cost}"
        )
    uris = ", ".join(image.uri for image in record.images)
    return f"{request.operation.capitalize()} with {record.model}: {record.size}, {cost}, stored as {uris}"
