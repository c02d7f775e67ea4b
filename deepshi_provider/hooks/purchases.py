"""Records hooks' purchases in tasks that are not image tasks: for the run's budget and report, and for the page."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from airflow.sdk import get_current_context

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.client.settings import Settings
from deepshi_provider.costs.money import is_known, paid
from deepshi_provider.costs.price_class import price_class
from deepshi_provider.costs.sheet import XCOM_KEY, CostSheet
from deepshi_provider.costs.tally import Tally
from deepshi_provider.exceptions import Charged, DeepshiError
from deepshi_provider.hooks.directories import shared_store
from deepshi_provider.hooks.supervisor import one_at_a_time
from deepshi_provider.journal.account import Account
from deepshi_provider.journal.entries import Owner
from deepshi_provider.journal.lease import TIMES
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.run_costs import (
    RUNS,
    HookPurchase,
    RunCosts,
    RunEntry,
    read_entries,
    run_entry_name,
)
from deepshi_provider.journal.running_sum import RunningSum
from deepshi_provider.journal.sheets import make_sheet, use_known_prices
from deepshi_provider.journal.window_costs import WindowCosts
from deepshi_provider.store.store import Store, in_thread, in_time

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Bought:
    """Hooks' purchases in the task instance of this process.

    :ivar ti: Airflow's object of that try.
    :ivar entries: of all tries once the earlier ones are read, else of this one.
    :ivar earlier_in: URIs of the stores whose earlier entries are read.
    :ivar pushed: number of entries in the sheet that was pushed last; -1 if none was.
    """

    ti: Any = None
    entries: list[RunEntry] = field(default_factory=list)
    earlier_in: set[str] = field(default_factory=set)
    pushed: int = -1
    pushing: threading.Lock = field(default_factory=threading.Lock)

    def push(self, count: int, sheet: CostSheet) -> None:
        """Push the sheet of so many entries, unless one of more entries has been pushed."""
        with self.pushing, one_at_a_time():
            if count >= self.pushed:
                self.ti.xcom_push(key=XCOM_KEY, value=sheet.as_xcom())
                self.pushed = count


_bought = _Bought()


async def record_purchase(
    settings: Settings, request: GenerateRequest, cost_usd: Decimal | None, charged: Charged, images: int
) -> None:
    """Record one purchase for the run, if the connection has an ``output_uri``, and in the task's cost sheet.

    Never raises, and waits at most for a limited time at each step. Does nothing outside a task.

    :param cost_usd: ``None`` if unknown.
    :param images: number of images received.
    """
    ti = _task_instance()
    if ti is None:
        return
    owner = Owner.of(ti)
    store = shared_store(settings, patience=TIMES.run_entry)
    entry = RunEntry(
        owner=owner,
        operation="hook",
        cost_usd=cost_usd or Decimal(0),
        output_uri=store.uri if store else "",
        output_conn_id=store.conn_id if store else None,
        purchase=HookPurchase(
            model=request.model,
            price_class=price_class(request),
            deepshi_conn_id=settings.conn_id,
            images=images,
            cost_usd=cost_usd,
            cost_is_complete=cost_usd is None or is_known(cost_usd),
            charged=charged,
        ),
    )
    bought = await _known_before(ti, store, owner)
    prices = Prices(settings.account, store)
    if store:
        await _write(store, entry, settings, prices)
    bought.append(entry)
    try:
        await _push(owner, bought, prices)
    except Exception:  # from Airflow's API; the run's entry holds the cost, and the image is paid for
        log.warning("The Deepshi costs page lacks a hook's purchase (cost in USD: %s)", cost_usd, exc_info=True)


async def record_refusal(settings: Settings) -> None:
    """Push the task's cost sheet after a request that was free and failed, so that reports can find the task.

    Never raises. Does nothing outside a task, or if the sheet of this try has been pushed.
    """
    ti = _task_instance()
    if ti is None or (_bought.ti is ti and _bought.pushed >= 0):
        return
    owner, store = Owner.of(ti), shared_store(settings, patience=TIMES.run_entry)
    try:
        await _push(owner, await _known_before(ti, store, owner), Prices(settings.account, store))
    except Exception:  # from Airflow's API; the request's own error is the one to raise
        log.warning("The cost report lacks a failed request of a hook", exc_info=True)


async def _known_before(ti: Any, store: Store | None, owner: Owner) -> list[RunEntry]:
    try:
        return await _bought_before(ti, store, owner)
    except DeepshiError as err:
        log.warning("The cost sheet lacks what hooks bought in earlier tries: %s", err)
        return _bought.entries


async def _push(owner: Owner, bought: list[RunEntry], prices: Prices) -> None:
    sheets = await purchase_sheets(bought, prices) or [make_sheet(owner, "hook", "", None, ended=True)]
    # On the loop, Airflow raises a BaseException if another coroutine talks to the supervisor at that moment.
    await in_time(in_thread(_bought.push, len(bought), sheets[0]), TIMES.run_entry)


async def check_budgets(settings: Settings, request: GenerateRequest) -> None:
    """Check that a purchase fits into the connection's budgets per day and month. Does nothing outside a task.

    :raises BudgetExceeded: it does not fit.
    :raises StorageFailed: the spending cannot be read.
    """
    ti, budgets = _task_instance(), settings.budgets()
    if ti is None or not budgets.limits:
        return
    store = shared_store(settings, patience=TIMES.run_entry)
    if store is None:
        return
    entry = RunEntry(owner=Owner.of(ti), operation="hook", output_uri=store.uri)
    windows = WindowCosts(entry, store, settings.account, budgets, key=uuid.uuid4().hex[:16])
    await Account(Prices(settings.account, store), RunCosts(entry, None), windows=windows).check(price_class(request))


async def purchases_of_task(settings: Settings) -> tuple[Owner, CostSheet, Prices] | None:
    """Return the running task, the cost sheet of hooks' purchases in it, and prices; ``None`` outside a task.

    :raises StorageFailed: purchases of earlier tries cannot be read.
    """
    ti = _task_instance()
    if ti is None:
        return None
    owner = Owner.of(ti)
    store = shared_store(settings, patience=TIMES.run_entry)
    prices = Prices(settings.account, store)
    entries = await _bought_before(ti, store, owner)
    for entry in entries:
        if entry.purchase:
            await prices.learn(entry.purchase.price_class, paid(entry.purchase))
    sheets = await purchase_sheets(entries, prices)
    return owner, sheets[0] if sheets else make_sheet(owner, "hook", "", None, ended=False), prices


def task_attributes() -> dict[str, str | int]:
    """Return the span attributes for requests of this task; empty outside a task."""
    ti = _task_instance()
    return {} if ti is None else Owner.of(ti).attributes


async def _bought_before(ti: Any, store: Store | None, owner: Owner) -> list[RunEntry]:
    """Return hooks' purchases in this task instance; Airflow deletes the XComs of earlier tries.

    :raises StorageFailed: those of earlier tries cannot be read. The next call reads them again.
    """
    global _bought
    if _bought.ti is not ti:
        _bought = _Bought(ti=ti)
    bought = _bought
    if store and owner.try_number > 1 and store.uri not in bought.earlier_in:
        entries = await in_time(read_entries(store, owner.run_key), TIMES.run_entry)
        if store.uri not in bought.earlier_in:  # else another coroutine has read them meanwhile
            bought.earlier_in.add(store.uri)
            # After a failure, those of this process are among them.
            is_first = not bought.entries
            bought.entries[:0] = [
                e
                for e in entries
                if e.purchase and e.owner.is_same_task(owner) and (is_first or e.owner.try_number < owner.try_number)
            ]
    return bought.entries


async def _write(store: Store, entry: RunEntry, settings: Settings, prices: Prices) -> None:
    """Write one entry per purchase, since purchases of one task may be concurrent and in several tries."""
    assert entry.purchase is not None  # noqa: S101 -- set by record_purchase()
    cost, its_class = paid(entry.purchase), entry.purchase.price_class
    if not is_known(cost):
        await prices.known(its_class)
    only = RunningSum()
    only.add(its_class, cost)
    spent = only.spending(prices)
    key = uuid.uuid4().hex[:16]
    windows = WindowCosts(entry, store, settings.account, settings.budgets(), key=key)
    await windows.report(windows.this_hour(), spent)
    name = f"{RUNS}/{entry.owner.run_key}/{run_entry_name(key, spent)}"
    try:
        await in_time(store.patiently(lambda: store.write(name, entry.model_dump_json().encode())), TIMES.run_entry)
    except DeepshiError as err:
        log.warning("The run's budget and report lack a hook's purchase (cost in USD: %s): %s", cost, err)
    await prices.learn(its_class, cost)


async def purchase_sheets(entries: Iterable[RunEntry], prices: Prices) -> list[CostSheet]:
    """Return the cost sheets of hooks' purchases: one per task instance, over all its tries.

    :param prices: for purchases whose cost is unknown.
    """
    found: dict[tuple[str, int], list[tuple[Owner, HookPurchase]]] = {}
    for entry in entries:
        if entry.purchase:
            found.setdefault((entry.owner.task_id, entry.owner.map_index), []).append((entry.owner, entry.purchase))
    sheets = []
    for same in found.values():
        tally = _tally([purchase for _, purchase in same])
        await use_known_prices(tally, prices)
        newest = max((owner for owner, _ in same), key=lambda owner: owner.try_number)
        conn_ids = {purchase.deepshi_conn_id for _, purchase in same}
        conn_id = conn_ids.pop() if len(conn_ids) == 1 else None
        # No directory: a hook stores no images.
        sheets.append(make_sheet(newest, "hook", "", None, ended=True, deepshi_conn_id=conn_id, **tally.sums()))
    return sheets


def _tally(purchases: list[HookPurchase]) -> Tally:
    lost = [p for p in purchases if p.charged == "unknown"]
    tally = Tally()
    for p in lost:
        tally.lost(p.model, price_class=p.price_class)
    for p in purchases:
        if p not in lost:
            tally.paid(p.model, "", paid(p), p.images, p.price_class)
    return tally


def _task_instance() -> Any:
    """Return the task instance that runs in this process, if one does."""
    try:
        return get_current_context()["ti"]
    except RuntimeError:
        return None
