"""The interface of a directory of objects, for all kinds of stores."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, Protocol


class Directory(Protocol):
    """One directory. All methods block, and raise the store's own errors.

    Names are relative to it; ``folder/name`` is an object in a folder of it. A missing object is not an error; a
    missing bucket is.
    """

    #: Whether :meth:`create` certainly refuses an object that exists; ``None`` if that depends on the server.
    creates_once: bool | None

    def names(self, folder: str, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield names and current lengths (bytes) of a folder's objects whose names begin with a prefix."""

    def read(self, name: str) -> bytes | None:
        """Return a small object, or ``None`` if there is none."""

    def size(self, name: str) -> int | None:
        """Return the length of an object in bytes, or ``None`` if there is none."""

    def modified(self, name: str) -> float:
        """Return the time at which an object was written, in unix seconds by the store's clock."""

    def open(self, name: str) -> BinaryIO:
        """Open an object's current content for reading."""

    def create(self, name: str, data: bytes) -> bool:
        """Write an object that does not exist yet; return ``False`` if it does."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small object; readers never see a part of it."""

    def publish(self, name: str, source: BinaryIO, media_type: str) -> None:
        """Copy a file into an object; readers never see a part of it."""

    def remove(self, name: str) -> None:
        """Delete an object, if there is one."""

    def unnamed_file(self) -> io.FileIO | None:
        """Open an unnamed file, which :meth:`publish` can put in place without copying; ``None`` if that fails."""

    def sign(self, name: str, seconds: int) -> str | None:
        """Return a signed URL, by which anyone can read an object for some time; ``None`` if the store has none."""

    def has_custom_endpoint(self) -> bool:
        """Return whether this is a store with the S3 API that is not Amazon's."""
