"""Records for the DAG run what a hook buys in a task that is not an image task: its budget and report count it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable
from decimal import Decimal

from airflow.sdk import get_current_context

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.client.settings import Settings
from deepshi_provider.costs.money import AtLeast, paid
from deepshi_provider.costs.price_class import price_class
from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.costs.tally import Tally
from deepshi_provider.exceptions import Charged, DeepshiError
from deepshi_provider.hooks.directories import STORES
from deepshi_provider.journal.entries import Owner
from deepshi_provider.journal.lease import TIMES
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.run_costs import RUNS, HookPurchase, RunEntry, in_time
from deepshi_provider.journal.sheets import ask_prices, make_sheet

log = logging.getLogger(__name__)


async def record_purchase(
    settings: Settings, request: GenerateRequest, cost_usd: Decimal | None, charged: Charged, images: int
) -> None:
    """Write an entry of its own for one purchase: purchases of one task may come at once, and in several tries.

    Never raises. Does nothing outside of a task, and without an ``output_uri`` of the connection.

    :param cost_usd: ``None`` if it is not known.
    :param images: that came.
    """
    owner = _owner()
    if owner is None or settings.output_uri is None:
        return
    try:
        store = STORES.at(settings.output_uri, settings.output_conn_id, patience=TIMES.run_entry)
        is_partial = isinstance(cost_usd, AtLeast)
        purchase = HookPurchase(
            model=request.model,
            price_class=price_class(request),
            images=images,
            cost_usd=cost_usd,
            cost_is_complete=not is_partial,
            charged=charged,
        )
        entry = RunEntry(
            owner=owner,
            operation="hook",
            cost_usd=cost_usd or Decimal(0),
            output_uri=store.uri,
            output_conn_id=store.conn_id,
            purchase=purchase,
        )
        spent = f"{cost_usd or Decimal(0):f}{'_0_1' if cost_usd is None or is_partial else ''}"
        name = f"{RUNS}/{owner.run_key}/{uuid.uuid4().hex[:16]}.{spent}.json"
        await in_time(store.patiently(lambda: store.write(name, entry.model_dump_json().encode())), TIMES.run_entry)
    except DeepshiError as err:
        log.warning("The run's budget and report do not count what the hook has spent, %s: %s", cost_usd, err)


async def purchase_sheets(entries: Iterable[RunEntry], prices: Prices) -> list[CostSheet]:
    """Return what hooks have bought in each task instance, over all its tries.

    :param prices: asked where costs are in doubt.
    """
    found: dict[tuple[str, int], list[tuple[Owner, HookPurchase]]] = {}
    for entry in entries:
        if entry.purchase:
            found.setdefault((entry.owner.task_id, entry.owner.map_index), []).append((entry.owner, entry.purchase))
    sheets = []
    for same in found.values():
        tally = _tally([purchase for _, purchase in same])
        await ask_prices(tally, prices)
        newest = max((owner for owner, _ in same), key=lambda owner: owner.try_number)
        # There is no directory: a hook stores no images.
        sheets.append(make_sheet(newest, "hook", "", None, ended=True, **tally.sums()))
    return sheets


def _tally(purchases: list[HookPurchase]) -> Tally:
    lost = [p for p in purchases if p.charged == "unknown" and p.cost_usd is None]
    tally = Tally()
    for p in lost:
        tally.lost(p.model, price_class=p.price_class)
    for p in purchases:
        if p not in lost:
            tally.paid(p.model, "", paid(p), p.images, p.price_class)
    return tally


def _owner() -> Owner | None:
    """Return which task instance runs in this process."""
    try:
        ti = get_current_context()["ti"]
    except RuntimeError:  # none
        return None
    map_index = -1 if ti.map_index is None else ti.map_index
    return Owner(dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id, map_index=map_index, try_number=ti.try_number)
