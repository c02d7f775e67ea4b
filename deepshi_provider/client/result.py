"""Results of the hook's calls: images as files, and their cost."""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from deepshi_provider.api.media import EXTENSIONS
from deepshi_provider.api.received import Received, ReceivedImage
from deepshi_provider.api.spool import Spool


@dataclass(frozen=True, kw_only=True)
class Image:
    """One generated image, in a temporary file that is deleted with its result.

    :param index: position among the request's images, from 0.
    :param media_type: detected from the image's bytes.
    :param width: pixels.
    :param height: pixels.
    :param sha256: hash of its bytes, in hex.
    """

    index: int
    media_type: str
    width: int
    height: int
    size_bytes: int
    sha256: str
    revised_prompt: str | None
    spool: Spool = field(repr=False)

    @property
    def extension(self) -> str:
        """``png``, ``jpg`` or ``webp``."""
        return EXTENSIONS[self.media_type]

    def open(self) -> BinaryIO:
        """Return the image as a binary file at its beginning; close it after use."""
        try:
            descriptor = self.spool.file.fileno()
        except OSError:  # the temporary directory was removed; a small image is still in memory
            self.spool.file.seek(0)
            return io.BytesIO(self.spool.file.read())
        self.spool.file.flush()
        return cast(BinaryIO, io.BufferedReader(_OwnPosition(os.dup(descriptor), self.size_bytes)))

    def read(self) -> bytes:
        """Return all of the image's bytes."""
        with self.open() as file:
            return file.read()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the image to a local path."""
        target = Path(path)
        with self.open() as file, target.open("wb") as copy:
            try:
                shutil.copyfileobj(file, copy)
                copy.flush()
            except BaseException:  # do not leave a part of an image
                if target.is_file():  # not a device
                    target.unlink()
                raise
        return target


class _OwnPosition(io.RawIOBase):
    """Reads an open file from its own position, since duplicates of a descriptor share theirs.

    :param descriptor: file descriptor, closed with this object.
    """

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        self._descriptor = descriptor
        self._size = size_bytes
        self._at = 0

    def fileno(self) -> int:
        return self._descriptor

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = os.preadv(self._descriptor, [buffer], self._at)
        self._at += read
        return read

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = (0, self._at, self._size)[whence] + offset
        if at < 0:
            raise ValueError(f"negative position {at}")
        self._at = at
        return at

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


@dataclass(frozen=True, kw_only=True)
class ImagesResult:
    """The images of a paid answer. Use it in a ``with`` block, which deletes the temporary files at its end.

    :param model: the model that answered.
    :param size: the real size, ``WIDTHxHEIGHT`` in pixels.
    :param created: unix seconds.
    :param usage: tokens and cost as the API reports them.
    :param cost_usd: the cost; ``None`` if the answer does not report it.
    :param cost_is_complete: whether ``cost_usd`` is the whole cost; ``False`` if the answer was cut off.
    :param sends: number of POSTs, including refused ones.
    :param warnings: mismatches, such as fewer images than requested; sentences without a full stop.
    """

    images: list[Image]
    model: str | None
    size: str | None
    created: int | None
    usage: dict[str, Any]
    cost_usd: Decimal | None
    sends: int
    cost_is_complete: bool = True
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def from_received(cls, received: Received, sends: int) -> ImagesResult:
        """Return the result for an answer."""
        answer = received.answer
        images = [_image(image) for image in received.images]
        return cls(
            images=images,
            model=answer.model,
            size=answer.size or f"{images[0].width}x{images[0].height}",
            created=answer.created,
            usage=answer.usage or {},
            cost_usd=answer.cost_usd,
            sends=sends,
            cost_is_complete=received.cost_is_complete,
            warnings=received.warnings,
        )

    def close(self) -> None:
        """Delete the temporary files."""
        for image in self.images:
            image.spool.close()

    def __enter__(self) -> ImagesResult:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _image(received: ReceivedImage) -> Image:
    return Image(
        index=received.index,
        media_type=received.media.media_type,
        width=received.media.width,
        height=received.media.height,
        size_bytes=received.spool.size_bytes,
        sha256=received.spool.sha256,
        revised_prompt=received.revised_prompt,
        spool=received.spool,
    )
