"""What the requests of one job share."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from deepshi_provider.client.client import Client
from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.costs.tally import Tally
from deepshi_provider.jobs.job import BatchJob, Job
from deepshi_provider.jobs.kept_catalog import KeptCatalog
from deepshi_provider.jobs.preflight import Preflight
from deepshi_provider.journal.account import Account
from deepshi_provider.journal.journal import Journal
from deepshi_provider.journal.lease import TIMES, Lease, Times, Watch
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.run_costs import RunCosts, RunEntry
from deepshi_provider.journal.sheets import known_tally, latest_tally, make_sheet
from deepshi_provider.journal.turn import Turn
from deepshi_provider.journal.window_costs import WindowCosts
from deepshi_provider.store.store import Store, in_thread
from deepshi_provider.store.stores import Stores


class JobContext(NamedTuple):
    """Client, stores, journal, account and leases that the requests of one job share.

    :param client: the client, with an open session.
    :param stores: opens other directories.
    :param journal: the journal of the job's output directory.
    :param account: what the task instance has spent, and may spend.
    :param lease: this process's own lease.
    :param watch: observes the leases of other processes.
    :param turn: this process's turn to buy for a batch with limits.
    :param times: how long processes wait for each other.
    :param image_log_level: log level for each paid image; a batch has too many for INFO.
    """

    job: Job | BatchJob
    client: Client
    stores: Stores
    store: Store
    journal: Journal
    account: Account
    lease: Lease
    watch: Watch
    turn: Turn
    preflight: Preflight
    times: Times
    image_log_level: int

    @property
    def keeps_prompts(self) -> bool:
        """Whether records and cost sheets may hold prompts: neither the connection nor the job forbids it."""
        return self.client.settings.keep_prompts and self.job.keeps_prompts

    @property
    def needs_turn(self) -> bool:
        """Whether only one process at a time may buy for the job: one that buys much, under a limit."""
        job = self.job
        return isinstance(job, BatchJob) and not job.plan_only and self.account.is_limited

    async def recent_tally(self) -> Tally | None:
        """Return the task's costs since the account counts separately, as of the last listing; ``None`` if it does not.

        See :attr:`~deepshi_provider.journal.account.Account.counts_since`.
        """
        while (since := self.account.counts_since) is not None:
            tally = await in_thread(self.journal.known_tally, self.job.owner, since)
            if since == self.account.counts_since:  # else the next hour has begun, and would get it all
                return tally
        return None

    async def latest_tally(self) -> Tally:
        """Return the task's costs over all its tries; if the store fails, those that this process knows."""
        return await latest_tally(self.journal, self.job.owner, self.account.prices)

    def known_tally(self) -> Tally:
        """Return the task's costs that this process knows."""
        return known_tally(self.journal, self.job.owner, self.account.prices)

    def sheet(self, tally: Tally, *, ended: bool = True, **more: Any) -> CostSheet:
        """Return the task's cost sheet.

        :param more: other fields of the sheet.
        """
        job = self.job
        sums = tally.sums()
        return make_sheet(job.owner, job.operation, job.output_uri, job.output_conn_id, ended=ended, **sums, **more)

    @classmethod
    def of(
        cls,
        job: Job | BatchJob,
        client: Client,
        stores: Stores,
        store: Store,
        journal: Journal,
        *,
        times: Times = TIMES,
        image_log_level: int = logging.INFO,
    ) -> JobContext:
        """Return the context of one job.

        :param store: the job's output directory, which the journal belongs to.
        """
        runs = stores.at(job.runs_uri, job.runs_conn_id, patience=times.run_entry) if job.runs_uri else None
        entry = RunEntry(
            owner=job.owner,
            operation=job.operation,
            output_uri=job.output_uri,
            output_conn_id=job.output_conn_id,
        )
        lease, watch = Lease(store, times), Watch(store, times)
        is_mapped = job.owner.map_index >= 0
        kept = KeptCatalog(runs, job.owner, client.settings.account) if runs and is_mapped else None
        return cls(
            job=job,
            client=client,
            stores=stores,
            store=store,
            journal=journal,
            account=Account(
                Prices(client.settings.account, runs, store, patience=times.run_entry),
                RunCosts(entry, runs, limit=job.max_run_cost_usd, patience=times.run_entry),
                job.max_cost_usd,
                WindowCosts(
                    entry,
                    runs,
                    client.settings.account,
                    client.settings.budgets(job.budget_group),
                    patience=times.run_entry,
                ),
                times=times,
            ),
            lease=lease,
            watch=watch,
            turn=Turn(store, job.owner.task_key, lease, watch, times),
            preflight=Preflight(client, job.preflight, kept),
            times=times,
            image_log_level=image_log_level,
        )
