"""What the requests of one job share."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.jobs.job import Terms
from deepshi_provider.jobs.lease import Lease, Watch
from deepshi_provider.jobs.preflight import Preflight
from deepshi_provider.jobs.run_costs import RunCosts
from deepshi_provider.storage import Store


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What the requests of one job share.

    :param hook: to send with, its session open.
    :param lease: this process's sign of life.
    :param run_costs: tells the DAG run what is paid, and asks what may be.
    :param image_log_level: at which each paid image is logged; in a batch there are too many for INFO.
    """

    terms: Terms
    hook: DeepshiHook
    store: Store
    lease: Lease
    watch: Watch
    preflight: Preflight
    run_costs: RunCosts
    image_log_level: int = logging.INFO

    @classmethod
    def of(cls, terms: Terms, hook: DeepshiHook, store: Store, image_log_level: int = logging.INFO) -> Tools:
        """Return the tools of one job."""
        return cls(
            terms=terms,
            hook=hook,
            store=store,
            lease=Lease(store),
            watch=Watch(store),
            preflight=Preflight(hook, terms.preflight),
            run_costs=RunCosts(terms),
            image_log_level=image_log_level,
        )
