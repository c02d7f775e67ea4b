"""Leases: a process with claims shows that it is alive by changing a small object every few seconds.

Two triggerers may run the same job, and a claim alone does not show whether its sender still waits for the answer.
So each claim contains its *lease owner*: a process that keeps changing its lease, a small object, and deletes it at the
end. The lease lists the attempts under way, so that no process waits for one whose answer was lost.
Another process that finds a claim without a record waits until the lease is deleted, or has not changed for
:attr:`Times.lease` seconds *by the waiting process's own clock*; clocks are never compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

import anyio

from deepshi_provider.exceptions import StorageFailed
from deepshi_provider.journal.entries import Claim
from deepshi_provider.store.store import STATE, Store

log = logging.getLogger(__name__)

#: Separate threads, so that heartbeats do not wait for other work: enough for 1,000 leases at 50 ms per write.
_HEARTBEATS = ThreadPoolExecutor(max_workers=32, thread_name_prefix="deepshi-heartbeat")
_ENDING = ".lease.json"


class Times(NamedTuple):
    """How long processes wait for each other, in seconds. All processes of a job must use the same values.

    :param lease: time without a change after which a lease owner counts as dead.
    :param heartbeat: interval between two changes of a lease.
    :param poll: interval for checking another process that may be waiting for the same answer.
    :param run_entry: time to keep trying to report to other tasks while the store fails.
    :param learning: time to wait for requests of other tasks whose price is unknown, if a limit allows no more of them.
    """

    lease: float = 20.0
    heartbeat: float = 4.0
    poll: float = 2.0
    run_entry: float = 30.0
    learning: float = 300.0


TIMES = Times()


def lease_name(owner: str) -> str:
    """Return the name of a lease's object."""
    return f"{STATE}/{owner}{_ENDING}"


def is_lease(entry: str) -> bool:
    """Return whether an object of the state's directory is a lease."""
    return entry.endswith(_ENDING)


class Lease:
    """This process's own lease, from the first claim to the end of the job.

    Starting it also checks, before anything is paid for, that the store is writable.
    """

    def __init__(self, store: Store, times: Times = TIMES) -> None:
        self.owner = uuid.uuid4().hex[:16]
        #: Key of each attempt under way in this process, with its beginning in monotonic seconds. Attempts of its other
        #: claims are over.
        self.attempts: dict[str, float] = {}
        self._heartbeats = 0
        self._store = store
        self._times = times
        self._task: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._ending = asyncio.Event()
        self._last_heartbeat = (0.0, 0.0)
        self._lapsed_at = float("-inf")

    def lapsed_since(self, moment: float) -> bool:
        """Return whether others may have considered this process dead since a moment, with a margin for slow writes.

        Uses both clocks: the monotonic one stops while a machine is suspended, and the other one may be changed.

        :param moment: monotonic seconds.
        """
        gaps = (now - then for now, then in zip(_clocks(), self._last_heartbeat, strict=True))
        if self._task is not None and max(gaps) > self._times.lease / 2:
            self._lapsed_at = time.monotonic()
        return self._lapsed_at >= moment

    @contextlib.contextmanager
    def attempt(self, attempt: str) -> Iterator[int]:
        """List an attempt in the heartbeats until the end of the ``with`` block; enter it before the claim.

        Yields the number of the last heartbeat that may lack the attempt, for the claim.

        :param attempt: see :func:`~deepshi_provider.journal.entries.attempt_key`.
        """
        self.attempts[attempt] = time.monotonic()
        try:
            yield self._heartbeats
        finally:
            del self.attempts[attempt]

    async def start(self) -> None:
        """Write the first heartbeat, if not yet done.

        :raises StorageFailed: the store cannot be written.
        """
        async with self._starting:
            if self._task is not None:
                return
            await self._heartbeat()
            self._task = asyncio.create_task(self._keep_up(), name=f"deepshi-lease-{self.owner}")

    async def __aenter__(self) -> Lease:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is None:
            return
        self._ending.set()
        # A heartbeat in progress must not be written after the removal; do not wait for one that hangs.
        await asyncio.wait([self._task], timeout=self._times.heartbeat)
        self._task.cancel()
        # So that others need not wait for the lease to expire. If this fails, they wait.
        with contextlib.suppress(StorageFailed):
            await asyncio.shield(self._store.remove(lease_name(self.owner)))

    async def _keep_up(self) -> None:
        while not self._ending.is_set():
            with anyio.move_on_after(self._times.heartbeat):
                await self._ending.wait()
                return
            try:
                await self._heartbeat()
            except StorageFailed as err:
                log.warning("The heartbeat could not be written; trying again in %g s: %s", self._times.heartbeat, err)

    async def _heartbeat(self) -> None:
        begun = _clocks()
        self._heartbeats += 1
        heartbeat = {"heartbeat": self._heartbeats, "at": time.time(), "attempts": sorted(self.attempts)}
        await self._store.write(lease_name(self.owner), json.dumps(heartbeat).encode(), threads=_HEARTBEATS)
        self.lapsed_since(0.0)  # remembers a gap even if heartbeats continue
        self._last_heartbeat = begun


def _clocks() -> tuple[float, float]:
    return time.monotonic(), time.time()


class Watch:
    """Observes the leases of other processes."""

    def __init__(self, store: Store, times: Times = TIMES) -> None:
        self._store = store
        self._times = times
        self._seen: dict[str, tuple[bytes, float]] = {}

    async def is_at(self, claim: Claim, attempt: str) -> bool:
        """Return whether the process that made a claim may still wait for the answer.

        Call it again until its heartbeat lacks the attempt, has not changed for the lease's duration, or is deleted.

        :param attempt: see :func:`~deepshi_provider.journal.entries.attempt_key`.
        """
        asked_at = time.monotonic()
        data = await self._store.read(lease_name(claim.lease_owner))
        if data is None or not self.is_fresh(claim.lease_owner, data, asked_at):
            return False
        try:
            heartbeat = json.loads(data)
            return bool(heartbeat["heartbeat"] <= claim.heartbeat or attempt in heartbeat["attempts"])
        except (ValueError, TypeError, KeyError):  # being written at this moment
            return True

    async def is_alive(self, lease_owner: str) -> bool:
        """Return whether a process may be alive. Call it again until it is not."""
        asked_at = time.monotonic()
        data = await self._store.read(lease_name(lease_owner))
        return data is not None and self.is_fresh(lease_owner, data, asked_at)

    def is_fresh(self, name: str, data: bytes, asked_at: float) -> bool:
        """Return whether this process saw the data change within the last :attr:`Times.lease` seconds.

        :param asked_at: monotonic seconds just before the data was read: this process may have stalled since, while the
            other one did not.
        """
        before, since = self._seen.get(name, (None, asked_at))
        if data != before:
            self._seen[name] = (data, asked_at)
            return True
        return asked_at - since < self._times.lease
