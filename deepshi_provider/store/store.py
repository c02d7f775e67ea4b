"""Stores images, records and claims in a directory, local or in any object store.

All methods of a store are coroutines. The work is done in this module's own threads, because object stores block, even
in their constructors.

Differences between stores are hidden:

- Only some replace an object atomically. In others, and for local files, bytes go to a temporary name first.
- Some ignore the condition that an object must not exist yet. There, a process that creates one waits, and then reads
  whose it is.
- A missing object or local directory is a result, not an error. All other errors, such as a missing bucket, are
  :class:`StorageFailed`, and never mean that an object is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import io
import logging
import os
import random
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar, cast

import fsspec

from deepshi_provider.api.texts import missing_support
from deepshi_provider.exceptions import DeepshiError, InvalidConnection, StorageFailed
from deepshi_provider.store.directory import Directory
from deepshi_provider.store.local import LocalDirectory
from deepshi_provider.store.locations import Location, checked
from deepshi_provider.store.protocols import remote_directory

log = logging.getLogger(__name__)

#: Subdirectory for everything that is not an image. Spark and Hive skip names that begin with ``_``.
STATE = "_deepshi"
#: Seconds to wait for other processes on a store that does not refuse to create an object twice.
SETTLING = 3.0
#: Seconds to keep trying a failing store after payment.
PATIENCE = 300.0

#: Whether a server refuses to create an object that exists, by protocol, bucket and connection.
_CREATES_ONCE: dict[tuple[str, str, str | None], bool] = {}
_THREADS = ThreadPoolExecutor(max_workers=16, thread_name_prefix="deepshi-storage")
#: Own threads for images, since other work must not wait for uploads.
_UPLOADS = ThreadPoolExecutor(max_workers=32, thread_name_prefix="deepshi-upload")

Result = TypeVar("Result")
#: Opens a remote directory: returns fsspec's file system and the path in it. Blocks.
OpenRemote = Callable[[Location, "str | None"], "tuple[Any, str]"]


async def in_thread(work: Callable[..., Result], *args: Any, threads: ThreadPoolExecutor = _THREADS) -> Result:
    """Run blocking work in this module's threads, so that it blocks neither the loop nor Airflow's threads."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(threads, lambda: context.run(work, *args))


