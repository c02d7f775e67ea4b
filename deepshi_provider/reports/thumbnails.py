"""Small pictures for the report; without Pillow there are none."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterable
from typing import BinaryIO

from deepshi_provider.costs.sheet import CostSheet, SheetImage
from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.reports.page import Thumbnail
from deepshi_provider.store.stores import Stores

log = logging.getLogger(__name__)

#: Pictures that a report shows.
MOST = 48
#: Longest side, in pixels.
SIDE = 240
#: Pictures that are read at once.
_AT_ONCE = 4


async def thumbnails(sheets: Iterable[CostSheet], stores: Stores) -> list[Thumbnail]:
    """Return the first pictures of the sheets, small; those that cannot be read are left out."""
    if importlib.util.find_spec("PIL") is None:
        log.info("The report shows no pictures: Pillow is not installed (extra: report)")
        return []
    wanted = [(sheet, image) for sheet in sheets for image in sheet.images][:MOST]
    gate = asyncio.Semaphore(_AT_ONCE)
    made = await asyncio.gather(*(_thumbnail(sheet, image, gate, stores) for sheet, image in wanted))
    return [thumbnail for thumbnail in made if thumbnail]


async def _thumbnail(sheet: CostSheet, image: SheetImage, gate: asyncio.Semaphore, stores: Stores) -> Thumbnail | None:
    async with gate:
        try:
            store, name = stores.object_at(image.uri, sheet.output_conn_id)
            small = await store.process(name, _small)
        except DeepshiError as err:
            log.warning("Not in the report: %s", err)
            return None
    source = f"data:image/webp;base64,{base64.b64encode(small).decode()}"
    return Thumbnail(source=source, task_id=sheet.task_id, map_index=sheet.map_index, image=image)


def _small(file: BinaryIO) -> bytes:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=["PNG", "JPEG", "WEBP"]) as image:
            image.thumbnail((SIDE, SIDE))
            small = io.BytesIO()
            image.convert("RGBA" if image.mode in ("RGBA", "LA", "P", "PA") else "RGB").save(small, "WEBP", quality=75)
    return small.getvalue()
