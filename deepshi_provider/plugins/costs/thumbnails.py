"""Thumbnails for the gallery, cached in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict

from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.plugins.costs.pictures import PictureRefusedError, open_picture
from deepshi_provider.reports.thumbnails import UnreadableImageError, small

#: Longest side in pixels: twice that of a card, for high-resolution screens.
SIDE = 400
#: Maximum bytes of the cache.
MOST_KEPT_BYTES = 16 * 2**20

#: Number of images decoded concurrently: a large one takes 200 MB for a moment.
_GATE = threading.BoundedSemaphore(2)


class Thumbnails:
    """Makes thumbnails, and caches the most recently requested."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, text: str, sheet: CostSheet, number: int) -> bytes:
        """Return an image of a sheet as WebP, at most :data:`~deepshi_provider.reports.thumbnails.MOST_BYTES` long.

        :param text: the sheet's text in the database, as a key of the cache: it differs for another image.
        :raises PictureRefusedError: it is not an image in the sheet's output directory, or too large.
        :raises PictureMissingError: there is no such image, or the store cannot be read.
        """
        key = (text, number)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = _made(sheet, number)
        self._keep(key, made)
        return made

    def _keep(self, key: tuple[str, int], made: bytes) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._size += len(made) + len(key[0])
            while self._size > MOST_KEPT_BYTES:
                (text, _), gone = self._kept.popitem(last=False)
                self._size -= len(gone) + len(text)


def _made(sheet: CostSheet, number: int) -> bytes:
    with _GATE:
        picture = open_picture(sheet, number)
        with picture.file as file:
            try:
                return small(file, SIDE)
            except UnreadableImageError as err:
                raise PictureRefusedError(str(err)) from err
