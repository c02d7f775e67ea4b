"""A copy of the catalog in the store, which the mapped tasks of a DAG run share, so that not each of them requests it.

The copy only lets requests pass: before anything is refused or warned of, the catalog is requested again.
"""

from __future__ import annotations

import hashlib
import logging

from deepshi_provider.api.catalog import Catalog
from deepshi_provider.client.listing import catalog_in
from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.journal.entries import Owner
from deepshi_provider.journal.run_costs import RUNS
from deepshi_provider.store.store import Store, in_time

log = logging.getLogger(__name__)

#: Seconds to wait for the store, which is only asked to save a free request.
_PATIENCE = 2.0


class KeptCatalog:
    """The copy of one DAG run and account. Its methods never raise.

    :param store: the connection's ``output_uri``.
    :param account: see :attr:`~deepshi_provider.client.settings.Settings.account`.
    """

    def __init__(self, store: Store, owner: Owner, account: str) -> None:
        self._store = store
        self._name = f"{RUNS}/{owner.run_key}/catalog-{hashlib.sha256(account.encode()).hexdigest()[:16]}.json"

    async def read(self) -> Catalog | None:
        """Return the copy; ``None`` if there is none, or it cannot be read in time."""
        try:
            document = await in_time(self._store.read(self._name), _PATIENCE)
            return None if document is None else await catalog_in(document)
        except DeepshiError as err:
            log.debug("The run's copy of the catalog was not read: %s", err)
            return None

    async def keep(self, document: bytes) -> None:
        """Write or replace the copy."""
        try:
            await in_time(self._store.write(self._name, document), _PATIENCE)
        except DeepshiError as err:
            log.debug("The catalog was not kept for the run's other tasks: %s", err)
