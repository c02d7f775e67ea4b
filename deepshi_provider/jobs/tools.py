"""What the requests of one job share."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from decimal import Decimal

from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.jobs.job import Terms
from deepshi_provider.jobs.lease import TIMES, Lease, Times, Watch
from deepshi_provider.jobs.preflight import Preflight
from deepshi_provider.jobs.prices import Prices
from deepshi_provider.jobs.run_costs import RunCosts
from deepshi_provider.storage import Store


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What the requests of one job share.

    :param hook: to send with, its session open.
    :param lease: this process's sign of life.
    :param prices: what requests of a price class have cost lately.
    :param run_costs: tells the DAG run what is paid, and asks what may be.
    :param times: how long processes wait for each other.
    :param image_log_level: at which each paid image is logged; in a batch there are too many for INFO.
    """

    terms: Terms
    hook: DeepshiHook
    store: Store
    lease: Lease
    watch: Watch
    preflight: Preflight
    prices: Prices
    run_costs: RunCosts
    times: Times
    image_log_level: int = logging.INFO

    @classmethod
    def of(
        cls,
        terms: Terms,
        hook: DeepshiHook,
        store: Store,
        image_log_level: int = logging.INFO,
        *,
        times: Times = TIMES,
    ) -> Tools:
        """Return the tools of one job."""
        prices = Prices(hook, terms.runs_uri, terms.runs_conn_id, store)
        return cls(
            terms=terms,
            hook=hook,
            store=store,
            lease=Lease(store, times),
            watch=Watch(store, times),
            preflight=Preflight(hook, terms.preflight),
            prices=prices,
            run_costs=RunCosts(terms, prices),
            times=times,
            image_log_level=image_log_level,
        )

    async def paid(self, price_class: str, cost_usd: Decimal | None) -> None:
        """Tell the DAG run, and later requests, of one that was or may have been paid for. Never raises.

        :param cost_usd: ``None`` if that is not known.
        """
        await asyncio.gather(self.run_costs.add(cost_usd, price_class), self.prices.learn(price_class, cost_usd))
