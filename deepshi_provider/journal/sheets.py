"""Makes cost sheets from the journal of a task's output directory, for tasks that have ended and that have not."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple

from deepshi_provider.costs.money import is_known, total
from deepshi_provider.costs.sheet import (
    HASH_DIGITS,
    LONGEST_PROMPT,
    LONGEST_WARNING,
    MOST_SOURCES,
    MOST_WARNINGS,
    CostSheet,
    Operation,
    SheetImage,
)
from deepshi_provider.costs.tally import Tally
from deepshi_provider.exceptions import DeepshiError, StorageFailed
from deepshi_provider.journal.directory import DirectoryJournal
from deepshi_provider.journal.entries import IMAGE, Owner, unsettled
from deepshi_provider.journal.journal import Journal, Purchase
from deepshi_provider.journal.prices import Prices
from deepshi_provider.store.store import Store

log = logging.getLogger(__name__)


async def latest_tally(journal: Journal, owner: Owner, prices: Prices) -> Tally:
    """Return the costs and possible costs of a task instance over all its tries.

    If the store fails, return those that this process knows. Never raises.
    """
    try:
        await journal.refresh()
        tally = await journal.tally(owner)
    except StorageFailed as err:
        log.warning("The store could not be read; the cost sheet has only the costs that this process knows: %s", err)
        tally = known_tally(journal, owner, prices)
    await use_known_prices(tally, prices)
    return tally


def known_tally(journal: Journal, owner: Owner, prices: Prices) -> Tally:
    """Return the costs and possible costs of a task instance that this process knows."""
    tally = journal.known_tally(owner)
    tally.is_partial |= not journal.is_listed and owner.try_number > 1
    _use_cached_prices(tally, prices)
    return tally


class NameCosts(NamedTuple):
    """Costs and possible costs of a task instance under one name, over all its tries.

    :param paid: number of attempts that cost money.
    :param lost: number of attempts whose outcome is unknown.
    :param may_have_cost_usd: possible cost in addition to ``cost_usd``; ``None`` if unknown.
    """

    paid: int
    lost: int
    cost_usd: Decimal | None
    may_have_cost_usd: Decimal | None


def name_costs(journal: Journal, owner: Owner, name: str, prices: Prices) -> NameCosts:
    """Return the costs under one name that this process knows; does not read the store."""
    costs = journal.costs_of(owner, name)
    if all(map(is_known, costs)) and not unsettled(journal.attempts(name)):
        return NameCosts(paid=len(costs), lost=0, cost_usd=total(costs), may_have_cost_usd=Decimal(0))
    tally = journal.known_tally_of(owner, name)
    _use_cached_prices(tally, prices)
    sums = tally.sums()
    return NameCosts(
        paid=len(costs),
        lost=sums["unknown_outcomes"],
        cost_usd=total(costs),
        may_have_cost_usd=sums["may_have_cost_usd"],
    )


async def use_known_prices(tally: Tally, prices: Prices) -> None:
    """Pass the known prices to a tally, for its requests of unreported cost. Never raises."""
    for price_class in tally.unpriced():
        await prices.known(price_class)
    _use_cached_prices(tally, prices)


def _use_cached_prices(tally: Tally, prices: Prices) -> None:
    for price_class in tally.unpriced():
        if (price := prices.cached(price_class)) is not None:
            tally.learn(price_class, price)


def make_sheet(
    owner: Owner, operation: Operation, output_uri: str, conn_id: str | None, *, ended: bool, **more: Any
) -> CostSheet:
    """Return a cost sheet; without ``more``, all its sums are 0.

    :param more: other fields of the sheet.
    """
    identity = owner.model_dump()
    return CostSheet(
        **identity, operation=operation, output_uri=output_uri, output_conn_id=conn_id, ended=ended, **more
    )


def sheet_images(
    purchase: Purchase,
    prompt: str | None,
    *,
    key: str | None = None,
    reused: bool = False,
    fallback: int | None = None,
) -> list[SheetImage]:
    """Return images for a cost sheet.

    :param prompt: ``None`` if prompts are not kept.
    :param key: the row's key, in a batch.
    :param reused: whether another task instance bought them.
    :param fallback: position of the fallback that made them; ``None`` for the own request.
    """
    record = purchase.record
    return [
        SheetImage(
            uri=image.uri,
            media_type=image.media_type,
            width=image.width,
            height=image.height,
            key=key and key[:100],
            prompt=prompt and prompt[:LONGEST_PROMPT],
            cost_usd=record.cost_usd,
            of=len(record.images),
            reused=reused,
            attempt=f"{purchase.k}.{record.fingerprint[:16]}",
            fallback=fallback,
            sha256=image.sha256[:HASH_DIGITS],
        )
        for image in record.images
    ]


def sheet_sources(uris: Iterable[str]) -> list[str]:
    """Return the URIs of the first input images of an edit, for a cost sheet."""
    return [plain_uri(uri) for uri in islice(uris, MOST_SOURCES)]


def plain_uri(uri: str) -> str:
    """Return a URI without its query, which may hold a signature."""
    return uri.partition("?")[0]


def sheet_warnings(warnings: Iterable[str]) -> list[str]:
    """Return the first warnings, for a cost sheet."""
    return [warning[:LONGEST_WARNING] for warning in islice(warnings, MOST_WARNINGS)]


async def read_sheet(store: Store, owner: Owner, operation: Operation, *, ended: bool, prices: Prices) -> CostSheet:
    """Return the cost sheet of a task instance so far, from its output directory alone.

    It lacks reused images, which the directory does not show.

    :param prices: for requests of unreported cost.
    :raises DeepshiError: the directory cannot be read.
    """
    with DirectoryJournal(store) if operation == "batch" else Journal(store, IMAGE) as journal:
        await journal.refresh()
        tally = await journal.tally(owner)
    await use_known_prices(tally, prices)
    return make_sheet(owner, operation, store.uri, store.conn_id, ended=ended, **tally.sums())


async def known_sheet(store: Store, owner: Owner, operation: Operation, *, ended: bool, prices: Prices) -> CostSheet:
    """Return the sheet of :func:`read_sheet`, or one of unknown cost if the directory cannot be read."""
    try:
        return await read_sheet(store, owner, operation, ended=ended, prices=prices)
    except DeepshiError as err:
        log.warning("The costs of this task so far could not be read: %s", err)
        return make_sheet(owner, operation, store.uri, store.conn_id, ended=ended, cost_usd=None)
