"""Reads the input images of an edit from any object store into local temporary files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from deepshi_provider.api.media import media_type
from deepshi_provider.api.spool import Spool
from deepshi_provider.api.texts import shown_uri
from deepshi_provider.client.inputs import InputImage, InputImages
from deepshi_provider.exceptions import InvalidRequest, StorageFailed
from deepshi_provider.store.locations import locate
from deepshi_provider.store.stores import Stores, image_errors

_CHUNK = 1024 * 1024


def read_inputs(
    uris: Iterable[str], conn_id: str | None, stores: Stores, sha256: Mapping[str, str] | None = None
) -> InputImages:
    """Read input images one after another, in pieces of 1 MiB. Blocks: call it in a thread.

    :param uris: local paths or URIs; ``s3://conn@bucket/key`` includes the connection.
    :param conn_id: connection for remote URIs that do not include one.
    :param sha256: hashes that images must have, in hex, by URI.
    :raises InvalidRequest: an image does not exist, is not PNG, JPEG or WebP, or has another hash.
    :raises InvalidConnection: the connection of its store is not defined.
    :raises StorageFailed: an image cannot be read.
    """
    images: list[InputImage] = []
    with ExitStack() as cleanup:
        for uri in uris:
            image = _read(uri, conn_id, stores)
            images.append(image)
            cleanup.callback(image.spool.close)
            if (sha256 or {}).get(uri) not in (None, image.spool.sha256):
                raise InvalidRequest(
                    f"Nothing was sent: {shown_uri(uri)} is not the image that its task reported, but was replaced "
                    "since. Give each run an output_uri of its own, or clear that task. To edit whatever is stored "
                    "there, pass the URI instead of the task's result"
                )
        cleanup.pop_all()
    return InputImages(images)


def _read(uri: str, conn_id: str | None, stores: Stores) -> InputImage:
    with ExitStack() as cleanup:
        spool = cleanup.enter_context(Spool())
        kind = media_type(_copy(uri, conn_id, spool, stores))
        if kind is None:
            raise InvalidRequest(f"The input image {shown_uri(uri)} is not a PNG, JPEG or WebP image")
        spool.file.seek(0)
        cleanup.pop_all()
    return InputImage(uri=uri, media_type=kind, spool=spool)


def _copy(uri: str, conn_id: str | None, spool: Spool, stores: Stores) -> bytes:
    """Copy a file into a spool; return its first bytes."""
    if uri[:5].lower() == "data:" and "," in uri:
        raise InvalidRequest(f"The input image {shown_uri(uri)} is a data URI; store the image and pass its URI")
    head = b""
    with image_errors(uri, "input image"), stores.open(locate(uri), conn_id) as file:
        while not spool.problem and (chunk := file.read(_CHUNK)):
            head = head or chunk[:12]
            spool.write(chunk)
    spool.flush()
    if spool.failure:
        raise StorageFailed(f"The input image {shown_uri(uri)} cannot be read: {spool.problem}") from spool.failure
    if spool.problem:
        raise InvalidRequest(f"The input image {shown_uri(uri)} cannot be sent: {spool.problem}")
    return head
