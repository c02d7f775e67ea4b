"""Checks requests against the model catalog, which is free, before anything is paid for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from deepshi_provider.api.catalog import Catalog
from deepshi_provider.api.contradictions import Complaint, complaints, has_size
from deepshi_provider.api.media import Media, identify
from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.client.client import Client
from deepshi_provider.client.inputs import InputImage, InputImages
from deepshi_provider.client.listing import catalog_in
from deepshi_provider.client.settings import Settings
from deepshi_provider.exceptions import DeepshiError, PreflightFailed
from deepshi_provider.jobs.fallbacks import MODEL_NOT_FOUND
from deepshi_provider.jobs.job import PreflightMode
from deepshi_provider.jobs.kept_catalog import KeptCatalog
from deepshi_provider.store.store import in_thread

log = logging.getLogger(__name__)

#: Seconds for which jobs of a process with the same connection share a catalog.
FRESH = 300.0
#: Seconds before the next attempt to read a catalog that could not be read.
_AGAIN = 10.0
_MOST_LOGGED = 1000


class Preflight:
    """Checks requests against the catalog entries of their models; a job reads the catalog once.

    Fields that the catalog does not describe, or that this provider does not understand, pass. If the catalog cannot
    be read, every request passes.

    :param kept: the copy that the tasks of a run share; ``None`` if they do not.
    """

    def __init__(self, client: Client, mode: PreflightMode, kept: KeptCatalog | None = None) -> None:
        self._client = client
        self._mode = mode
        self._kept = kept
        self._known: Catalog | None = None
        self._logged: set[str] = set()

    async def check(self, request: GenerateRequest, inputs: InputImages | None = None, where: str = "") -> None:
        """Check a request before it is paid for; log contradictions that are not certain.

        :param inputs: the input images of an edit.
        :param where: the fallback's place for messages; empty for the job's own request.
        :raises PreflightFailed: the mode is ``error``, and the request contradicts the catalog.
        """
        if self._mode == "off":
            return
        found = await self._complaints(request, inputs, await self._catalog())
        if found and self._kept:  # the copy may be older than the model or a value of a field
            found = await self._complaints(request, inputs, await self._catalog(is_new=True))
        certain = [complaint for complaint in found if complaint.is_certain and self._mode == "error"]
        self._log(complaint for complaint in found if complaint not in certain)
        if certain:
            about = f"{where}: " if where else ""
            # If the job's own request names an unlisted model, a fallback may be sent.
            code = MODEL_NOT_FOUND if not where and {c.field for c in certain} == {"model"} else None
            raise PreflightFailed(f"The request was not sent: {about}{'; '.join(map(str, certain))}", code=code)

    async def _complaints(
        self, request: GenerateRequest, inputs: InputImages | None, catalog: Catalog
    ) -> list[Complaint]:
        sizes = [image.spool.size_bytes for image in inputs.images] if inputs else []
        source = None
        if inputs and not has_size(request) and "width" in catalog.sizing_of(request.model):
            source = await in_thread(_identified, inputs.images[0])
        return complaints(request, catalog, sizes, source)

    def _log(self, found: Iterable[Complaint]) -> None:
        for complaint in found:
            if complaint.text not in self._logged:
                if len(self._logged) < _MOST_LOGGED:  # the rows of a batch may have inputs of many sizes
                    self._logged.add(complaint.text)
                log.warning("Preflight: %s", complaint)

    async def _catalog(self, *, is_new: bool = False) -> Catalog:
        """Return the catalog.

        :param is_new: not from the run's copy.
        """
        if self._known is None or is_new:
            try:
                self._known = await _catalog_of(self._client, None if is_new else self._kept, self._kept)
            except DeepshiError as err:
                if self._known is None or is_new:  # otherwise another row of the batch has logged it
                    log.warning("The catalog could not be read; requests are sent without checking: %s", err)
                    self._known = Catalog()
        return self._known


def _identified(image: InputImage) -> Media | None:
    """Return kind and size of an input image; ``None`` if it is not whole, which the server decides."""
    try:
        return identify(image.spool.file)
    except (ValueError, OSError):
        return None
    finally:
        with contextlib.suppress(OSError):  # sending it will raise
            image.spool.file.seek(0)


class _Catalog:
    """The last catalog of one connection, or why it could not be read."""

    def __init__(self) -> None:
        self._reading = asyncio.Lock()
        self._found: Catalog | DeepshiError | None = None
        self._read_at = float("-inf")
        self._is_copy = False

    async def read(self, client: Client, copy: KeptCatalog | None, keep: KeptCatalog | None) -> Catalog:
        """Return the catalog; concurrent callers share one request, and its error.

        :param copy: a copy to use instead of a request; without one, a catalog from a copy is requested again.
        :param keep: where to keep a copy of what was requested.
        :raises DeepshiError: the catalog cannot be read.
        """
        async with self._reading:
            fresh_for = FRESH if isinstance(self._found, Catalog) else _AGAIN
            if time.monotonic() - self._read_at > fresh_for or (self._is_copy and copy is None):
                await self._read(client, copy, keep)
                self._read_at = time.monotonic()
            if isinstance(self._found, DeepshiError):
                raise self._found
            assert self._found is not None  # noqa: S101 -- it was read
            return self._found

    async def _read(self, client: Client, copy: KeptCatalog | None, keep: KeptCatalog | None) -> None:
        found = await copy.read() if copy else None
        self._is_copy = found is not None
        if found is not None:
            self._found = found
            return
        try:
            document = await client.catalog_document()
            self._found = await catalog_in(document)
        except DeepshiError as err:
            self._found = err
            return
        if keep:
            await keep.keep(document)


_CATALOGS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Settings, _Catalog]] = WeakKeyDictionary()
_MOST_CATALOGS = 16


async def _catalog_of(client: Client, copy: KeptCatalog | None, keep: KeptCatalog | None) -> Catalog:
    """Return the catalog of a connection; all jobs on this event loop share it."""
    catalogs = _CATALOGS.setdefault(asyncio.get_running_loop(), {})
    if client.settings not in catalogs:
        while len(catalogs) >= _MOST_CATALOGS:
            del catalogs[next(iter(catalogs))]
        catalogs[client.settings] = _Catalog()
    return await catalogs[client.settings].read(client, copy, keep)