async def in_time(work: Awaitable[Result], patience: float) -> Result:
    """Await work in a store with a timeout, since a store that does not answer must not block a task.

    The work is a task of its own: this also ends in a task that cannot be cancelled, unlike ``anyio.fail_after``, and
    loses no cancellation, unlike ``asyncio.wait_for`` before Python 3.12.

    :param patience: seconds.
    :raises StorageFailed: the store has not answered in time.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait([task], timeout=patience)
    except BaseException:
        task.cancel()
        raise
    if not done:
        task.cancel()
        raise StorageFailed(f"The object store has not answered for {patience:g} s")
    return task.result()


class CreatedLate(Exception):
    """An object was created so slowly that another process may have concluded that its own was first.

    :ivar took: seconds from the look for the object to its creation.
    """

    def __init__(self, message: str, took: float) -> None:
        super().__init__(message)
        self.took = took


class Store:
    """One directory of an object store.

    :param uri: local path or URI of the directory; ``s3://conn@bucket/key`` includes the connection.
    :param conn_id: Airflow connection of the store; ``None`` uses the store's own defaults.
    :param open_remote: opens the directory if it is not local.
    :param patience: seconds for which :meth:`patiently` keeps trying.
    :ivar uri: the directory's URI, without any connection id.
    :raises InvalidRequest: the URI does not name the same directory for all programs.
    """

    def __init__(
        self,
        uri: str,
        conn_id: str | None = None,
        *,
        open_remote: OpenRemote | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self.location = checked(uri)
        self.protocol = self.location.protocol
        self.uri = self.location.uri
        self.conn_id = self.location.conn_id or conn_id
        self._patience = patience
        self._server = self.protocol, self.location.bucket, self.conn_id
        self._open_remote = open_remote or with_fsspec
        self._opened: Directory | None = None
        self._files: Callable[[], io.FileIO | None] | None = None
        self._knows_files = False
        self._learning = asyncio.Lock()

    def uri_of(self, name: str) -> str:
        """Return the URI of an object in this directory, without any connection id."""
        return f"{self.uri}/{name}"

    async def list(self, folder: str = STATE, prefix: str = "") -> dict[str, int]:
        """Return names and lengths (bytes) of the objects in a folder, read from the store; empty if there are none.

        :param prefix: only the objects whose names begin with it.
        """
        return await self.scan(dict, folder, prefix)

    async def scan(
        self, take: Callable[[Iterator[tuple[str, int]]], Result], folder: str = STATE, prefix: str = ""
    ) -> Result:
        """Return the result of ``take`` for the items of :meth:`list`, without all of them in memory.

        :param prefix: only the objects whose names begin with it.
        """
        return await self._run(f"list {folder!r}", lambda: take(self._directory.names(folder, prefix)))

    async def read(self, name: str) -> bytes | None:
        """Return a small object, or ``None`` if there is none."""
        return await self._run(f"read {name!r}", lambda: self._directory.read(name))

    async def size(self, name: str) -> int | None:
        """Return the length of an object in bytes, or ``None`` if there is none."""
        return await self._run(f"look for {name!r}", lambda: self._directory.size(name))

    async def age(self, name: str) -> float:
        """Return the age of an object in seconds, by the store's clock.

        Writes and removes a small object to read that clock.

        :raises StorageFailed: also if the store does not return modification times.
        """
        return await self._run(f"find the age of {name!r}", self._age, name)

    async def process(self, name: str, work: Callable[[BinaryIO], Result]) -> Result:
        """Open an object as a binary file in a thread, and return the result of ``work`` for it."""

        def opened() -> Result:
            with self._directory.open(name) as file:
                return work(file)

        return await self._run(f"read {name!r}", opened)

    async def create(self, name: str, data: bytes) -> bool:
        """Write an object that does not exist yet; return whether it holds this call's data.

        The object is read back if the store refuses it: a client that has retried after a lost answer may be refused
        its own object.

        :raises CreatedLate: the store does not refuse to create an object twice, and was too slow to decide which
            process was first. The object exists, but may be another process's.
        :raises StorageFailed: the server accepted the object, but does not have it.
        """
        creates_once = await self._creates_once()
        if creates_once is None:
            async with self._learning:  # one claim tests this for all
                creates_once = await self._creates_once()
                if creates_once is None:
                    creates_once = await self._run("create an object twice", self._refuses_second, name)
                    self._learn(creates_once)
        if creates_once:
            return await self._run(f"create {name!r}", self._create, name, data)
        return await self._create_slowly(name, data)

    async def _create_slowly(self, name: str, data: bytes) -> bool:
        asked_at = time.monotonic()
        if (found := await self.read(name)) is not None:
            return found == data
        if made := await self._run(f"create {name!r}", lambda: self._directory.create(name, data)):
            # After this pause, all processes that saw no object have written theirs, and the last one has created it.
            took = time.monotonic() - asked_at
            if took > SETTLING - 0.5:
                raise CreatedLate(
                    f"{self.uri_of(name)} took {took:.1f} s, on a store that ignores If-None-Match; another process "
                    "may have been first",
                    took,
                )
            await asyncio.sleep(SETTLING)
        found = await self.read(name)
        if found is None and made:
            raise StorageFailed(
                f"{self.uri_of(name)}: the store contradicts itself: the object was created, but does not exist"
            )
        return found == data

    def _refuses_second(self, name: str) -> bool:
        """Test with another object whether the store refuses to create an object that exists."""
        probe = f"{name}.{uuid.uuid4().hex}"
        try:
            self._directory.create(probe, b"{}")
            return not self._directory.create(probe, b"{}")
        finally:
            with contextlib.suppress(Exception):  # claims work without the right to delete; readers skip the object
                self._directory.remove(probe)

    def _create(self, name: str, data: bytes) -> bool:
        return self._directory.create(name, data) or self._directory.read(name) == data

    async def _creates_once(self) -> bool | None:
        """Return whether the store refuses to create an object that exists; ``None`` if not yet known."""
        opened = self._opened
        directory = await self._run("open the store", lambda: self._directory) if opened is None else opened
        return _CREATES_ONCE.get(self._server) if directory.creates_once is None else directory.creates_once

    def _learn(self, creates_once: bool) -> None:
        _CREATES_ONCE[self._server] = creates_once
        if not creates_once:
            log.warning(
                "The store of %s ignores If-None-Match, so each claim takes %g s longer; see 'Stores that are weaker' "
                "in the documentation",
                self.uri,
                SETTLING,
            )

    async def write(self, name: str, data: bytes, *, threads: ThreadPoolExecutor = _THREADS) -> None:
        """Write a small object; readers never see a part of it.

        :param threads: the threads to use.
        """
        await self._run(f"write {name!r}", lambda: self._directory.write(name, data), threads=threads)

    async def sign(self, name: str, seconds: int) -> str | None:
        """Return a signed URL, by which anyone can read an object for some time; ``None`` if the store has none."""
        return await self._run(f"sign a URL of {name!r}", lambda: self._directory.sign(name, seconds))

    async def has_custom_endpoint(self) -> bool:
        """Return whether this is a store with the S3 API that is not Amazon's."""
        return await self._run("find the server", lambda: self._directory.has_custom_endpoint())

    async def check(self) -> None:
        """Check that Airflow can open this kind of store; does not access the store.

        :raises InvalidConnection: its connection is not defined, or a package is missing.
        """
        await self._run("open the store", lambda: self._directory)

    async def remove(self, name: str) -> None:
        """Delete an object, if it exists."""
        await self._run(f"delete {name!r}", lambda: self._directory.remove(name))

    async def files(self) -> Callable[[], io.FileIO | None] | None:
        """Return a function that opens unnamed files, which :meth:`publish` puts in place without copying.

        ``None`` if the directory is remote, or its file system, such as NFS, has no unnamed files. The function is fast
        enough for a coroutine to call it, and returns ``None`` if it fails.
        """
        if not self._knows_files:
            self._files = await in_thread(self._find_files)
            self._knows_files = True
        return self._files

    async def publish(self, name: str, open_source: Callable[[], BinaryIO], media_type: str) -> None:
        """Put an image in place; readers never see a part of it.

        :param open_source: opens the image at its beginning; called in a thread.
        """
        await self._run(f"store {name!r}", self._publish, name, open_source, media_type, threads=_UPLOADS)

    async def write_file(
        self, name: str, fill: Callable[[BinaryIO], None], media_type: str, *, patiently: bool = False
    ) -> None:
        """Write an object of any length; readers never see a part of it.

        :param fill: writes the object's bytes to a local file; called in a thread.
        :param patiently: keep trying if the store fails, but not if the local file does; see :meth:`patiently`.
        """
        with await self._run(f"write {name!r}", _filled, fill) as file:
            publish = functools.partial(self.publish, name, functools.partial(_from_beginning, file), media_type)
            await (self.patiently(publish) if patiently else publish())

    async def patiently(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Await ``work()``; while the store fails, try again with growing pauses. For paid images.

        Not with tenacity, since this is called several times per image: each call would leave reference cycles of 40
        objects for the garbage collector, and for a full collection if they are in use during a smaller one.
        """
        ends_at = time.monotonic() + self._patience
        longest = 0.5
        while True:
            try:
                return await work()
            except StorageFailed as err:
                if time.monotonic() >= ends_at:
                    raise
                pause = random.uniform(0, longest)  # noqa: S311 -- spreads load, not a secret
                log.warning("%s; trying again in %.1f s", err, pause)
            await asyncio.sleep(pause)
            longest = min(10.0, 2 * longest)

    async def _run(
        self, what: str, work: Callable[..., Result], *args: Any, threads: ThreadPoolExecutor = _THREADS
    ) -> Result:
        was_open = self._opened is not None
        try:
            return await in_thread(work, *args, threads=threads)
        except DeepshiError:
            raise
        except Exception as err:  # each object store raises its own errors
            # Later, a package that cannot be imported was there before: it is being replaced.
            if not was_open and (hint := missing_support(self.uri, err)):
                raise InvalidConnection(f"{self.uri}: {hint}") from err
            raise StorageFailed(f"Could not {what} in {self.uri}: {type(err).__name__}: {err}") from err

    def _age(self, name: str) -> float:
        now = f"{STATE}/{uuid.uuid4().hex}.clock.json"
        self._directory.write(now, b"{}")
        try:
            return self._directory.modified(now) - self._directory.modified(name)
        finally:
            self._directory.remove(now)

    @property
    def _directory(self) -> Directory:
        """The directory, opened at its first use, in a thread, since object stores block in their constructors."""
        if self._opened is None:
            if self.location.protocol == "file":
                self._opened = LocalDirectory(f"/{self.location.path}")
            else:
                fs, path = self._open_remote(self.location, self.conn_id)
                self._opened = remote_directory(self.location.protocol, fs, path)
        return self._opened

    def _publish(self, name: str, open_source: Callable[[], BinaryIO], media_type: str) -> None:
        with open_source() as source:
            self._directory.publish(name, source, media_type)

    def _find_files(self) -> Callable[[], io.FileIO | None] | None:
        probe = self._directory.unnamed_file()
        if probe is None:
            return None
        probe.close()
        return self._directory.unnamed_file


def _filled(fill: Callable[[BinaryIO], None]) -> BinaryIO:
    """Return a temporary file with the content, which is deleted when closed."""
    file = cast(BinaryIO, tempfile.TemporaryFile(prefix="deepshi-"))  # noqa: SIM115 -- the caller closes it
    try:
        fill(file)
        file.flush()
    except BaseException:
        with contextlib.suppress(OSError):  # closing may fail too, on a full disk
            file.close()
        raise
    return file


def _from_beginning(file: BinaryIO) -> BinaryIO:
    """Open a temporary file again, for a thread that may continue after its coroutine is cancelled."""
    again = open(os.dup(file.fileno()), "rb")  # noqa: SIM115 -- likewise
    again.seek(0)
    return again


def with_fsspec(location: Location, conn_id: str | None) -> tuple[Any, str]:
    """Open a remote directory with the credentials in the environment.

    :raises InvalidConnection: a connection is given; only Airflow has connections.
    """
    if conn_id:
        raise InvalidConnection(f"The connection {conn_id!r} of the object store is not available outside Airflow")
    fs, path = fsspec.core.url_to_fs(location.uri)
    return fs, str(path)
