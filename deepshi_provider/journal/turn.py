"""Turns: of several processes with the same batch and a limit, one buys at a time.

Two triggerers may run the same batch, and claims keep them from buying the same row. But each knows only its own
spending, so together they would exceed a limit. ``_deepshi/<task>.<n>.turn.json`` is the n-th turn of a task instance.
It is created like a claim, contains the lease owner that has it, and is deleted at the end. The next turn is free when
the last one is deleted, or when its process is dead.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterable
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
    """

    def __init__(self, store: Store, task_key: str, lease: Lease, watch: Watch, times: Times) -> None:
        self._store = store
        self._task_key = task_key
        self._lease = lease
        self._watch = watch
        self._times = times
        self._number = 0

    async def __aenter__(self) -> Turn:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._number:
            return
        try:
            await asyncio.shield(self._give_back())
        except StorageFailed as err:  # the next process then waits until this one's lease is over
            log.warning("%s could not be deleted: %s", self._uri_of(self._number), err)

    async def take(self) -> bool:
        """Wait until this process has a turn; return whether it is a new one, and others may have bought before.

        Costs nothing while it has one, unless this process was paused. Not for concurrent calls.

        :raises StorageFailed: the store cannot be read or written.
        """
        if self._number and not self._lease.lapsed:
            return False
        await self._lease.start()
        is_new, waits_for, refusals = False, "", 0
        while True:
            last = await self._last()
            owner = await self._owner_of(last)
            if owner == self._lease.owner:
                self._number = last
                return is_new
            if owner is None or not await self._watch.is_alive(owner):
                if refusals == _MOST_REFUSALS:
                    raise StorageFailed(
                        f"Not sent: the store contradicts itself. {self._uri_of(last + 1)} cannot be created, as if it "
                        "existed, but is in no listing of its directory"
                    )
                refusals += 1
                if await self._create(last + 1):
                    is_new = True
                    continue
            elif owner != waits_for:
                waits_for, refusals = owner, 0
                log.info("Another process runs this batch (%s); waiting for its end", self._uri_of(last))
            await asyncio.sleep(self._times.poll)

    async def _give_back(self) -> None:
        """Delete this turn and those of dead processes before it, for which others would wait."""
        numbers = await self._store.scan(_numbers, prefix=f"{self._task_key}.")
        for number in sorted(number for number in numbers if number <= self._number):
            await self._store.remove(self._name(number))

    async def _last(self) -> int:
        return max(await self._store.scan(_numbers, prefix=f"{self._task_key}."), default=0)

    async def _owner_of(self, number: int) -> str | None:
        """Return the lease owner that has a turn; ``""`` if it cannot be read, ``None`` if it is deleted."""
        data = await self._store.read(self._name(number)) if number else None
        if data is None:
            return None
        try:
            return str(json.loads(data)["lease_owner"])
        except (ValueError, TypeError, KeyError):  # being written at this moment, or truncated by a crash
            return ""

    async def _create(self, number: int) -> bool:
        try:
            return await self._store.create(
                self._name(number), json.dumps({"lease_owner": self._lease.owner, "number": number}).encode()
            )
        except CreatedLate as err:  # others see it only when all that saw no object have written theirs
            log.warning("%s", err)
            return False

    def _name(self, number: int) -> str:
        return f"{STATE}/{self._task_key}.{number}.turn.json"

    def _uri_of(self, number: int) -> str:
        return self._store.uri_of(self._name(number))


def _numbers(objects: Iterable[tuple[str, int]]) -> list[int]:
    return [int(match[1]) for name, _ in objects if (match := _TURN.fullmatch(name))]
