"""Cost sheets from what a task instance has left in its output directory, whether or not it came to its end."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from itertools import islice
from typing import Any

from deepshi_provider.costs.sheet import UNNAMED, AtLeast, CostSheet, ModelCosts, Operation, SheetImage, Tally, paid
from deepshi_provider.exceptions import DeepshiError, StorageFailed
from deepshi_provider.journal.entries import IMAGE, Owner, Record, Sending, StoredImage, unsettled
from deepshi_provider.journal.journal import Ledger
from deepshi_provider.journal.listing import Listing
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.spending import doubtful_claims
from deepshi_provider.store.store import Store, in_thread

log = logging.getLogger(__name__)

#: Objects that are read at once.
_AT_ONCE = 64


async def add_up(
    store: Store,
    owner: Owner,
    name: str | None = None,
    cached: Callable[[str], Record | None] | None = None,
    *,
    prices: Prices,
) -> Tally:
    """Add up what a task instance has paid, and may have paid, over all its tries.

    :param prices: asked for what the task's own records do not know a price of.
    :param name: only of the sendings under this name.
    :param cached: returns a record by the name of its object, if it is at hand.
    :raises StorageFailed: the directory cannot be listed, or a record cannot be read.
    """
    try:
        if name is not None:
            tally = await _add_up_one(Ledger(store, name), store, owner, cached or _not_at_hand)
        else:
            with Listing() as listing:
                tally = await _add_up(store, owner, listing, cached)
    except sqlite3.Error as err:  # the disk for temporary files is full
        raise StorageFailed(f"The records of {store.uri} could not be added up: {err}") from err
    await ask_prices(tally, prices)
    return tally


async def ask_prices(tally: Tally, prices: Prices) -> None:
    """Let a tally know what others paid for requests like those whose cost is not known. Never raises."""
    for price_class in tally.unpriced():
        if (price := await prices.known(price_class)) is not None:
            tally.learn(price_class, price)


async def _add_up_one(ledger: Ledger, store: Store, owner: Owner, cached: Callable[[str], Record | None]) -> Tally:
    """Add up the few sendings under one name, in memory."""
    sendings = await ledger.sendings()
    tally = Tally([doubt async for doubt in doubtful_claims(store, owner, iter(unsettled(sendings)))])
    mine = (sending for sending in sendings if sending.record and sending.task_key == owner.task_key)
    book(tally, owner, [cached(str(s.record)) or await ledger.read_record(s) for s in mine])
    return tally


def _not_at_hand(_: str) -> None:
    return None


async def _add_up(store: Store, owner: Owner, listing: Listing, cached: Callable[[str], Record | None] | None) -> Tally:
    await store.scan(listing.take)
    tally = Tally([doubt async for doubt in doubtful_claims(store, owner, listing.unsettled())])
    ledger = Ledger(store, "")
    for some in _chunks(listing.records(owner.task_key)):
        missing = await in_thread(_book_cached, tally, owner, some, cached) if cached else some
        book(tally, owner, await asyncio.gather(*map(ledger.read_record, missing)))
    return tally


def book(tally: Tally, owner: Owner, records: Iterable[Record]) -> None:
    """Add those of the records that are of a task instance."""
    for record in records:
        if record.owner.is_same_task(owner):
            tally.paid(record.model, record.fingerprint, paid(record), len(record.images), record.price_class)


def make_sheet(
    owner: Owner, operation: Operation, output_uri: str, conn_id: str | None, *, ended: bool, **more: Any
) -> CostSheet:
    """Return a sheet; without more, nothing was paid.

    :param more: other fields of the sheet.
    """
    identity = owner.model_dump()
    return CostSheet(
        **identity, operation=operation, output_uri=output_uri, output_conn_id=conn_id, ended=ended, **more
    )


def sheet_images(images: Iterable[StoredImage], key: str | None = None) -> list[SheetImage]:
    """Return images as a sheet names them."""
    return [
        SheetImage(uri=i.uri, media_type=i.media_type, width=i.width, height=i.height, key=key and key[:100])
        for i in images
    ]


async def read_sheet(store: Store, owner: Owner, operation: Operation, *, ended: bool, prices: Prices) -> CostSheet:
    """Return what a task instance has cost so far, from its directory alone.

    What it reused does not show there.

    :param prices: asked where costs are in doubt.
    :raises DeepshiError: the directory cannot be read.
    """
    tally = await add_up(store, owner, None if operation == "batch" else IMAGE, prices=prices)
    return make_sheet(owner, operation, store.uri, store.conn_id, ended=ended, **tally.sums())


async def known_sheet(store: Store, owner: Owner, operation: Operation, *, ended: bool, prices: Prices) -> CostSheet:
    """Return the sheet of :func:`read_sheet`; if the directory cannot be read, one that does not know what was paid."""
    try:
        return await read_sheet(store, owner, operation, ended=ended, prices=prices)
    except DeepshiError as err:
        log.warning("What the task has cost so far cannot be read: %s", err)
        return make_sheet(owner, operation, store.uri, store.conn_id, ended=ended, cost_usd=None)


async def completed_sheet(known: CostSheet, store: Store, prices: Prices) -> CostSheet:
    """Return the sheet of :func:`read_sheet`, with what a failing store did not take.

    :param known: what the process knows that sent the requests; it is returned if the directory cannot be read.
    """
    owner = Owner(**known.model_dump(include=set(Owner.model_fields)))
    try:
        costs = await read_sheet(store, owner, known.operation, ended=known.ended, prices=prices)
    except DeepshiError as err:
        log.warning("The cost sheet is made without the store: %s", err)
        return known
    unrecorded = (known.cost_usd or Decimal(0)) - (costs.cost_usd or Decimal(0))
    model = known.models[0].model if known.models else UNNAMED
    if unrecorded <= 0:
        return costs
    return costs.with_unrecorded(model, AtLeast(unrecorded) if known.untold > costs.untold else unrecorded)


def told_sheet(
    sheet: CostSheet, cost_usd: Decimal | None, unknown_outcomes: int, model: str | None, *, untold: int = 0
) -> CostSheet:
    """Return a sheet whose directory cannot be read, with what is known without it."""
    sums: dict[str, Any] = {
        "cost_usd": cost_usd,
        "unknown_outcomes": unknown_outcomes,
        "untold": untold,
        "may_have_cost_usd": None if unknown_outcomes or untold else Decimal(0),
    }
    models = [ModelCosts(model=model or UNNAMED, **sums)] if cost_usd or unknown_outcomes or untold else []
    return sheet.model_copy(update={**sums, "models": models})


def _book_cached(
    tally: Tally, owner: Owner, sendings: list[Sending], cached: Callable[[str], Record | None]
) -> list[Sending]:
    """Add the sendings whose record is at hand, and return the others."""
    missing = []
    for sending in sendings:
        if record := cached(str(sending.record)):
            book(tally, owner, [record])
        else:
            missing.append(sending)
    return missing


def _chunks(sendings: Iterator[Sending]) -> Iterator[list[Sending]]:
    while some := list(islice(sendings, _AT_ONCE)):
        yield some
