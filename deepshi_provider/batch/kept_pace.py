"""Stores the pace of a batch with its claims, so that a restarted batch need not be refused to find it again."""

from __future__ import annotations

import json
import logging

from deepshi_provider.client.pace import Pace
from deepshi_provider.exceptions import StorageFailed
from deepshi_provider.store.store import STATE, Store

log = logging.getLogger(__name__)

PACE_NAME = f"{STATE}/pace.json"
#: Seconds for which a stored pace is used.
LASTING = 600.0


class KeptPace:
    """The pace of a batch and its stored copy. A store that fails here never fails the batch.

    :ivar pace: the pace of the batch.
    """

    def __init__(self, store: Store, pace: Pace) -> None:
        self._store = store
        self.pace = pace
        self._kept = pace.refusals

    @classmethod
    async def recall(cls, store: Store) -> KeptPace:
        """Return the stored pace of the last batch in this directory if it is recent, or a new one."""
        try:
            data = await store.read(PACE_NAME)
            if data is not None and await store.age(PACE_NAME) < LASTING:
                return cls(store, Pace(float(json.loads(data)["interval"])))
        except (StorageFailed, ValueError, TypeError, KeyError) as err:
            log.warning("The pace of the last batch could not be read; starting without it: %s", err)
        return cls(store, Pace())

    async def keep(self) -> None:
        """Store the pace if a request was refused since the last call."""
        if self._kept == self.pace.refusals:
            return
        self._kept = self.pace.refusals
        try:
            await self._store.write(PACE_NAME, json.dumps({"interval": self.pace.interval}).encode())
        except StorageFailed as err:
            log.warning("The pace of this batch could not be stored for its next try: %s", err)
