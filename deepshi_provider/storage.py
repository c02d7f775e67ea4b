"""Images, records and claims on any object store that Airflow knows.

A store is one directory, opened through ``ObjectStoragePath`` with an Airflow connection. All methods are coroutines:
the work is done in threads of this module's own, because object stores block, also in their constructors.

What an object store cannot do by itself is made up for:

- only some stores replace an object at once; elsewhere (local files too) bytes go to a temporary name first;
- some stores ignore that an object must not exist yet; there, who creates one waits and looks whose it is;
- that an object or a local directory does not exist is an answer to a question, every other error, also that a bucket
  does not exist, is :class:`StorageFailed`, never "there is none".
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import functools
import io
import logging
import os
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar, cast

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.sdk import BaseHook, ObjectStoragePath

from deepshi_provider.api.texts import missing_support
from deepshi_provider.exceptions import DeepshiError, InvalidConnection, StorageFailed
from deepshi_provider.locations import checked

log = logging.getLogger(__name__)

#: Directory, beside the images, of all that is not an image. Spark and Hive skip names that begin with ``_``.
STATE = "_deepshi"
#: Seconds that a process waits for others on a store that does not refuse to create an object twice.
SETTLING = 3.0
#: After payment a failing store is tried again for this long, in seconds.
PATIENCE = 300.0

_BLOCK = 5 * 2**20  # bytes; the smallest part of an S3 upload, to keep many uploads at once small
_ATOMIC = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "wasb", "wasbs"})
_CONTENT_TYPE_OPTION = {"s3": "ContentType", "s3a": "ContentType", "gs": "content_type", "gcs": "content_type"}
_S3 = frozenset({"s3", "s3a"})
#: How file systems say that they have no hard links.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EXDEV})
#: Whether a server refuses to create an object that exists, by protocol, bucket and connection.
_CREATES_ONCE: dict[tuple[str, str, str | None], bool] = {}
_THREADS = ThreadPoolExecutor(max_workers=16, thread_name_prefix="deepshi-storage")
#: Images go through few threads: each holds one in memory while it uploads, and signs of life must not wait for them.
_UPLOADS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="deepshi-upload")

Result = TypeVar("Result")


async def in_thread(work: Callable[..., Result], *args: Any, threads: ThreadPoolExecutor = _THREADS) -> Result:
    """Run blocking work in this module's threads, so that it neither blocks the loop nor starves Airflow's threads."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(threads, lambda: context.run(work, *args))


