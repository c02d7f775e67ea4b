"""Directories of object stores and file servers, with fsspec."""

from __future__ import annotations

import contextlib
import errno
import io
import shutil
import threading
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from deepshi_provider.store.directory import Directory

_BLOCK = 5 * 2**20  # bytes; the smallest part of an S3 upload, and what is read ahead, to keep many files at once small
_CHUNK = 256 * 1024
#: Each upload in parts holds up to 11 MB, so only some run at a time.
_IN_PARTS = threading.BoundedSemaphore(8)


class RemoteDirectory(Directory):
    """A directory of a server that shows objects while they are being written, such as SFTP or SMB.

    See :class:`~deepshi_provider.store.directory.Directory`.

    :param fs: an fsspec file system.
    :param path: path of the directory in it.
    """

    creates_once: bool | None = False

    def __init__(self, fs: Any, path: str) -> None:
        self._fs = fs
        self._root = path.rstrip("/")

    def names(self, folder: str, prefix: str) -> Iterator[tuple[str, int]]:
        path = self._path(folder).rstrip("/")
        self._fs.invalidate_cache(path)
        try:
            found = self._fs.ls(path, detail=True)
        except FileNotFoundError as err:
            self._check_bucket(err)
            return
        for entry in found:
            name = entry["name"].rpartition("/")[2]
            if entry["type"] == "file" and name.startswith(prefix):
                yield name, entry.get("size") or 0

    def read(self, name: str) -> bytes | None:
        try:
            return self._content(self._path(name))
        except FileNotFoundError as err:
            self._check_bucket(err)
            return None

    def size(self, name: str) -> int | None:
        path = self._path(name)
        self._fs.invalidate_cache(path.rpartition("/")[0])
        try:
            return int(self._fs.info(path)["size"])
        except FileNotFoundError as err:
            self._check_bucket(err)
            return None

    def modified(self, name: str) -> float:
        path = self._path(name)
        self._fs.invalidate_cache(path.rpartition("/")[0])
        return float(self._fs.modified(path).timestamp())

    def open(self, name: str) -> BinaryIO:
        """See the interface.

        An earlier listing by any code in this process leaves lengths in a cache, which s3fs would use: an object that
        has grown would be cut off, and a new one would be missing.
        """
        path = self._path(name)
        self._fs.invalidate_cache(path.rpartition("/")[0])
        return cast(BinaryIO, io.BufferedReader(_Whole(self._fs.open(path, "rb", block_size=_BLOCK)), _CHUNK))

    def create(self, name: str, data: bytes) -> bool:
        try:
            self._pipe(self._path(name), data, mode="create")
        except FileExistsError:
            return False
        except OSError as err:
            # s3fs does not know some servers' code for "precondition failed". A conflict means that another was first.
            if s3_code(err) in ("PreconditionFailed", "ConditionalRequestConflict"):
                return False
            if err.errno == errno.EINVAL and "condition" in str(err).lower():
                return False
            raise
        return True

    def write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        with self._temporary(path) as part:
            self._pipe(part, data)
            self._fs.mv(part, path)

    def publish(self, name: str, source: BinaryIO, media_type: str) -> None:
        path = self._path(name)
        with self._temporary(path) as part:
            self._copy(source, part)
            self._fs.mv(part, path)

    def remove(self, name: str) -> None:
        try:
            self._fs.rm_file(self._path(name))
        except FileNotFoundError as err:
            self._check_bucket(err)

    def unnamed_file(self) -> io.FileIO | None:
        return None

    def sign(self, name: str, seconds: int) -> str | None:
        return None

    def has_custom_endpoint(self) -> bool:
        return False

    def _check_bucket(self, err: FileNotFoundError) -> None:
        """Raise the error if the bucket is missing, not the object. File servers have no buckets."""

    def _content(self, path: str) -> bytes:
        return bytes(self._fs.cat_file(path))

    def _pipe(self, path: str, data: bytes, **options: str) -> None:
        self._fs.pipe_file(path, data, **options)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _temporary(self, path: str) -> Iterator[str]:
        """Yield a temporary name in the same directory; delete that object if the block fails."""
        part = f"{path}.{uuid.uuid4().hex}.part"
        try:
            yield part
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(part)
            raise

    def _copy(self, source: BinaryIO, path: str, **options: str) -> None:
        # Not a "with" block, which would commit a partial object on an exception.
        with _IN_PARTS:
            target = self._fs.open(path, "wb", block_size=_BLOCK, **options)
            try:
                shutil.copyfileobj(source, target, _CHUNK)
                target.close()
            except BaseException:
                self._abandon(target)
                raise

    def _abandon(self, target: Any) -> None:
        with contextlib.suppress(Exception):  # flushing may fail too, on a full disk
            target.close()


class ObjectDirectory(RemoteDirectory):
    """A directory of an object store, which replaces objects atomically: readers never see a part.

    :param content_type: name of the store's option for an object's media type, if it has one.
    """

    creates_once = None

    def __init__(self, fs: Any, path: str, content_type: str | None = None) -> None:
        super().__init__(fs, path)
        self._content_type = content_type
        self._has_bucket = False

    def write(self, name: str, data: bytes) -> None:
        self._pipe(self._path(name), data)

    def publish(self, name: str, source: BinaryIO, media_type: str) -> None:
        options = {self._content_type: media_type} if self._content_type else {}
        self._copy(source, self._path(name), **options)

    def sign(self, name: str, seconds: int) -> str | None:
        try:
            url = str(self._fs.sign(self._path(name), expiration=seconds))
        except NotImplementedError:
            return None
        return url if "?" in url else None  # without credentials the URL is not signed

    def _check_bucket(self, err: FileNotFoundError) -> None:
        if self._has_bucket:
            return
        try:
            self._fs.info(self._root.lstrip("/").partition("/")[0])
        except FileNotFoundError:
            raise err from None
        except Exception:  # noqa: BLE001, S110 -- the key may not read buckets; each store has its own error
            pass
        self._has_bucket = True

    def _abandon(self, target: Any) -> None:
        target.discard()
        target.closed = True  # otherwise its destructor would try to send the rest


class _Whole(io.RawIOBase):
    """Reads an object to its end, or raises an error.

    If an answer has no length and is cut off, s3fs returns fewer bytes without an error.
    """

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        size = self._file.size
        if len(data) < len(buffer) and size is not None and self._file.tell() < size:
            raise OSError(f"only {self._file.tell():,} of {size:,} bytes arrived")
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def close(self) -> None:
        self._file.close()
        super().close()


def s3_code(err: BaseException) -> str | None:
    """Return the S3 error code of an error, or ``None``."""
    response = getattr(err.__cause__, "response", None) or {}
    code = response.get("Error", {}).get("Code")
    return None if code is None else str(code)
