"""Reads one image of a cost sheet, after checking that it is one, and its record."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, cast
from urllib.parse import unquote

from airflow.sdk import ObjectStoragePath
from pydantic import ValidationError

from deepshi_provider.api.media import EXTENSIONS, media_type
from deepshi_provider.costs.sheet import CostSheet, SheetImage
from deepshi_provider.journal.entries import Record
from deepshi_provider.store.hashes import sha256_of
from deepshi_provider.store.store import STATE

log = logging.getLogger(__name__)

#: Maximum bytes of an image; larger ones are not shown.
MOST_BYTES = 64 * 2**20

_PIECE = 2**18
#: Maximum bytes of an image in memory; of a larger one, a temporary file is sent.
_IN_MEMORY = 2**20
#: Maximum bytes of a record: a prompt has at most 50,000 characters, of up to six bytes each in JSON.
_MOST_RECORD_BYTES = 2**20
# Not object stores: this server would fetch any URL that it can reach.
_REFUSED = frozenset({"http", "https", "ftp", "data", "memory", ""})


class PictureRefusedError(Exception):
    """The sheet has an object that is not served; the message gives the reason."""


class PictureMissingError(Exception):
    """The image is missing or cannot be read; the message gives the reason."""


class OpenPicture(NamedTuple):
    """An open image; close the file or iterate over all pieces."""

    media_type: str
    size_bytes: int
    file: BinaryIO

    def pieces(self) -> Iterator[bytes]:
        """Yield the image's bytes, at most the announced size, even if the image has grown."""
        with self.file as file:
            left = self.size_bytes
            while left > 0 and (piece := file.read(min(_PIECE, left))):
                left -= len(piece)
                yield piece


def open_picture(sheet: CostSheet, number: int) -> OpenPicture:
    """Open an image of a sheet.

    People can write XComs too. So only objects in the sheet's own output directory are opened, and they are served only
    if their content has the hash in the sheet, which nobody knows who cannot read the image.

    :param number: position of the image in the sheet, from 0.
    :raises PictureRefusedError: it is not an image in the sheet's output directory, or too large.
    :raises PictureMissingError: there is no such image, or the store cannot be read.
    """
    if not 0 <= number < len(sheet.images):
        raise PictureMissingError("The task has no such image")
    image = sheet.images[number]
    _check(image.uri, sheet.output_uri)
    if image.sha256 is None:
        raise PictureRefusedError("The task has not reported the hash of its image")
    if image.media_type not in EXTENSIONS:
        raise PictureRefusedError("It is not a PNG, JPEG or WebP image")
    file = _opened(image.uri, sheet.output_conn_id)
    try:
        size, head = _look(file)
        if media_type(head) != image.media_type:
            raise PictureRefusedError("The stored object is not the image that the task made")
        if size > MOST_BYTES:
            raise PictureRefusedError(f"The image is larger than {MOST_BYTES // 2**20} MiB")
        return OpenPicture(image.media_type, size, _unchanged(file, image))
    except BaseException:
        file.close()
        raise


def read_record(sheet: CostSheet, number: int) -> Record | None:
    """Return the record of a sheet's image, or ``None`` if the sheet has no attempt, or the record cannot be read."""
    image = sheet.images[number]
    if image.attempt is None:
        return None
    try:
        _check(image.uri, sheet.output_uri)
        name = image.uri.rpartition("/")[2].rpartition("-")[0]
        data = _record_bytes(sheet, f"{glob.escape(name)}.{image.attempt}.*.stored.json")
        return None if data is None else Record.model_validate_json(data)
    except (PictureMissingError, PictureRefusedError, ValidationError) as err:
        log.info("The record of %s is not shown: %s", image.uri, err)
        return None


def _record_bytes(sheet: CostSheet, pattern: str) -> bytes | None:
    with _errors("record"):
        directory = _path(f"{sheet.output_uri.rstrip('/')}/{STATE}", sheet.output_conn_id)
        directory.fs.invalidate_cache(directory.path)
        found = directory.fs.glob(f"{directory.path}/{pattern}")
        if not found:
            return None
        with directory.fs.open(found[-1], "rb") as file:
            return bytes(file.read(_MOST_RECORD_BYTES))


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    """Convert the errors of the object store.

    :param what: what is read from it, for the message.
    """
    try:
        yield
    except FileNotFoundError as err:
        raise PictureMissingError(f"The {what} is no longer in its store") from err
    except Exception as err:  # each object store raises its own errors
        raise PictureMissingError(f"The store of the {what} cannot be read ({type(err).__name__})") from err


def _path(uri: str, conn_id: str | None) -> ObjectStoragePath:
    return ObjectStoragePath(uri, conn_id=None if uri.startswith("file:") else conn_id)


def _opened(uri: str, conn_id: str | None) -> BinaryIO:
    with _errors("image"):
        path = _path(uri, conn_id)
        path.fs.invalidate_cache(path.path.rpartition("/")[0])  # a cached length would cut off an image that has grown
        return cast("BinaryIO", path.fs.open(path.path, "rb"))


def _unchanged(file: BinaryIO, image: SheetImage) -> BinaryIO:
    """Return a copy of an image, which cannot change while it is sent; closes the file.

    :raises PictureRefusedError: the image has another hash.
    """
    copy = cast("BinaryIO", tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY))  # noqa: SIM115 -- the caller closes it
    try:
        _copy(file, copy)
        if not image.is_hash(sha256_of(copy)):
            raise PictureRefusedError("The image has been replaced")
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    file.close()
    return copy


def _copy(file: BinaryIO, copy: BinaryIO) -> None:
    with _errors("image"):
        shutil.copyfileobj(file, copy, _PIECE)
    copy.seek(0)


def _check(uri: str, output_uri: str) -> None:
    scheme, _, rest = uri.partition("://")
    directory = output_uri.rstrip("/") + "/"
    inside = output_uri.partition("://")[0] == scheme and uri.startswith(directory)
    parts = unquote(rest).replace("\\", "/").split("/")
    # fsspec reads "a::b" as one store inside another, and Airflow "conn@bucket" as another connection.
    if scheme in _REFUSED or not inside or "::" in uri or "@" in parts[0] or ".." in parts:
        raise PictureRefusedError("The image is not in the task's output directory")


def _look(file: BinaryIO) -> tuple[int, bytes]:
    """Return size and first bytes."""
    with _errors("image"):
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(12)
        file.seek(0)
        return size, head
