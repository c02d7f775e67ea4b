"""Who is alive: a process that has claims shows it by changing a small object every few seconds.

Two triggerers may run one job at once, and a claim alone does not tell whether its sender still waits for the answer.
So each claim names a *holder*, and each holder is an object that its process keeps changing and deletes at the end.
Another process that finds a claim without a record waits until the holder is gone, or has not changed for
:data:`LEASE` seconds *by the waiting process's own clock*; no clocks are compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from deepshi_provider.exceptions import StorageFailed
from deepshi_provider.storage import STATE, Store

log = logging.getLogger(__name__)

#: Seconds without a change after which a holder counts as dead.
LEASE = 20.0
#: Seconds between two changes.
BEAT = 4.0
#: Signs of life wait for no other work.
_BEATS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="deepshi-beat")


def holder_name(holder: str) -> str:
    """Return the name of a holder's object."""
    return f"{STATE}/{holder}.holder.json"


class Lease:
    """This process's own sign of life, from the first claim to the end of the job.

    Starting it is also the proof that the store can be written, before anything is paid.
    """

    def __init__(self, store: Store) -> None:
        self.holder = uuid.uuid4().hex[:16]
        #: Name and ``k`` of each sending that this process is at; its other claims are lost ones.
        self.sending: set[tuple[str, int]] = set()
        self._store = store
        self._task: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        self._last_beat = (0.0, 0.0)
        self._lapsed = False

    @property
    def lapsed(self) -> bool:
        """Whether others may have taken this process for dead at some time, with a margin for slow writes.

        Both clocks are asked: the monotonic one stands still while a machine is suspended, the other may be set.
        """
        gaps = (now - then for now, then in zip(_clocks(), self._last_beat, strict=True))
        if self._task is not None and max(gaps) > LEASE / 2:
            self._lapsed = True
        return self._lapsed

    async def start(self) -> None:
        """Write the first sign of life, if not done.

        :raises StorageFailed: the store cannot be written.
        """
        if self._task is None:
            await self._beat(0)
            self._task = asyncio.create_task(self._keep_beating(), name=f"deepshi-lease-{self.holder}")

    async def __aenter__(self) -> Lease:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is None:
            return
        self._ending.set()
        # A beat that is being written must not come after the removal; one that hangs is not waited for.
        await asyncio.wait([self._task], timeout=BEAT)
        self._task.cancel()
        # Others need not wait for the lease to run out. If this fails, they will wait.
        with contextlib.suppress(StorageFailed):
            await asyncio.shield(self._store.remove(holder_name(self.holder)))

    async def _keep_beating(self) -> None:
        count = 0
        while not self._ending.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ending.wait(), BEAT)
                return
            count += 1
            try:
                await self._beat(count)
            except StorageFailed as err:
                log.warning("Sign of life not written, trying again in %g s: %s", BEAT, err)

    async def _beat(self, count: int) -> None:
        begun = _clocks()
        said = json.dumps({"beat": count, "at": time.time()})
        await self._store.write(holder_name(self.holder), said.encode(), threads=_BEATS)
        _ = self.lapsed  # a gap stays noted although beating goes on
        self._last_beat = begun


def _clocks() -> tuple[float, float]:
    return time.monotonic(), time.time()


class Watch:
    """What this process knows of other holders."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[str, tuple[bytes, float]] = {}

    async def is_alive(self, holder: str) -> bool:
        """Return whether a holder may be alive; ask again until it changes, vanishes, or the lease runs out."""
        asked_at = time.monotonic()
        data = await self._store.read(holder_name(holder))
        return data is not None and self.is_fresh(holder, data, asked_at)

    def is_fresh(self, name: str, data: bytes, asked_at: float) -> bool:
        """Return whether data was seen to change within the last :data:`LEASE` seconds.

        :param asked_at: monotonic seconds just before the data was read: if this process stalled meanwhile, the other
            one need not have.
        """
        before, since = self._seen.get(name, (None, asked_at))
        if data != before:
            self._seen[name] = (data, asked_at)
            return True
        return asked_at - since < LEASE
