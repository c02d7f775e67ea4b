"""Directories of the local file system.

``pathlib`` is not used, since it interns all names, which takes megabytes for thousands of images.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from deepshi_provider.store.directory import Directory

#: Error codes of file systems without hard links.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EXDEV})
_CHUNK = 256 * 1024


class LocalDirectory(Directory):
    """A local directory; see :class:`~deepshi_provider.store.directory.Directory`.

    :param path: absolute path. It is created when the first object is written.
    """

    creates_once: bool | None = True

    def __init__(self, path: str) -> None:
        self._root = path.rstrip("/")

    def names(self, folder: str, prefix: str) -> Iterator[tuple[str, int]]:
        try:
            found = os.scandir(self._path(folder))
        except FileNotFoundError:
            return
        with found:
            for entry in found:
                if not entry.name.startswith(prefix):
                    continue
                with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                    if entry.is_file():
                        yield entry.name, entry.stat().st_size

    def read(self, name: str) -> bytes | None:
        try:
            with open(self._path(name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def size(self, name: str) -> int | None:
        try:
            return os.stat(self._path(name)).st_size
        except FileNotFoundError:
            return None

    def modified(self, name: str) -> float:
        return os.stat(self._path(name)).st_mtime

    def open(self, name: str) -> BinaryIO:
        return open(self._path(name), "rb")

    def create(self, name: str, data: bytes) -> bool:
        """See the interface. fsspec checks for the file first and then writes, so that two processes may succeed."""
        path = self._path(name)
        part = _part_of(path)
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

    def write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        with _temporary(path) as part:
            _write_durably(part, data)
            os.replace(part, path)
        _sync(os.path.dirname(path))

    def publish(self, name: str, source: BinaryIO, media_type: str) -> None:
        path = self._new_path(name)
        with _temporary(path) as part:
            if not _link(source, part):
                with open(part, "wb") as target:
                    shutil.copyfileobj(source, target, _CHUNK)
            os.replace(part, path)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def unnamed_file(self) -> io.FileIO | None:
        """See the interface. Only Linux has such files; nothing remains of them if the process dies."""
        try:
            descriptor = os.open(self._root or "/", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
        except (AttributeError, OSError):
            return None
        return io.FileIO(descriptor, "r+")

    def sign(self, name: str, seconds: int) -> str | None:
        return None

    def has_custom_endpoint(self) -> bool:
        return False

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _new_path(self, name: str) -> str:
        path = self._path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path


def _part_of(path: str) -> str:
    return f"{path}.{uuid.uuid4().hex}.part"


@contextlib.contextmanager
def _temporary(path: str) -> Iterator[str]:
    """Yield a temporary name in the same directory; delete that file if the block fails."""
    part = _part_of(path)
    try:
        yield part
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def _create_without_link(path: str, data: bytes) -> bool:
    """Create a file on a file system without hard links, where readers may see it before it has its content."""
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
    """Write a file so that it survives a power failure, since claims and records are about money."""
    try:
        file = open(path, "wb", buffering=0)  # noqa: SIM115 -- closed below
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file = open(path, "wb", buffering=0)  # noqa: SIM115 -- likewise
    with file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())


def _sync(folder: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(source: BinaryIO, path: str) -> bool:
    """Give an unnamed file a name; return whether that was possible."""
    try:
        descriptor = source.fileno()
        status = os.fstat(descriptor)
        if status.st_nlink or status.st_mode & 0o777 == 0o600:  # an ordinary temporary file is private
            return False
        # The (unused) directory descriptor makes Python follow the link (linkat(2), AT_SYMLINK_FOLLOW).
        os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)
    except OSError:  # another file system, no /proc, or not a real file
        return False
    return True
