"""What the requests of one job share."""

from __future__ import annotations

from dataclasses import dataclass

from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.jobs.job import Terms
from deepshi_provider.jobs.lease import Lease, Watch
from deepshi_provider.jobs.preflight import Preflight
from deepshi_provider.storage import Store


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What the requests of one job share.

    :param hook: to send with, its session open.
    :param lease: this process's sign of life.
    """

    terms: Terms
    hook: DeepshiHook
    store: Store
    lease: Lease
    watch: Watch
    preflight: Preflight

    @classmethod
    def of(cls, terms: Terms, hook: DeepshiHook, store: Store) -> Tools:
        """Return the tools of one job."""
        return cls(
            terms=terms,
            hook=hook,
            store=store,
            lease=Lease(store),
            watch=Watch(store),
            preflight=Preflight(hook, terms.preflight),
        )
