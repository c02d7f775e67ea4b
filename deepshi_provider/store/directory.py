"""What a directory of objects can do, whichever store it is in."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, Protocol


class Directory(Protocol):
    """One directory; every method blocks and raises what the store raises.

    Names are relative to it; ``folder/name`` is an object of a folder inside. That an object is missing is an answer;
    that a bucket is missing is an error.
    """

    #: Whether :meth:`create` surely refuses an object that exists; ``None`` if that depends on the server.
    creates_once: bool | None

    def names(self, folder: str, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield names and lengths (bytes) of a folder's objects whose names begin with a prefix, as they are now."""

    def read(self, name: str) -> bytes | None:
        """Return a small object, or ``None`` if there is none."""

    def size(self, name: str) -> int | None:
        """Return the length of an object in bytes, or ``None`` if there is none."""

    def modified(self, name: str) -> float:
        """Return when an object was written, in unix seconds by the store's own clock."""

    def open(self, name: str) -> BinaryIO:
        """Open an object to read it, as it is now."""

    def create(self, name: str, data: bytes) -> bool:
        """Write an object that does not exist yet; return ``False`` if it does."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small object whole, so that no reader sees a part of it."""

    def publish(self, name: str, source: BinaryIO, media_type: str) -> None:
        """Copy a file into an object, so that no reader sees a part of it."""

    def remove(self, name: str) -> None:
        """Delete an object, if there is one."""

    def unnamed_file(self) -> io.FileIO | None:
        """Open a file without a name, which :meth:`publish` puts in place without a copy; ``None`` if that fails."""

    def sign(self, name: str, seconds: int) -> str | None:
        """Return a URL by which anyone can read an object for some time; ``None`` if the store makes none."""

    def has_custom_endpoint(self) -> bool:
        """Return whether this is a store with the API of S3, but not Amazon's."""