class Store:
    """One directory of an object store.

    :param uri: local path or URI of the directory; ``s3://conn@bucket/key`` names its own connection.
    :param conn_id: Airflow connection of the store; ``None`` uses the store's own defaults.
    :param patience: seconds for which :meth:`patiently` goes on.
    :ivar uri: the directory's URI, without any connection id.
    :raises InvalidRequest: the URI does not name the same directory for all programs.
    """

    def __init__(self, uri: str, conn_id: str | None = None, *, patience: float = PATIENCE) -> None:
        self.location = checked(uri)
        self.protocol = self.location.protocol
        self.uri = self.location.uri
        self.conn_id = self.location.conn_id or conn_id
        self._patience = patience
        self._server = self.protocol, self.location.bucket, self.conn_id
        self._opened: ObjectStoragePath | None = None
        self._files: Callable[[], io.FileIO | None] | None = None
        self._knows_files = False

    def uri_of(self, name: str) -> str:
        """Return the URI of an object in this directory, without any connection id."""
        return f"{self.uri}/{name}"

    async def list(self, folder: str = STATE) -> dict[str, int]:
        """Return names and lengths (bytes) of the objects in a folder, fresh from the store; empty if there is none."""
        return await self.scan(dict, folder)

    async def scan(
        self, take: Callable[[Iterator[tuple[str, int]]], Result], folder: str = STATE, prefix: str = ""
    ) -> Result:
        """Return what ``take`` makes, in a thread, of what :meth:`list` returns, without having it all in memory.

        :param prefix: only the objects whose names begin with it.
        """
        return await self._run(f"list {folder!r}", lambda: take(self._list(folder, prefix)))

    async def read(self, name: str) -> bytes | None:
        """Return a small object, or ``None`` if there is none."""
        return await self._run(f"read {name!r}", self._read, name)

    async def size(self, name: str) -> int | None:
        """Return the length of an object in bytes, or ``None`` if there is none."""
        return await self._run(f"look for {name!r}", self._size, name)

    async def age(self, name: str) -> float:
        """Return how many seconds ago an object was written, by the store's own clock.

        It writes a small object to see that clock, and removes it.

        :raises StorageFailed: also if the store does not show when objects were written.
        """
        return await self._run(f"find the age of {name!r}", self._age, name)

    async def process(self, name: str, work: Callable[[BinaryIO], Result]) -> Result:
        """Return what ``work`` makes of an object, opened as a binary file in a thread."""

        def opened() -> Result:
            with open_fresh(self._fs, self._path(name)) as file:
                return work(file)

        return await self._run(f"read {name!r}", opened)

    async def create(self, name: str, data: bytes) -> bool:
        """Write an object that does not exist yet; return whether it holds this call's data.

        The server's word is not enough: the object is read back. A client may also have sent twice, because an answer
        was lost, and then be refused its own object.

        :raises StorageFailed: the server says that it took the object, and does not have it.
        """
        creates_once = self._creates_once()
        asked_at = time.monotonic()
        if not creates_once and (found := await self.read(name)) is not None:
            return found == data
        made = await self._run(f"create {name!r}", self._create, name, data)
        if creates_once is None:  # a second time: a server that takes it again does not look whether there is one
            creates_once = not (made and await self._run(f"create {name!r}", self._create, name, data))
            self._learn(creates_once)
        if made and not creates_once:
            # Those who saw no object have written theirs when this is over, and the last of them has created it.
            if time.monotonic() - asked_at > SETTLING - 0.5:
                return False  # too late: another one may have been sure of its own before
            await asyncio.sleep(SETTLING)
        found = await self.read(name)
        if found is None and made:
            raise StorageFailed(f"{self.uri_of(name)} contradicts itself: it was created, and is not there")
        return found == data

    def _creates_once(self) -> bool | None:
        """Return whether the store refuses to create an object that exists; ``None`` if that is not known yet."""
        if self.protocol == "file":
            return True
        return _CREATES_ONCE.get(self._server) if self.protocol in _ATOMIC else False

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
        """Write a small object whole, so that no reader sees a part of it.

        :param threads: to do it in.
        """
        await self._run(f"write {name!r}", self._write, name, data, threads=threads)

    async def sign(self, name: str, seconds: int) -> str | None:
        """Return a URL by which anyone can read an object for some time; ``None`` if the store makes none."""
        return await self._run(f"sign a URL of {name!r}", self._sign, name, seconds)

    async def is_elsewhere(self) -> bool:
        """Return whether this is a store with the API of S3, but not Amazon's."""
        return await self._run("find the server", self._is_elsewhere)

    async def check(self) -> None:
        """Make sure that Airflow can open such a store at all; asks the store nothing.

        :raises InvalidConnection: its connection is not defined, or a package is missing.
        """
        await self._run("open the store", lambda: self._fs)

    async def remove(self, name: str) -> None:
        """Delete an object; it is no error if there is none."""
        await self._run(f"delete {name!r}", self._remove, name)

    async def files(self) -> Callable[[], io.FileIO | None] | None:
        """Return what opens unnamed files in this directory, which :meth:`publish` puts in place without a copy.

        ``None`` where there are none: not on this machine, or a file system without them, such as NFS. What it returns
        is quick, so that a coroutine may call it, and gives ``None`` if it fails.
        """
        if not self._knows_files:
            self._files = await in_thread(self._find_files)
            self._knows_files = True
        return self._files

    async def publish(self, name: str, open_source: Callable[[], BinaryIO], media_type: str) -> None:
        """Put an image in place, so that no reader sees a part of it.

        :param open_source: returns the image at its beginning; called in a thread.
        """
        await self._run(f"store {name!r}", self._publish, name, open_source, media_type, threads=_UPLOADS)

    async def write_file(self, name: str, fill: Callable[[BinaryIO], None], media_type: str) -> None:
        """Write an object of any length whole.

        :param fill: writes the object's bytes to a local file; called in a thread.
        """
        await self._run(f"write {name!r}", self._write_file, name, fill, media_type)

    async def patiently(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Await ``work()``, again and again with growing pauses while the store fails: it is about paid images.

        By hand, since this is asked several times for each image: tenacity leaves cycles of 40 objects each time, which
        wait for the garbage collector, a full one if they are in use when it comes by.
        """
        ends_at = time.monotonic() + self._patience
        longest = 0.5
        while True:
            try:
                return await work()
            except StorageFailed as err:
                if time.monotonic() >= ends_at:
                    raise
                pause = random.uniform(0, longest)  # noqa: S311 -- spreads load, keeps no secret
                log.warning("%s; trying again in %.1f s", err, pause)
            await asyncio.sleep(pause)
            longest = min(10.0, 2 * longest)

    async def _run(
        self, what: str, work: Callable[..., Result], *args: Any, threads: ThreadPoolExecutor = _THREADS
    ) -> Result:
        try:
            return await in_thread(work, *args, threads=threads)
        except DeepshiError:
            raise
        except Exception as err:  # every object store raises errors of its own kind; this is where they enter
            if hint := missing_support(self.uri, err):
                raise InvalidConnection(f"{self.uri}: {hint}") from err
            raise StorageFailed(f"Could not {what} in {self.uri}: {type(err).__name__}: {err}") from err

    # What follows blocks and runs in threads.

    @property
    def _root(self) -> ObjectStoragePath:
        if self._opened is None:
            if self.conn_id and self.protocol != "file":
                _must_exist(self.conn_id)
                self._opened = ObjectStoragePath(self.uri, conn_id=self.conn_id)
            else:
                self._opened = ObjectStoragePath(self.uri)
        return self._opened

    @property
    def _fs(self) -> Any:
        return self._root.fs

    def _path(self, name: str) -> str:
        return f"{self._root.path.rstrip('/')}/{name}"

    def _make_parent(self, path: str) -> None:
        if self.protocol == "file":
            os.makedirs(os.path.dirname(path), exist_ok=True)

    def _list(self, folder: str, prefix: str) -> Iterator[tuple[str, int]]:
        path = self._path(folder).rstrip("/")
        if self.protocol in _S3:
            yield from _s3_pages(self._fs, path, prefix)
            return
        with contextlib.suppress(FileNotFoundError):
            if self.protocol == "file":
                yield from _local_files(path, prefix)
            else:
                self._fs.invalidate_cache(path)
                for found in self._fs.ls(path, detail=True):
                    name = found["name"].rpartition("/")[2]
                    if found["type"] == "file" and name.startswith(prefix):
                        yield name, found.get("size") or 0

    def _read(self, name: str) -> bytes | None:
        try:
            return bytes(self._fs.cat_file(self._path(name)))
        except FileNotFoundError as err:
            _check_bucket(err)
            return None

    def _size(self, name: str) -> int | None:
        self._fs.invalidate_cache(self._path(name).rpartition("/")[0])
        try:
            return int(self._fs.info(self._path(name))["size"])
        except FileNotFoundError as err:
            _check_bucket(err)
            return None

    def _age(self, name: str) -> float:
        now = f"{STATE}/{uuid.uuid4().hex}.clock.json"
        self._write(now, b"{}")
        try:
            self._fs.invalidate_cache(self._path(name).rpartition("/")[0])
            self._fs.invalidate_cache(self._path(STATE))
            now_at, written_at = (self._fs.modified(self._path(each)) for each in (now, name))
        finally:
            self._remove(now)
        return float((now_at - written_at).total_seconds())

    def _create(self, name: str, data: bytes) -> bool:
        path = self._path(name)
        self._make_parent(path)
        if self.protocol == "file":
            return _create_local(path, data)
        try:
            self._fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except OSError as err:
            # Some servers' code for S3's "precondition failed" is not known to s3fs; a conflict is a race that is lost.
            if _s3_code(err) in ("PreconditionFailed", "ConditionalRequestConflict"):
                return False
            if err.errno == errno.EINVAL and "condition" in str(err).lower():
                return False
            raise
        return True

    def _write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        self._make_parent(path)
        if self.protocol in _ATOMIC:
            self._fs.pipe_file(path, data)
            return
        part = f"{path}.{uuid.uuid4().hex}.part"
        with self._removed_on_failure(part):
            if self.protocol == "file":
                _write_durably(part, data)
                os.replace(part, path)
                _sync(os.path.dirname(path))
            else:
                self._fs.pipe_file(part, data)
                self._fs.mv(part, path)

    def _remove(self, name: str) -> None:
        try:
            self._fs.rm_file(self._path(name))
        except FileNotFoundError as err:
            _check_bucket(err)

    def _sign(self, name: str, seconds: int) -> str | None:
        fs = self._fs
        if self.protocol in ("s3", "s3a"):
            # botocore signs URLs by version 2 in the oldest regions, which new buckets refuse.
            config = {"signature_version": "s3v4", **(fs.storage_options.get("config_kwargs") or {})}
            fs = type(fs)(*fs.storage_args, **{**fs.storage_options, "config_kwargs": config})
        try:
            url = str(fs.sign(self._path(name), expiration=seconds))
        except NotImplementedError:
            return None
        return url if "?" in url else None  # without credentials there is no signature

    def _is_elsewhere(self) -> bool:
        options = getattr(self._fs, "client_kwargs", None) or {}
        by_environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return bool(getattr(self._fs, "endpoint_url", None) or options.get("endpoint_url") or by_environment)

    def _publish(self, name: str, open_source: Callable[[], BinaryIO], media_type: str) -> None:
        path = self._path(name)
        self._make_parent(path)
        part = path if self.protocol in _ATOMIC else f"{path}.{uuid.uuid4().hex}.part"
        option = _CONTENT_TYPE_OPTION.get(self.protocol)
        with open_source() as source, self._removed_on_failure(None if part == path else part):
            if not (self.protocol == "file" and _link(source, part)):
                self._copy(source, part, {option: media_type} if option else {})
            if part != path:
                self._fs.mv(part, path)

    def _find_files(self) -> Callable[[], io.FileIO | None] | None:
        if self.protocol != "file":
            return None
        new_file = functools.partial(_unnamed, self._path(""))
        probe = new_file()
        if probe is None:
            return None
        probe.close()
        return new_file

    def _write_file(self, name: str, fill: Callable[[BinaryIO], None], media_type: str) -> None:
        with tempfile.NamedTemporaryFile(prefix="deepshi-") as file:
            fill(cast(BinaryIO, file))
            file.flush()
            self._publish(name, lambda: open(file.name, "rb"), media_type)  # noqa: SIM115 -- _publish closes it

    def _copy(self, source: BinaryIO, path: str, options: dict[str, str]) -> None:
        # Not a "with" block: leaving it by an exception would commit the part that was written.
        target = self._fs.open(path, "wb", block_size=_BLOCK, **options)
        try:
            shutil.copyfileobj(source, target, 256 * 1024)
            target.close()
        except BaseException:
            if self.protocol in _ATOMIC:
                target.discard()
                target.closed = True  # or its destructor would try to send the rest
            else:
                with contextlib.suppress(Exception):  # a full disk takes no rest either
                    target.close()
            raise

    @contextlib.contextmanager
    def _removed_on_failure(self, path: str | None) -> Iterator[None]:
        """Remove a temporary file if writing it or putting it in place fails; the failure is what the caller sees."""
        try:
            yield
        except BaseException:
            if path:
                with contextlib.suppress(Exception):
                    self._fs.rm_file(path)
            raise


def open_fresh(fs: Any, path: str, **options: Any) -> Any:
    """Open an object to read it, as it is now.

    Whoever has listed its directory before, in whichever part of this process, has left its length in a cache, and
    s3fs would believe it: an object that is longer now would be cut, and a new one would not be there.
    """
    fs.invalidate_cache(path.rpartition("/")[0])
    return fs.open(path, "rb", **options)


def _check_bucket(err: FileNotFoundError) -> None:
    """Raise an error again if it is about a bucket: only an object may not be there."""
    if _s3_code(err) == "NoSuchBucket":
        raise err


def _s3_code(err: BaseException) -> str | None:
    """Return the code by which an S3 server has explained an error, if it has."""
    response = getattr(err.__cause__, "response", None) or {}
    code = response.get("Error", {}).get("Code")
    return None if code is None else str(code)


def _s3_pages(fs: Any, path: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield names and lengths page by page: ``ls`` keeps 2 kB of each object until all are listed, and then a copy."""
    bucket, key, _ = fs.split_path(path)
    asked = {"Bucket": bucket, "Prefix": f"{key}/{prefix}" if key else prefix, "Delimiter": "/", **fs.req_kw}
    more: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_objects_v2", **asked, **more)
        for found in page.get("Contents", []):
            yield found["Key"].rpartition("/")[2], found["Size"]
        if not page.get("NextContinuationToken"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _local_files(path: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield names and lengths one by one: ``ls`` makes a dictionary of each file before it returns the first."""
    with os.scandir(path) as found:
        for entry in found:
            if not entry.name.startswith(prefix):
                continue
            with contextlib.suppress(FileNotFoundError):  # since it was listed
                if entry.is_file():
                    yield entry.name, entry.stat().st_size


def _create_local(path: str, data: bytes) -> bool:
    """Create a whole local file. fsspec looks whether there is one and then writes, which lets two through."""
    part = f"{path}.{uuid.uuid4().hex}.part"
    try:
        _write_durably(part, data)
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError as err:
        if err.errno not in _NO_LINKS:
            raise
        return _create_without_link(path, data)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
    _sync(os.path.dirname(path))
    return True


def _create_without_link(path: str, data: bytes) -> bool:
    """Create a file on a file system without hard links, where readers may see it before its content."""
    try:
        with open(path, "xb") as file:
            try:
                file.write(data)
                file.flush()
            except BaseException:
                os.unlink(path)
                raise
    except FileExistsError:
        return False
    return True


def _write_durably(path: str, data: bytes) -> None:
    """Write a file that is still there after a power failure: claims and records are about money."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unnamed(folder: str) -> io.FileIO | None:
    """Open a file that has no name yet, and so leaves nothing behind when its process dies (Linux)."""
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except (AttributeError, OSError):
        return None
    return io.FileIO(descriptor, "r+")


def _link(source: BinaryIO, path: str) -> bool:
    """Give an unnamed file a name; return whether that could be done."""
    try:
        descriptor = source.fileno()
        status = os.fstat(descriptor)
        if status.st_nlink or status.st_mode & 0o777 == 0o600:  # an ordinary temporary file is for its owner alone
            return False
        # With a directory descriptor, which is not used, Python follows the link (linkat(2), AT_SYMLINK_FOLLOW).
        os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)
    except OSError:  # a file of another file system, no /proc, or no file at all
        return False
    return True


def _must_exist(conn_id: str) -> None:
    """Raise if a connection is missing: Airflow would go on with anonymous access."""
    try:
        BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as err:
        raise InvalidConnection(f"The connection {conn_id!r} of the object store is not defined") from err
