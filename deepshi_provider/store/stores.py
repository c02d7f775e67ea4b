"""Opens directories and objects; the adapters pass this to the layers below them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from deepshi_provider.api.texts import missing_support, shown_uri
from deepshi_provider.exceptions import InvalidConnection, InvalidRequest, StorageFailed
from deepshi_provider.store.local import LocalDirectory
from deepshi_provider.store.locations import Location, split
from deepshi_provider.store.protocols import remote_directory
from deepshi_provider.store.store import PATIENCE, OpenRemote, Store, with_fsspec


class Stores(NamedTuple):
    """Opens local directories and objects with the operating system, and remote ones with a given function.

    :param open_remote: opens a remote directory; by default with fsspec and the environment's credentials.
    """

    open_remote: OpenRemote = with_fsspec

    def at(self, uri: str, conn_id: str | None = None, *, patience: float = PATIENCE) -> Store:
        """Return the store of a directory.

        :raises InvalidRequest: the URI does not name the same directory for all programs.
        """
        return Store(uri, conn_id, open_remote=self.open_remote, patience=patience)

    def object_at(self, uri: str, conn_id: str | None = None) -> tuple[Store, str]:
        """Return the store of an object's directory, and the object's name in it.

        :raises InvalidRequest: the URI does not name the same object for all programs.
        """
        folder, name = split(uri)
        return self.at(folder, conn_id), name

    def open(self, location: Location, conn_id: str | None = None) -> BinaryIO:
        """Open any object's current content for reading, also if :meth:`object_at` refuses its URI. Blocks.

        :raises FileNotFoundError: the object does not exist.
        """
        folder, _, name = location.path.rpartition("/")
        if not name or "\0" in location.path:  # no file has such a name
            raise FileNotFoundError(location.uri)
        if location.protocol == "file":
            return LocalDirectory(f"/{folder}").open(name)
        fs, path = self.open_remote(location, location.conn_id or conn_id)
        directory = remote_directory(location.protocol, fs, path.rpartition("/")[0])
        return directory.open(path.rpartition("/")[2])


@contextlib.contextmanager
def image_errors(uri: str, what: str) -> Iterator[None]:
    """Convert the errors of reading an image with :meth:`Stores.open`.

    :param what: names the image in messages.
    :raises InvalidRequest: the image does not exist.
    :raises InvalidConnection: the connection of its store is not defined.
    :raises StorageFailed: the image cannot be read.
    """
    image = f"The {what} {shown_uri(uri)}"
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as err:
        raise InvalidRequest(f"{image} does not exist") from err
    except InvalidConnection as err:
        raise InvalidConnection(f"{image} cannot be opened: {err.message}") from err
    except Exception as err:  # each object store raises its own errors
        if hint := missing_support(uri, err):
            raise InvalidConnection(f"{image}: {hint}") from err
        raise StorageFailed(f"{image} cannot be read: {type(err).__name__}: {err}") from err
