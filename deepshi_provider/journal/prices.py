"""Remembers recent prices of each price class, per connection.

``<output_uri of the connection>/_deepshi_prices/<account>/<class>.json`` is one small object per price class, of which
:data:`MOST_CLASSES` are kept. There are no locks: the last writer wins, and a price that is lost that way is written
again after the next paid answer. There is no built-in price list: a class that was never paid for has no price.

A price that cannot be read is not the same as no price: a task with a limit must not send then, see
:meth:`Prices.checked`. Nothing else depends on prices, so all other errors of the store are only logged.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, ValidationError

from deepshi_provider.costs.money import Usd, is_known
from deepshi_provider.costs.price_class import PriceRange
from deepshi_provider.exceptions import DeepshiError, StorageFailed
from deepshi_provider.journal.entries import short_hash
from deepshi_provider.journal.journal import recorded_prices
from deepshi_provider.journal.lease import TIMES
from deepshi_provider.store.store import Store, in_time

log = logging.getLogger(__name__)

#: Directory, in the connection's ``output_uri``, of all connections' prices.
PRICES = "_deepshi_prices"
#: Seconds for which the highest price is kept; after that, the next price that is paid replaces it.
RECENT = 30 * 24 * 3600.0
#: Maximum number of price classes remembered per connection; if there are more, arbitrary ones are deleted.
MOST_CLASSES = 1000
#: Timeout in seconds for reading or writing a price that no request depends on.
_IN_TIME = 10.0
#: Seconds after a failure in which prices that no request depends on are not read or written again.
_PAUSE = 60.0
#: Seconds after which a price that was not known is read again.
_AGAIN = 2.0
#: Maximum number of a directory's records to read if no price is remembered.
_MOST_RECORDS = 64


class Price(BaseModel):
    """The price of a price class.

    :param cost_usd: the highest cost within :data:`RECENT`.
    :param lowest_usd: the lowest cost since then.
    :param seen_at: when the highest cost was paid, in unix seconds.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    price_class: str
    cost_usd: Usd
    lowest_usd: Usd | None = None
    seen_at: float

    @property
    def range(self) -> PriceRange:
        """The lowest and the highest cost."""
        return PriceRange(self.cost_usd if self.lowest_usd is None else self.lowest_usd, self.cost_usd)


