"""Input images of an edit, in local temporary files."""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple

from deepshi_provider.api.media import EXTENSIONS
from deepshi_provider.api.spool import Spool


class InputImage(NamedTuple):
    """One input image, read once, so that the fingerprint is of the bytes that are sent."""

    uri: str
    media_type: str
    spool: Spool

    def part(self, position: int) -> tuple[str, object, str]:
        """Return file name, file and content type for the form; the name reveals nothing about the user's store."""
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
