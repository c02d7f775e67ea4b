"""What the requests of one job share."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from decimal import Decimal

from deepshi_provider.client.client import Client
from deepshi_provider.jobs.job import BatchJob, Job
from deepshi_provider.jobs.preflight import Preflight
from deepshi_provider.journal.lease import TIMES, Lease, Times, Watch
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.run_costs import RunCosts, RunEntry
from deepshi_provider.store.store import Store
from deepshi_provider.store.stores import Stores


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What the requests of one job share.

    :param client: to send with, its session open.
    :param stores: opens other directories.
    :param lease: this process's sign of life.
    :param prices: what requests of a price class have cost lately.
    :param run_costs: tells the DAG run what is paid, and asks what may be.
    :param times: how long processes wait for each other.
    :param image_log_level: at which each paid image is logged; in a batch there are too many for INFO.
    """

    terms: Job | BatchJob
    client: Client
    stores: Stores
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
        terms: Job | BatchJob,
        client: Client,
        stores: Stores,
        store: Store,
        image_log_level: int = logging.INFO,
        *,
        times: Times = TIMES,
    ) -> Tools:
        """Return the tools of one job."""
        runs = stores.at(terms.runs_uri, terms.runs_conn_id, patience=times.run_entry) if terms.runs_uri else None
        prices = Prices(client.settings.account, runs, store)
        entry = RunEntry(
            owner=terms.owner,
            operation=terms.operation,
            output_uri=terms.output_uri,
            output_conn_id=terms.output_conn_id,
        )
        return cls(
            terms=terms,
            client=client,
            stores=stores,
            store=store,
            lease=Lease(store, times),
            watch=Watch(store, times),
            preflight=Preflight(client, terms.preflight),
            prices=prices,
            run_costs=RunCosts(entry, runs, limit=terms.max_run_cost_usd, prices=prices, patience=times.run_entry),
            times=times,
            image_log_level=image_log_level,
        )

    async def paid(self, price_class: str, cost_usd: Decimal | None) -> None:
        """Tell the DAG run, and later requests, of one that was or may have been paid for. Never raises.

        :param cost_usd: ``None`` if that is not known.
        """
        await asyncio.gather(self.run_costs.add(cost_usd, price_class), self.prices.learn(price_class, cost_usd))
