"""Image generation as a tool for agents: plain arguments, a JSON result, and a spending limit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.client.result import ImagesResult
from deepshi_provider.costs.money import as_number, usd
from deepshi_provider.costs.price_class import price_class
from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.exceptions import BudgetExceeded, InvalidRequest, StorageFailed
from deepshi_provider.hooks.directories import STORES, default_output_uri
from deepshi_provider.hooks.purchases import purchases_of_task
from deepshi_provider.store.store import STATE, Store

if TYPE_CHECKING:
    from deepshi_provider.hooks.deepshi import DeepshiHook, Keep

_PROBE = f"{STATE}/draw.json"


async def draw(
    hook: DeepshiHook,
    buy: Callable[[Keep], Coroutine[Any, Any, ImagesResult]],
    request: GenerateRequest,
    max_cost_usd: Decimal | None,
) -> dict[str, Any]:
    """Buy and store images in the task's own directory; see :meth:`DeepshiHook.draw`.

    :param buy: sends the request, and passes the images to its argument, also if the task is cancelled.
    """
    settings = await hook.asettings()
    before = await purchases_of_task(settings)
    if before is None or settings.output_uri is None:
        raise InvalidRequest(
            "Nothing was sent: draw() stores images for the task that runs it. Call it inside a task, and set "
            f"output_uri in the extra of connection {settings.conn_id!r}"
        )
    owner, sheet, prices = before
    if max_cost_usd is not None:
        _check(sheet, max_cost_usd, await prices.checked(price_class(request)) or Decimal(0))
    store = STORES.at(default_output_uri(settings.output_uri, owner), settings.output_conn_id)
    # Check that the store is writable before anything is paid for.
    await store.write(_PROBE, b"{}")
    await store.remove(_PROBE)
    images: list[dict[str, Any]] = []

    async def keep(result: ImagesResult) -> None:
        for image in result.images:
            name = f"{image.sha256[:16]}.{image.extension}"
            try:
                await store.patiently(functools.partial(store.publish, name, image.open, image.media_type))
            except StorageFailed as err:
                raise _lost(err, result.cost_usd) from err
            images.append(_described(store, name, image.width, image.height, image.media_type))

    with await buy(keep) as result:
        return {"images": images, "model": result.model or request.model, "cost_usd": as_number(result.cost_usd)}


def _check(sheet: CostSheet, most: Decimal, price: Decimal) -> None:
    """Refuse a purchase that would, or may, exceed the task's limit."""
    doubt = sheet.may_have_cost_usd
    spent = (sheet.cost_usd or Decimal(0)) + (doubt or Decimal(0))
    if doubt is None or spent >= most or spent + price > most:
        shown = "an unknown amount" if doubt is None else usd(spent)
        raise BudgetExceeded(
            f"Not sent: hooks have spent {shown} in this task, and max_cost_usd is {usd(most)}; the price of this "
            f"request is {usd(price) if price else 'not known yet'}"
        )


def _lost(err: StorageFailed, cost_usd: Decimal | None) -> StorageFailed:
    message = f"{err.message}. The image was paid for and is lost"
    return StorageFailed(message, charged="yes", cost_usd=cost_usd, sends=1)


def _described(store: Store, name: str, width: int, height: int, media_type: str) -> dict[str, Any]:
    return {"uri": store.uri_of(name), "width": width, "height": height, "media_type": media_type}
