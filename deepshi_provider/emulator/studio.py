"""Makes the pictures of orders: waits, paints and charges. Orders cannot be cancelled."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal

from .orders import Order
from .padding import assemble
from .painting import Motif, paint
from .pictures import Picture

_KEPT_REQUESTS = 64
_PREVIEW_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class Made:
    """A finished order."""

    order: Order
    pictures: list[Picture]
    previews: list[Picture]
    cost_usd: Decimal


class Studio:
    """Makes pictures and keeps those of the last 64 requests.

    The API has no cancellation, so an order is finished, and charged, even after its client has left.
    """

    def __init__(self) -> None:
        self.recent: OrderedDict[str, list[Picture]] = OrderedDict()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="paint")
        self._running: set[asyncio.Task[Made]] = set()
        self._released = asyncio.Event()

    def hold(self, held: bool) -> None:
        """Hold finished pictures back, or release all of them."""
        (self._released.clear if held else self._released.set)()

    def start(
        self,
        request_id: str,
        order: Order,
        *,
        latency: float,
        picture_bytes: int | None,
        previews: bool,
        charge: Callable[[Made], None],
    ) -> asyncio.Task[Made]:
        """Start an order.

        :param latency: minimum seconds that it takes.
        :param previews: whether to make two previews too.
        :param charge: called when the pictures are finished.
        """

        async def work() -> Made:
            await asyncio.sleep(latency)
            await self._released.wait()
            loop = asyncio.get_running_loop()
            made = await loop.run_in_executor(self._pool, _make, order, picture_bytes, previews)
            self._keep(request_id, made.pictures)
            charge(made)
            return made

        task = asyncio.create_task(work())
        self._running.add(task)  # the event loop keeps only weak references to tasks
        task.add_done_callback(self._running.discard)
        return task

    def _keep(self, request_id: str, pictures: list[Picture]) -> None:
        self.recent[request_id] = pictures
        if len(self.recent) > _KEPT_REQUESTS:
            self.recent.popitem(last=False)


def _make(order: Order, picture_bytes: int | None, with_previews: bool) -> Made:
    size = (order.sizing.width, order.sizing.height)
    pictures = [_picture(order, index, size, picture_bytes) for index in range(order.n)]
    side = (_PREVIEW_SIDE, _PREVIEW_SIDE)
    previews = [_picture(order, index, side, None) for index in range(2 * with_previews)]
    return Made(order=order, pictures=pictures, previews=previews, cost_usd=order.cost_usd)


def _picture(order: Order, index: int, size: tuple[int, int], total: int | None) -> Picture:
    motif = Motif(
        prompt=order.prompt,
        look=(order.look, index),
        caption=f"{order.model.id} {order.sizing}",
        width=size[0],
        height=size[1],
        output_format=order.output_format,
        source=order.source,
    )
    note = f"Deepshi emulator, seed {order.seed}, picture {index}".encode()
    picture = assemble(paint(motif), order.output_format, note, total)
    _ = picture.base64  # encoded here, in the pool, and cached
    return picture
