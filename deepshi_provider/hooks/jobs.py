"""Runs jobs with the client of an Airflow connection, and stores that are opened with Airflow connections.

Blocking operators and triggers await these same coroutines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deepshi_provider.client.settings import Settings
from deepshi_provider.costs.budget_state import WindowState
from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.directories import STORES, shared_store
from deepshi_provider.jobs.job import Job
from deepshi_provider.jobs.outcome import ImageOutcome
from deepshi_provider.jobs.run import run_single
from deepshi_provider.journal.account import at_known_prices
from deepshi_provider.journal.entries import Owner
from deepshi_provider.journal.lease import TIMES, Times
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.run_costs import RunEntry
from deepshi_provider.journal.window_costs import WindowCosts
from deepshi_provider.store.store import PATIENCE, Store


async def run_job(
    job: Job,
    *,
    hook: DeepshiHook | None = None,
    interrupted: Callable[[CostSheet], None] | None = None,
    patience: float = PATIENCE,
    times: Times = TIMES,
) -> ImageOutcome:
    """Run one request; see :func:`deepshi_provider.jobs.run.run_single`.

    :param hook: the hook of the job's connection, if already looked up.
    :raises InvalidConnection: the connection is invalid; nothing was sent.
    """
    client = await (hook or DeepshiHook(job.deepshi_conn_id)).aclient()
    return await run_single(job, client, STORES, interrupted=interrupted, patience=patience, times=times)


async def window_states(hook: DeepshiHook, group: str | None = None) -> list[WindowState]:
    """Return the state of a connection's budgets per day and month.

    :param group: budget group whose budgets to include.
    :raises DeepshiError: the spending cannot be read.
    """
    windows = await _windows(hook, Owner(dag_id="", run_id="", task_id=""), group)
    limits = await at_known_prices(await windows.limits(), prices_of(await hook.asettings()))
    return [limit.state() for limit in limits]


async def warnings_to_call(
    hook: DeepshiHook, owner: Owner, noticed: Sequence[WindowState], group: str | None = None
) -> list[WindowState]:
    """Return the warnings of nearly spent budgets for which a task must call its callbacks now, each only once.

    That includes those that its earlier processes have noticed, if they ended before they could call.

    :param noticed: warnings that its last process has reported.
    :raises DeepshiError: the connection is invalid.
    """
    return await (await _windows(hook, owner, group)).warnings_to_call(noticed)


async def _windows(hook: DeepshiHook, owner: Owner, group: str | None) -> WindowCosts:
    settings = await hook.asettings()
    entry = RunEntry(owner=owner, operation="generate", output_uri="")
    return WindowCosts(entry, shared_store(settings), settings.account, settings.budgets(group))


def prices_of(settings: Settings, directory: Store | None = None) -> Prices:
    """Return the known prices of a connection.

    :param directory: a directory whose records have prices that the connection does not remember.
    """
    return Prices(settings.account, shared_store(settings), directory)
