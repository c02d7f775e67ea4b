"""Thumbnails for the report and for the page "Deepshi costs"."""

from __future__ import annotations

import asyncio
import base64
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

#: Maximum number of images in a report.
MOST = 48
#: Longest side in a report, in pixels.
SIDE = 240
#: Maximum bytes of a thumbnail.
MOST_BYTES = 64 * 1024
#: Maximum pixels of an image that is scaled down, since the whole image is in memory, at four bytes per pixel.
MOST_PIXELS = 50_000_000
#: Number of images read concurrently.
_AT_ONCE = 4
_QUALITIES = (75, 50, 25, 5)


class UnreadableImageError(Exception):
    """No thumbnail of an image can be made; the message says why."""


async def thumbnails(sheets: Iterable[CostSheet], stores: Stores) -> list[Thumbnail]:
    """Return thumbnails of the first images of the sheets; images that cannot be read are left out."""
    wanted = [(sheet, image) for sheet in sheets for image in sheet.images][:MOST]
    gate = asyncio.Semaphore(_AT_ONCE)
    made = await asyncio.gather(*(_thumbnail(sheet, image, gate, stores) for sheet, image in wanted))
    return [thumbnail for thumbnail in made if thumbnail]


async def _thumbnail(sheet: CostSheet, image: SheetImage, gate: asyncio.Semaphore, stores: Stores) -> Thumbnail | None:
    async with gate:
        try:
            store, name = stores.object_at(image.uri, sheet.output_conn_id)
            made = await store.process(name, small)
        except (DeepshiError, UnreadableImageError) as err:
            log.warning("An image is missing in the report: %s", err)
            return None
    source = f"data:image/webp;base64,{base64.b64encode(made).decode()}"
    return Thumbnail(source=source, task_id=sheet.task_id, map_index=sheet.map_index, image=image)


def small(file: BinaryIO, side: int = SIDE) -> bytes:
    """Return a thumbnail as WebP of at most :data:`MOST_BYTES` bytes.

    :param side: maximum pixels of its longest side.
    :raises UnreadableImageError: the file is not an image, or has too many pixels.
    """
    from PIL import Image  # not in every worker that imports operators

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file, formats=["PNG", "JPEG", "WEBP"]) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise UnreadableImageError("The image has too many pixels for a thumbnail")
                image.draft("RGB", (2 * side, 2 * side))
                image.thumbnail((side, side))
                picture = image.convert("RGBA" if image.mode in ("RGBA", "LA", "P", "PA") else "RGB")
        except UnreadableImageError:
            raise
        except Exception as err:  # decoders may raise anything
            raise UnreadableImageError(f"The image cannot be decoded ({type(err).__name__})") from err
    for quality in _QUALITIES:
        made = io.BytesIO()
        picture.save(made, "WEBP", quality=quality)
        if made.tell() <= MOST_BYTES:
            return made.getvalue()
    raise UnreadableImageError("The image's thumbnail would be too large")
