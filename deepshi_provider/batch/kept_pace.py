"""The pace of a batch, kept beside its claims: a batch that is started anew need not find it by refusals again."""

from __future__ import annotations

import json
import logging

from deepshi_provider.client.pace import Pace
from deepshi_provider.exceptions import StorageFailed
from deepshi_provider.store.store import STATE, Store

log = logging.getLogger(__name__)

PACE_NAME = f"{STATE}/pace.json"
#: Seconds for which a pace that was found is taken for what the service allows.
LASTING = 600.0


class KeptPace:
    """A pace, and what the store knows of it. The store never fails a batch for its sake.

    :ivar pace: of the batch.
    """

    def __init__(self, store: Store, pace: Pace) -> None:
        self._store = store
        self.pace = pace
        self._kept = pace.refusals

    @classmethod
    async def recall(cls, store: Store) -> KeptPace:
        """Return the pace of a batch that was in this directory until a moment ago, or a new one."""
        try:
            data = await store.read(PACE_NAME)
            if data is not None and await store.age(PACE_NAME) < LASTING:
                return cls(store, Pace(float(json.loads(data)["interval"])))
        except (StorageFailed, ValueError, TypeError, KeyError) as err:
            log.warning("The pace of the last batch is not known: %s", err)
        return cls(store, Pace())

    async def keep(self) -> None:
        """Write the pace down if a request was refused since."""
        if self._kept == self.pace.refusals:
            return
        self._kept = self.pace.refusals
        try:
            await self._store.write(PACE_NAME, json.dumps({"interval": self.pace.interval}).encode())
        except StorageFailed as err:
            log.warning("The pace of this batch is not kept for its next try: %s", err)
