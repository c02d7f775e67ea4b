"""Turns: of several processes with the same batch and a limit, one buys at a time.

Two triggerers may run the same batch, and claims keep them from buying the same row. But each knows only its own
spending, so together they would exceed a limit. ``_deepshi/<task>.<n>.turn.json`` is the n-th turn of a task instance.
It is created like a claim and contains the lease owner that has it. The next turn is free when that process has ended
or is dead. The last turn is never deleted: its number must not be used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType

from deepshi_provider.exceptions import StorageFailed
from deepshi_provider.journal.lease import Lease, Times, Watch
from deepshi_provider.store.store import STATE, CreatedLate, Store

log = logging.getLogger(__name__)

_TURN = re.compile(r"[0-9a-f]{16}\.(\d+)\.turn\.json", re.ASCII)
#: Number of times that a turn may be refused without being in the listing.
_MOST_REFUSALS = 6


class Turn:
    """The right of this process to buy for a task instance.

    :param lease: this process's lease, by which others see that it is alive.
    :ivar number: number of its last turn; 0 if it has had none.
    """

    def __init__(self, store: Store, task_key: str, lease: Lease, watch: Watch, times: Times) -> None:
        self.number = 0
        self._store = store
        self._task_key = task_key
        self._lease = lease
        self._watch = watch
        self._times = times
        self._checked_at = float("-inf")
        self._taking = asyncio.Lock()

    async def __aenter__(self) -> Turn:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Delete earlier turns; this one ends with the lease."""
        if self.number:
            with contextlib.suppress(StorageFailed):  # they only take space
                await asyncio.shield(self._remove_earlier())

    async def take(self, recount: Callable[[], Awaitable[None]] | None = None) -> bool:
        """Wait until this process has a turn; return whether this call took a new one.

        It does nothing while the process has one, unless it was paused and others may have taken theirs.

        :param recount: adds what others have spent in their turns; awaited before concurrent calls return.
        :raises StorageFailed: the store cannot be read or written.
        """
        async with self._taking:
            if self.number and not self._lease.lapsed_since(self._checked_at):
                return False
            await self._lease.start()
            checked_at, number = time.monotonic(), await self._next()
            is_new = number != self.number
            if is_new and recount:
                await recount()  # if it fails, the next call counts
            self.number, self._checked_at = number, checked_at
            return is_new

    async def _next(self) -> int:
        """Return the number of this process's turn, when it has the last one."""
        waits_for, refusals = "", 0
        while True:
            last = await self._last()
            owner, is_alive = await self._owner_of(last)
            if owner == self._lease.owner:
                return last
            if not is_alive:
                if refusals == _MOST_REFUSALS:
                    raise StorageFailed(
                        f"Not sent: the store contradicts itself. {self._uri_of(last + 1)} cannot be created, as if it "
                        "existed, but is in no listing of its directory"
                    )
                refusals += 1
                if await self._create(last + 1):
                    continue
            elif owner != waits_for:
                waits_for, refusals = owner, 0
                log.info("Another process runs this batch (%s); waiting for its end", self._uri_of(last))
            await asyncio.sleep(self._times.poll)

    async def _remove_earlier(self) -> None:
        for number in await self._store.scan(_numbers, prefix=f"{self._task_key}."):
            if number < self.number:
                await self._store.remove(self._name(number))

    async def _last(self) -> int:
        return max(await self._store.scan(_numbers, prefix=f"{self._task_key}."), default=0)

    async def _owner_of(self, number: int) -> tuple[str, bool]:
        """Return the lease owner that has a turn, and whether it is alive; empty if there is none."""
        asked_at = time.monotonic()
        data = await self._store.read(self._name(number)) if number else None
        if data is None:
            return "", False
        try:
            owner = str(json.loads(data)["lease_owner"])
        except (ValueError, TypeError, KeyError):  # being written at this moment, or truncated by a crash
            return "", self._watch.is_fresh(self._name(number), data, asked_at)
        return owner, await self._watch.is_alive(owner)

    async def _create(self, number: int) -> bool:
        content = json.dumps({"lease_owner": self._lease.owner, "number": number}).encode()
        try:
            return await self._store.create(self._name(number), content)
        except CreatedLate as err:
            # It may have replaced that of another process, which has the turn and does not look again.
            raise StorageFailed(f"Not sent: {err}") from None

    def _name(self, number: int) -> str:
        return f"{STATE}/{self._task_key}.{number}.turn.json"

    def _uri_of(self, number: int) -> str:
        return self._store.uri_of(self._name(number))


def _numbers(objects: Iterable[tuple[str, int]]) -> list[int]:
    return [int(match[1]) for name, _ in objects if (match := _TURN.fullmatch(name))]