class Prices:
    """The known prices of one connection.

    :param account: see :attr:`deepshi_provider.client.settings.Settings.account`.
    :param memory: where prices are stored: the connection's ``output_uri``. Without it, prices come only from the
        directory's records.
    :param directory: a directory whose records have prices that ``memory`` lacks.
    :param patience: seconds that :meth:`checked` waits for a store that does not answer.
    """

    def __init__(
        self,
        account: str,
        memory: Store | None = None,
        directory: Store | None = None,
        *,
        patience: float = TIMES.run_entry,
    ) -> None:
        self._account = account
        self._memory = memory
        self._directory = directory
        self._patience = patience
        self._remembered: dict[str, Price | None] = {}
        self._paid: dict[str, Decimal] = {}
        self._recorded: dict[str, PriceRange] | None = None
        self._paused_until: dict[str, float] = {}
        self._refreshed: dict[str, Price | None] = {}
        self._refreshed_at: dict[str, float] = {}
        self._learning = asyncio.Lock()

    def take(self, recorded: dict[str, PriceRange]) -> None:
        """Set the prices from the directory's records, if the caller has read them all."""
        self._recorded = dict(recorded)

    def note(self, paid: Mapping[str, Decimal]) -> None:
        """Add what this task has paid, by price class; does not write the store."""
        for price_class, cost_usd in paid.items():
            self._paid[price_class] = max(cost_usd, self._paid.get(price_class, cost_usd))

    def cached(self, price_class: str) -> Decimal | None:
        """Return the highest price of a class that this process knows, in USD; does not read the store."""
        remembered = self._remembered.get(price_class)
        known = [remembered.cost_usd] if remembered else []
        if self._recorded and price_class in self._recorded:
            known.append(self._recorded[price_class].high)
        if price_class in self._paid:
            known.append(self._paid[price_class])
        if price := self._refreshed.get(short_hash(price_class)):
            known.append(price.cost_usd)
        return max(known, default=None)

    def of_key(self, key: str) -> Decimal | None:
        """Return the same by the key of the class; see :func:`~deepshi_provider.journal.entries.short_hash`."""
        names = {*self._remembered, *(self._recorded or {}), *self._paid}
        known = [self.cached(name) for name in names if short_hash(name) == key]
        found = [price for price in known if price is not None]
        if price := self._refreshed.get(key):
            found.append(price.cost_usd)
        return max(found, default=None)

    async def refresh(self, keys: Iterable[str]) -> None:
        """Read the prices of classes that had none, since other tasks may have paid for them meanwhile.

        :param keys: keys of the classes; those with a known price, or just read, are left out.
        :raises StorageFailed: a price cannot be read.
        """
        due = time.monotonic() - _AGAIN
        missing = [key for key in keys if self.of_key(key) is None and self._refreshed_at.get(key, due) <= due]
        try:
            await asyncio.gather(*(in_time(self._refresh(key), self._patience) for key in missing))
        except StorageFailed as err:
            raise StorageFailed(f"Not sent: the price of an earlier request could not be read ({err.message})") from err

    async def known(self, price_class: str) -> Decimal | None:
        """Return the highest recent price of a class, in USD; ``None`` if it was never paid for. Never raises.

        If the store fails, return what this process knows.
        """
        if price_class not in self._remembered:
            await self._quietly("Reading a known price", lambda: self._recall(price_class))
        if self._needs_records(price_class):
            await self._quietly("Reading prices in the directory's records", self._read_records)
        return self.cached(price_class)

    async def checked(self, price_class: str) -> Decimal | None:
        """Return the same for a request under a limit.

        :raises StorageFailed: the price cannot be read; it is never taken as unknown.
        """
        try:
            if price_class not in self._remembered:
                await in_time(self._recall(price_class), self._patience)
            if self._needs_records(price_class):
                await in_time(self._read_records(), self._patience)
        except StorageFailed as err:
            raise StorageFailed(f"Not sent: the known price of this request could not be read ({err.message})") from err
        return self.cached(price_class)

    async def range_of(self, price_class: str) -> PriceRange | None:
        """Return the price range of a class: from the directory's records, or else from the remembered prices."""
        await self.known(price_class)
        remembered = self._remembered.get(price_class)
        return (self._recorded or {}).get(price_class) or (remembered.range if remembered else None)

    async def remembered(self) -> list[Price]:
        """Return all remembered prices, sorted by class.

        :raises StorageFailed: the prices cannot be read.
        """
        if self._memory is None:
            return []
        memory, folder = self._memory, self._folder
        found = await asyncio.gather(*(memory.read(f"{folder}/{name}") for name in await memory.list(folder)))
        return sorted(filter(None, map(_price, found)), key=lambda price: price.price_class)

    async def learn(self, price_class: str, cost_usd: Decimal | None) -> None:
        """Remember a paid price, if it changes the known range."""
        if cost_usd is None or not is_known(cost_usd) or not price_class:
            return
        self.note({price_class: cost_usd})
        if self._memory is None:
            return
        async with self._learning:
            await self._learn(price_class, cost_usd)

    async def _learn(self, price_class: str, cost_usd: Decimal) -> None:
        if price_class not in self._remembered:
            await self._quietly("Reading a known price", lambda: self._recall(price_class))
            if price_class not in self._remembered:
                return  # a higher price may be stored, and must not be replaced
        if _with(self._remembered[price_class], price_class, cost_usd) is None:
            return
        # Another process may have stored a higher price since.
        await self._quietly("Reading a known price", lambda: self._recall(price_class))
        old = self._remembered[price_class]
        if price := _with(old, price_class, cost_usd):
            self._remembered[price_class] = price
            await self._quietly("Storing a price for later requests", lambda: self._write(price, is_new=old is None))

    async def _recall(self, price_class: str) -> None:
        data = await self._memory.read(self._name(price_class)) if self._memory else None
        self._remembered[price_class] = _price(data)
        self._refreshed_at[short_hash(price_class)] = time.monotonic()

    async def _refresh(self, key: str) -> None:
        data = await self._memory.read(f"{self._folder}/{key}.json") if self._memory else None
        self._refreshed[key] = _price(data)
        self._refreshed_at[key] = time.monotonic()

    def _needs_records(self, price_class: str) -> bool:
        return self._recorded is None and not self._remembered.get(price_class)

    async def _read_records(self) -> None:
        self._recorded = {} if self._directory is None else await recorded_prices(self._directory, _MOST_RECORDS)

    async def _quietly(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Await work that no request depends on. Log its failure, and do nothing for a while then."""
        if time.monotonic() < self._paused_until.get(what, 0.0):
            return
        try:
            await in_time(work(), _IN_TIME)
        except DeepshiError as err:
            log.warning("%s failed: %s", what, err.message)
            self._paused_until[what] = time.monotonic() + _PAUSE

    async def _write(self, price: Price, *, is_new: bool) -> None:
        if self._memory is None:
            return
        await self._memory.write(self._name(price.price_class), price.model_dump_json().encode())
        names = sorted(await self._memory.list(self._folder)) if is_new else []
        for name in random.sample(names, max(0, len(names) - MOST_CLASSES)):
            await self._memory.remove(f"{self._folder}/{name}")

    @property
    def _folder(self) -> str:
        return f"{PRICES}/{short_hash(self._account)}"

    def _name(self, price_class: str) -> str:
        return f"{self._folder}/{short_hash(price_class)}.json"


def _with(old: Price | None, price_class: str, cost_usd: Decimal) -> Price | None:
    """Return a class's price with one more paid cost; ``None`` if that changes nothing."""
    now = time.time()
    recent = old.range if old and now - old.seen_at < RECENT else None
    if recent and recent.low <= cost_usd <= recent.high:
        return None
    known = recent.widened(cost_usd) if recent else PriceRange(cost_usd, cost_usd)
    seen_at = old.seen_at if old and recent and known.high == recent.high else now
    return Price(price_class=price_class, cost_usd=known.high, lowest_usd=known.low, seen_at=seen_at)


def _price(data: bytes | None) -> Price | None:
    try:
        return None if data is None else Price.model_validate_json(data)
    except ValidationError:  # being written, or of another version: as if there were none
        return None
