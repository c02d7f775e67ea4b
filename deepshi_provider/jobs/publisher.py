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
from deepshi_provider.journal.entries import Record, RecordKind, StoredImage
from deepshi_provider.journal.sheets import plain_uri
from deepshi_provider.store.store import in_thread

log = logging.getLogger(__name__)

#: Maximum characters in a record of a field other than the prompt.
_LONGEST_FIELD = 500


class Publisher:
    """Stores images and records of the attempts of one request.

    :param name: the name of its images, claims and records, without index and extension.
    """

    def __init__(self, context: JobContext, name: str, request: GenerateRequest, fingerprint: str) -> None:
        self._context = context
        self._store = context.store
        self._journal = context.journal
        self._name = name
        self._request = request
        self._fingerprint = fingerprint

    async def settle(self, k: int, unknown: int, err: DeepshiError) -> None:
        """Record whether a failed attempt was free, paid for, or has an unknown outcome.

        If the store fails, the claim is kept: the attempt counts as one with unknown outcome.
        """
        lost: Record | None = None
        try:
            if err.charged == "no":
                await self._journal.withdraw(self._name, k, self._fingerprint, self._context.lease)
            elif err.charged == "yes":
                costs = {"cost_usd": err.cost_usd, "cost_is_complete": err.cost_is_complete, "sends": err.sends}
                lost = self._record("lost", unknown, **costs)
                await self._journal.settle(self._name, k, lost)
        except StorageFailed as again:
            log.warning("The outcome of the request could not be recorded, so it counts as unknown: %s", again)
            if lost:
                self._journal.keep(self._name, k, lost)

    async def publish(self, k: int, unknown: int, result: ImagesResult) -> Record:
        """Put paid images in place and record them; keep trying while the store fails.

        :raises StorageFailed: the store kept failing; the images are saved on this machine.
        """
        with result:
            try:
                superseded = False
                one_colour = await in_thread(functools.partial(_of_one_colour, result))
                for image in result.images:
                    superseded = superseded or not await self._store.patiently(functools.partial(self._put, k, image))
                superseded = superseded or await self._store.patiently(functools.partial(self._was_superseded, k))
                record = self._record_of(result, "superseded" if superseded else "stored", unknown, one_colour)
                await self._journal.settle(self._name, k, record)
            except Exception as err:  # any error: the money is spent, and only this process knows the cost
                self._journal.keep(self._name, k, self._record_of(result, "lost", unknown))
                if not isinstance(err, StorageFailed):
                    raise
                rescued = await in_thread(_rescued, err, result)
                log.error("%s", rescued)  # noqa: TRY400 -- a trigger shows only a part of the message
                raise rescued from err
            return record

    async def _was_superseded(self, k: int) -> bool:
        """Return whether another process has sent this request since, which needs a gap in this one's heartbeats."""
        if not self._context.lease.lapsed_since(0.0):
            return False
        attempts = await self._journal.list_attempts(self._name)
        return any(a.k > k and a.fingerprint == self._fingerprint[:16] for a in attempts)

    async def _put(self, k: int, image: Image) -> bool:
        """Put an image in place unless another process has taken over, which is checked before each try."""
        if await self._was_superseded(k):
            return False
        await self._store.publish(self._image_name(image), image.open, image.media_type)
        return True

    def _image_name(self, image: Image) -> str:
        return f"{self._name}-{image.index}.{image.extension}"

    def _warnings(self, result: ImagesResult, one_colour: Sequence[int]) -> list[str]:
        """Return all mismatches; log those that were not logged with the answer."""
        warnings = added(result.warnings, mismatches(self._request, result.images, one_colour))
        level = logging.WARNING if self._context.image_log_level >= logging.INFO else logging.DEBUG
        for warning in warnings[len(result.warnings) :]:
            log.log(level, "%s", warning)
        return warnings

    def _record_of(
        self, result: ImagesResult, kind: RecordKind, unknown: int, one_colour: Sequence[int] = ()
    ) -> Record:
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
        return self._record(
            kind,
            unknown,
            images=images if kind == "stored" else [],
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

    def _record(self, kind: RecordKind, unknown: int, **fields: Any) -> Record:
        """Return a record of the attempt.

        :param unknown: earlier attempts of the request that may have been paid for.
        """
        return Record(
            kind=kind,
            fingerprint=self._fingerprint,
            owner=self._context.job.owner,
            lease_owner=self._context.lease.owner,
            price_class=price_class(self._request),
            unknown_outcomes=unknown,
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
        return f"Another process took over; an image of {record.model} was paid for and discarded, {cost}"
    uris = ", ".join(image.uri for image in record.images)
    return f"{request.operation.capitalize()} with {record.model}: {record.size}, {cost}, stored as {uris}"
