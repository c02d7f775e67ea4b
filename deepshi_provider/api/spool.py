"""One image on its way: bytes go to a temporary file while their SHA-256 runs along."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, cast

#: Bytes of an image that stay in memory; beyond it the spool is a file on disk.
MEMORY_LIMIT = 64 * 1024
#: Largest image in bytes.
IMAGE_LIMIT = 256 * 2**20

#: Opens an unnamed, unbuffered file where an image can be put in place without a copy; ``None`` if it cannot.
NewFile = Callable[[], io.FileIO | None]


class Spool:
    """An unnamed temporary file that knows its length and SHA-256, and vanishes when closed.

    Writing never fails: what follows in the answer, such as its cost, is still to be read. Once there is a
    :attr:`problem`, nothing is kept.

    :param limit: bytes that it takes.
    :param new_file: where the bytes go; without it, or once it takes no more (a full disk), to a temporary file.
    """

    def __init__(self, limit: int = IMAGE_LIMIT, new_file: NewFile | None = None) -> None:
        self._given = new_file() if new_file else None
        self.file = _temporary() if self._given is None else cast(BinaryIO, self._given)
        self.size_bytes = 0
        #: Why the bytes cannot be used, if so.
        self.problem: str | None = None
        #: What this machine had against them, if that is the reason: a full disk, or too many open files.
        self.failure: OSError | None = None
        #: Whether the source of the bytes came to its end.
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
        """Write what is still buffered."""
        if not self.problem:
            try:
                self.file.flush()
            except OSError as err:
                self.fail(err)

    def fail(self, err: OSError) -> None:
        """Record that this machine cannot keep the bytes."""
        self.failure = err
        self.give_up(f"the directory for temporary files does not take it ({err})")

    def give_up(self, problem: str) -> None:
        """Keep nothing, for a reason."""
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
        """Go on in a temporary file: an image that was paid for is not lost because its destination is full."""
        given, self._given, self.file = self._given, None, _temporary()
        if given:
            with given:
                given.seek(0)
                shutil.copyfileobj(given, self.file, 1024 * 1024)

    @property
    def sha256(self) -> str:
        """SHA-256 of what was written, in hex."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Delete the file. A full disk is no error here, for what is deleted need not be written."""
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
