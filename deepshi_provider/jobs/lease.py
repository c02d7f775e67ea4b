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
from types import TracebackType

from deepshi_provider.exceptions import StorageFailed
from deepshi_provider.storage import STATE, Store

log = logging.getLogger(__name__)

#: Seconds without a change after which a holder counts as dead.
LEASE = 20.0
#: Seconds between two changes.
BEAT = 4.0


def holder_name(holder: str) -> str:
    """Return the name of a holder's object."""
    return f"{STATE}/{holder}.holder.json"


class Lease:
    """This process's own sign of life, from the first claim to the end of the job.

    Starting it is also the proof that the store can be written, before anything is paid.
    """

    def __init__(self, store: Store) -> None:
        self.holder = uuid.uuid4().hex[:16]
        self._store = store
        self._task: asyncio.Task[None] | None = None
        self._last_beat = 0.0
        self._lapsed = False

    @property
    def lapsed(self) -> bool:
        """Whether others may have taken this process for dead at some time, with a margin for slow writes."""
        if self._task is not None and time.monotonic() - self._last_beat > LEASE / 2:
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
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        # Others need not wait for the lease to run out. If this fails, they will wait.
        with contextlib.suppress(StorageFailed):
            await asyncio.shield(self._store.remove(holder_name(self.holder)))

    async def _keep_beating(self) -> None:
        count = 0
        while True:
            await asyncio.sleep(BEAT)
            count += 1
            try:
                await self._beat(count)
            except StorageFailed as err:
                log.warning("Sign of life not written, trying again in %g s: %s", BEAT, err)

    async def _beat(self, count: int) -> None:
        begun = time.monotonic()
        said = json.dumps({"beat": count, "at": time.time()})
        await self._store.write(holder_name(self.holder), said.encode())
        _ = self.lapsed  # a gap stays noted although beating goes on
        self._last_beat = begun


class Watch:
    """What this process knows of other holders."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[str, tuple[bytes, float]] = {}

    async def is_alive(self, holder: str) -> bool:
        """Return whether a holder may be alive; ask again until it changes, vanishes, or the lease runs out."""
        data = await self._store.read(holder_name(holder))
        return data is not None and self.is_fresh(holder, data)

    def is_fresh(self, name: str, data: bytes) -> bool:
        """Return whether data was seen to change within the last :data:`LEASE` seconds."""
        now = time.monotonic()
        before, since = self._seen.get(name, (None, now))
        if data != before:
            self._seen[name] = (data, now)
            return True
        return now - since < LEASE
