"""A temporary file for one image, which computes the SHA-256 while the bytes are written."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, cast

#: Maximum bytes of an image in memory; a larger one is a file on disk.
MEMORY_LIMIT = 64 * 1024
#: Maximum bytes of an image.
IMAGE_LIMIT = 256 * 2**20

#: Opens an unnamed, unbuffered file that can be put in place without copying; returns ``None`` if that is impossible.
NewFile = Callable[[], io.FileIO | None]


class Spool:
    """An unnamed temporary file with its length and SHA-256; deleted when closed.

    Writing never raises, since the rest of the answer, such as its cost, must still be read. Once there is a
    :attr:`problem`, nothing is kept.

    :param limit: maximum bytes.
    :param new_file: opens the file for the bytes; without it, or if its disk is full, a temporary file is used.
    """

    def __init__(self, limit: int = IMAGE_LIMIT, new_file: NewFile | None = None) -> None:
        self._given = new_file() if new_file else None
        self.file = _temporary() if self._given is None else cast(BinaryIO, self._given)
        self.size_bytes = 0
        #: Why the bytes are unusable; ``None`` if they are not.
        self.problem: str | None = None
        #: The error of this machine, if that is the reason: a full disk, or too many open files.
        self.failure: OSError | None = None
        #: Whether the source of the bytes has ended.
        self.complete = False
        self.limit = limit
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Append bytes."""
        if self.problem:
            return
        self.size_bytes += len(data)
        if self.size_bytes > self.limit:
            self.give_up(f"it is larger than {self.limit:,} bytes")
            return
        self._digest.update(data)
        try:
            self._append(data)
        except OSError as err:
            self.fail(err)

    def flush(self) -> None:
        """Write buffered bytes."""
        if not self.problem:
            try:
                self.file.flush()
            except OSError as err:
                self.fail(err)

    def fail(self, err: OSError) -> None:
        """Record that this machine cannot keep the bytes."""
        self.failure = err
        self.give_up(f"it cannot be written to the directory for temporary files ({err})")

    def give_up(self, problem: str) -> None:
        """Discard the bytes, and all further ones, because of a problem."""
        self.problem = problem
        with contextlib.suppress(OSError):  # closing writes what is buffered
            self.close()

    def _append(self, data: bytes) -> None:
        if self._given:
            try:
                while data:
                    data = data[self._given.write(data) :]
            except OSError:
                self._move()
            else:
                return
        self.file.write(data)

    def _move(self) -> None:
        """Continue in a temporary file, so that a full destination does not lose a paid image."""
        given, self._given, self.file = self._given, None, _temporary()
        if given:
            with given:
                given.seek(0)
                shutil.copyfileobj(given, self.file, 1024 * 1024)

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes written, in hex."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Delete the file. A full disk is not an error here, since the buffered bytes are not needed."""
        with contextlib.suppress(OSError):  # Python 3.14's files fail to close if they cannot write the rest
            self.file.close()

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _temporary() -> BinaryIO:
    return cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=MEMORY_LIMIT))
