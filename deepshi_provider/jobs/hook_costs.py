"""Tells the DAG run what a hook buys in a task that is not an image task, so that the run's budget counts it."""

from __future__ import annotations

import logging
import uuid
from decimal import Decimal

from airflow.sdk import get_current_context

from deepshi_provider.costs import Operation
from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.jobs.run_costs import PATIENCE, RUNS, RunEntry, in_time
from deepshi_provider.manifest import Owner
from deepshi_provider.storage import Store

log = logging.getLogger(__name__)


async def tell_run(output_uri: str | None, conn_id: str | None, operation: Operation, cost_usd: Decimal | None) -> None:
    """Write an entry of its own for one purchase: purchases of one task may come at once, and in several tries.

    Never raises. Does nothing outside of a task, and without an ``output_uri`` of the connection.

    :param cost_usd: ``None`` if it is not known, or not even whether it was paid.
    """
    owner = _owner()
    if owner is None or output_uri is None:
        return
    try:
        store = Store(output_uri, conn_id, patience=PATIENCE)
        entry = RunEntry(
            owner=owner,
            operation=operation,
            cost_usd=cost_usd or Decimal(0),
            output_uri=store.uri,
            output_conn_id=store.conn_id,
            by_hook=True,
        )
        spent = "0_0_1" if cost_usd is None else f"{cost_usd:f}"
        name = f"{RUNS}/{owner.run_key}/{uuid.uuid4().hex[:16]}.{spent}.json"
        await in_time(store.patiently(lambda: store.write(name, entry.model_dump_json().encode())))
    except DeepshiError as err:
        log.warning("The run's budget does not count what the hook has spent, %s: %s", cost_usd, err)


def _owner() -> Owner | None:
    """Return which task instance runs in this process."""
    try:
        ti = get_current_context()["ti"]
    except RuntimeError:  # none
        return None
    map_index = -1 if ti.map_index is None else ti.map_index
    return Owner(dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id, map_index=map_index, try_number=ti.try_number)
