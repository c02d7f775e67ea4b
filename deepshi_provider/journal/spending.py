"""What a task instance has spent, as limits count it: what was reported, and what may come on top."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from decimal import Decimal
from itertools import islice
from typing import NamedTuple

from pydantic import ValidationError

from deepshi_provider.costs.sheet import UNNAMED, Doubt, paid, total, usd
from deepshi_provider.journal.entries import Claim, Owner, Sending, unsettled
from deepshi_provider.journal.journal import Ledger
from deepshi_provider.journal.prices import Prices
from deepshi_provider.store.store import STATE, Store

#: Requests of unknown price that are paid for, or may be, before a limit stops further ones: over all tries of a task
#: for its own limit, over all its tasks for a run's.
MOST_BLIND = 3
#: Objects that are read at once.
_AT_ONCE = 64


class Spending(NamedTuple):
    """What was spent.

    :param usd: what the API reported.
    :param possible_usd: unreported costs and unknown outcomes, at the known prices of their classes.
    :param blind: those of them whose class has no known price.
    """

    usd: Decimal = Decimal(0)
    possible_usd: Decimal = Decimal(0)
    blind: int = 0

    @property
    def most_usd(self) -> Decimal:
        """The sum of what was spent and what may have been."""
        return self.usd + self.possible_usd

    def plus(self, other: Spending) -> Spending:
        """Return the sum of both."""
        return Spending(self.usd + other.usd, self.possible_usd + other.possible_usd, self.blind + other.blind)

    def in_words(self) -> str:
        """Return the sum as a log line names it: as a range if a part of it is in doubt."""
        if self.blind:
            return f"at least {usd(self.usd)} ({self.blind} requests of unknown price)"
        return f"at least {usd(self.usd)}, up to about {usd(self.most_usd)}" if self.possible_usd else usd(self.usd)

    def __str__(self) -> str:
        return usd(self.usd) + (f" and perhaps {usd(self.possible_usd)} more" if self.possible_usd else "")


class Doubts:
    """Requests that were or may have been paid for at a price that nobody reported, or not as a whole."""

    def __init__(self, doubts: Iterable[Doubt] = ()) -> None:
        self._doubts = Counter(map(_priced, doubts))

    def add(self, doubt: Doubt) -> None:
        """Add a request."""
        self._doubts[_priced(doubt)] += 1

    async def priced(self, spent: Decimal, prices: Prices | None) -> Spending:
        """Return what they may come to, beside what was spent."""
        possible, blind = Decimal(0), 0
        for doubt, count in self._doubts.items():
            price = await prices.known(doubt.price_class) if prices else None
            possible += doubt.remainder(price or Decimal(0)) * count
            blind += count if price is None else 0
        return Spending(spent, possible, blind)


def _priced(doubt: Doubt) -> Doubt:
    """Return what sets a doubt's price, to count those that are alike."""
    return doubt._replace(model="", fingerprint="")


def refusal(
    name: str,
    limit: Decimal,
    spent: Spending,
    price: Decimal | None,
    *,
    flying: Decimal | None = None,
    whose: str = "",
) -> str:
    """Return why a request may not start under a limit; empty if it may.

    :param price: of the request, the highest known of its class; ``None`` if there is none.
    :param flying: what the requests in flight will cost; ``None`` if there are none.
    :param whose: more about what was spent.
    """
    known = f"Not sent: {spent} of {name} {usd(limit)} are spent{whose}"
    advice = f"Raise {name} and clear the task to go on"
    if price is not None:
        if spent.most_usd + (flying or Decimal(0)) + price <= limit:
            return ""
        return f"{known}, and the next picture costs {usd(price)}. {advice}"
    if spent.blind >= MOST_BLIND:
        lost = f"{spent.blind} pictures came or were lost without any price being told"
        return f"{known} as far as is known; {lost}. {advice}"
    return f"{known}. {advice}" if flying is not None or spent.most_usd >= limit else ""


async def doubtful_claims(store: Store, owner: Owner, claims: Iterator[Sending]) -> AsyncIterator[Doubt]:
    """Yield those claims that are of a task instance, or may be for all that can be read of them."""
    while some := list(islice(claims, _AT_ONCE)):
        for data in await asyncio.gather(*(store.read(f"{STATE}/{sending.claim}") for sending in some)):
            if data is None:
                continue  # it turned out to be free
            try:
                claim = Claim.model_validate_json(data)
            except ValidationError:
                yield Doubt(UNNAMED)
                continue
            if claim.owner.is_same_task(owner):
                yield Doubt(claim.model, claim.fingerprint, claim.price_class)


async def earlier_costs(
    store: Store, ledger: Ledger, owner: Owner, sendings: list[Sending]
) -> tuple[Decimal | None, list[Doubt]]:
    """Return what a task instance has paid for some sendings, as far as the API reported it, and what is in doubt.

    :returns: USD, as :func:`~deepshi_provider.costs.sheet.total`, and each request in doubt.
    :raises StorageFailed: a record or a claim cannot be read.
    """
    mine = [sending for sending in sendings if sending.record and sending.task_key == owner.task_key]
    records = [record for s in mine if (record := await ledger.read_record(s)).owner.is_same_task(owner)]
    doubts = [record.doubt for record in records if not record.is_cost_known]
    doubts += [claim async for claim in doubtful_claims(store, owner, iter(unsettled(sendings)))]
    return total(map(paid, records)), doubts
