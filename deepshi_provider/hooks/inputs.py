"""Input images of an edit: from any object store into local temporary files."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.sdk import BaseHook, ObjectStoragePath

from deepshi_provider.api.media import EXTENSIONS, media_type
from deepshi_provider.api.spool import Spool
from deepshi_provider.api.texts import missing_support, shown_uri
from deepshi_provider.exceptions import InvalidConnection, InvalidRequest, StorageFailed
from deepshi_provider.locations import locate

_CHUNK = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class InputImage:
    """One input image, read once: what is fingerprinted is what is sent."""

    uri: str
    media_type: str
    spool: Spool = field(repr=False)

    def part(self, position: int) -> tuple[str, object, str]:
        """Return file name, file and content type for the form; the name tells nothing about the user's store."""
        return f"image-{position}.{EXTENSIONS[self.media_type]}", self.spool.file, self.media_type


class InputImages:
    """The input images of one request; closing deletes the temporary files."""

    def __init__(self, images: list[InputImage]) -> None:
        self.images = images

    @property
    def digests(self) -> list[str]:
        """SHA-256 of each image, in hex."""
        return [image.spool.sha256 for image in self.images]

    def __enter__(self) -> InputImages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for image in self.images:
            image.spool.close()


def read_inputs(uris: Iterable[str], conn_id: str | None = None) -> InputImages:
    """Read input images, one after another, through 1 MiB of memory. Blocks: call it in a thread.

    :param uris: local paths or URIs; ``s3://conn@bucket/key`` names its own connection.
    :param conn_id: connection for URIs of a remote store that name none.
    :raises InvalidRequest: an image does not exist or is not PNG, JPEG or WebP.
    :raises InvalidConnection: the connection of its store is not defined.
    :raises StorageFailed: an image cannot be read.
    """
    images: list[InputImage] = []
    with ExitStack() as cleanup:
        for uri in uris:
            images.append(_read(uri, conn_id))
            cleanup.callback(images[-1].spool.close)
        cleanup.pop_all()
    return InputImages(images)


def _read(uri: str, conn_id: str | None) -> InputImage:
    with ExitStack() as cleanup:
        spool = cleanup.enter_context(Spool())
        kind = media_type(_copy(uri, conn_id, spool))
        if kind is None:
            raise InvalidRequest(f"The input image {shown_uri(uri)} is not a PNG, JPEG or WebP image")
        spool.file.seek(0)
        cleanup.pop_all()
    return InputImage(uri=uri, media_type=kind, spool=spool)


def _copy(uri: str, conn_id: str | None, spool: Spool) -> bytes:
    """Copy a file into a spool; return its first bytes."""
    head = b""
    try:
        path = _path(uri, conn_id)
        # What an earlier listing has left in the file system's cache would cut an image that is longer now, or hide it.
        path.fs.invalidate_cache(path.path.rpartition("/")[0])
        with path.fs.open(path.path, "rb", block_size=_CHUNK) as file:
            while chunk := file.read(_CHUNK):
                head = head or chunk[:12]
                spool.write(chunk)
                if spool.problem:
                    break
    except (FileNotFoundError, IsADirectoryError) as err:
        raise InvalidRequest(f"The input image {shown_uri(uri)} does not exist") from err
    except (InvalidConnection, InvalidRequest):
        raise
    except Exception as err:  # every object store raises errors of its own kind
        if hint := missing_support(uri, err):
            raise InvalidConnection(f"The input image {shown_uri(uri)}: {hint}") from err
        raise StorageFailed(f"The input image {shown_uri(uri)} cannot be read: {type(err).__name__}: {err}") from err
    spool.flush()
    if spool.failure:
        raise StorageFailed(f"The input image {shown_uri(uri)} cannot be read: {spool.problem}") from spool.failure
    if spool.problem:
        raise InvalidRequest(f"The input image {shown_uri(uri)} cannot be sent: {spool.problem}")
    return head


def _path(uri: str, conn_id: str | None) -> ObjectStoragePath:
    if uri[:5].lower() == "data:" and "," in uri:
        raise InvalidRequest(f"The input image {shown_uri(uri)} is a data URI; store the image and name its URI")
    found = locate(uri)
    if found.protocol == "file":
        return ObjectStoragePath(f"file:///{found.path.lstrip('/')}")
    if named := found.conn_id or conn_id:
        _check_connection(named, uri)
    path = ObjectStoragePath(found.uri, conn_id=named)
    if not path.key:
        raise FileNotFoundError(uri)
    return path


def _check_connection(conn_id: str, uri: str) -> None:
    """Without this a connection that is not defined means anonymous access, after seconds of waiting."""
    try:
        BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as err:
        raise InvalidConnection(
            f"The connection {conn_id!r} for the input image {shown_uri(uri)} is not defined"
        ) from err
