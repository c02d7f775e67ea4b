"""The images of an answer as files."""

from __future__ import annotations

import asyncio
import hashlib
import io
from decimal import Decimal
from pathlib import Path

import pytest
from PIL import Image as Pillow

from deepshi_provider.client.result import ImagesResult
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.support.servers import boat, open_files

SIZES = [None, 500_000]  # in memory, on disk


@pytest.mark.parametrize("size", SIZES)
def test_image_can_be_read_opened_and_saved(
    emulator: Emulator, hook: DeepshiHook, tmp_path: Path, size: int | None
) -> None:
    emulator.settings(picture_bytes=size)
    with hook.generate(boat()) as result:
        sent = emulator.picture(emulator.requests()[0]["id"])
        (image,) = result.images
        assert image.save(tmp_path / "boat.png") == tmp_path / "boat.png"
        assert image.save(str(tmp_path / "again.png")).read_bytes() == sent
        with image.open() as file:
            assert file.read() == sent
        assert image.read() == (tmp_path / "boat.png").read_bytes() == sent
        assert (image.size_bytes, image.sha256) == (len(sent), hashlib.sha256(sent).hexdigest())
        assert (image.media_type, image.extension, image.width, image.height) == ("image/png", "png", 64, 48)


@pytest.mark.parametrize("size", SIZES)
def test_files_of_one_image_have_separate_positions(
    emulator: Emulator, hook: DeepshiHook, tmp_path: Path, size: int | None
) -> None:
    emulator.settings(picture_bytes=size)
    with hook.generate(boat()) as result, result.images[0].open() as one, result.images[0].open() as other:
        sent = emulator.picture(emulator.requests()[0]["id"])
        assert one.read(20) + other.read(40)[20:] == sent[:40]
        result.images[0].save(tmp_path / "boat.png")
        assert one.read(10) == sent[20:30]
        assert one.seek(-12, io.SEEK_END) == len(sent) - 12
        assert (one.read(), one.read(), one.tell()) == (sent[-12:], b"", len(sent))
        assert (one.seek(8), one.seek(4, io.SEEK_CUR), one.read(4)) == (8, 12, sent[12:16])
        assert (one.readable(), one.seekable(), one.writable()) == (True, True, False)
        with pytest.raises((OSError, ValueError), match="negative"):
            one.seek(-1)


def test_pillow_reads_an_image_while_it_is_saved(hook: DeepshiHook, tmp_path: Path) -> None:
    with hook.generate(boat()) as result, result.images[0].open() as file, Pillow.open(file) as lazy:
        result.images[0].save(tmp_path / "boat.png")
        with Pillow.open(tmp_path / "boat.png") as whole:
            assert lazy.tobytes() == whole.tobytes()


@pytest.mark.parametrize("size", SIZES)
def test_leaving_the_block_deletes_the_files(emulator: Emulator, hook: DeepshiHook, size: int | None) -> None:
    emulator.settings(picture_bytes=size)
    hook.generate(boat()).close()  # the first call opens files that stay open
    before = open_files()
    with hook.generate(boat()) as result:
        kept = result.images[0].open()
        assert len(open_files()) > len(before)
    with pytest.raises(ValueError, match="closed file"):
        result.images[0].read()
    assert len(kept.read()) == result.images[0].size_bytes  # an opened file belongs to its caller
    kept.close()
    kept.close()
    with pytest.raises(ValueError, match="closed file"):
        kept.read()
    assert open_files() == before


@pytest.mark.parametrize(
    ("model", "output_format", "media_type"),
    [
        ("deepshi-banana-pro", "png", "image/png"),
        ("deepshi-banana-pro", "jpeg", "image/jpeg"),
        ("deepshi-banana-pro", "webp", "image/webp"),
        ("nano-banana-2", "png", "image/png"),
        ("grok-imagine", "jpeg", "image/jpeg"),
        ("grok-imagine", None, "image/jpeg"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_media_type_is_what_the_bytes_are(
    emulator: Emulator, hook: DeepshiHook, model: str, output_format: str | None, media_type: str, stream: bool
) -> None:
    request = boat(model=model, output_format=output_format, stream=stream)
    with hook.generate(request) as result:
        (image,) = result.images
        assert image.media_type == media_type
        with image.open() as file, Pillow.open(file) as picture:
            assert Pillow.MIME[picture.format or ""] == media_type
            assert picture.size == (image.width, image.height)
            picture.load()
        assert result.size == f"{image.width}x{image.height}"
        assert image.read() == emulator.picture(emulator.requests()[0]["id"])


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_four_images_keep_their_order_and_details(emulator: Emulator, hook: DeepshiHook, stream: bool) -> None:
    with hook.generate(boat(model="gpt-image-2", n=4, quality="low", stream=stream)) as result:
        (entry,) = emulator.requests()
        assert [image.index for image in result.images] == [0, 1, 2, 3]
        assert [image.read() for image in result.images] == [emulator.picture(entry["id"], at) for at in range(4)]
        assert len({image.sha256 for image in result.images}) == 4
        assert {image.revised_prompt for image in result.images} == {"A detailed picture of a red boat"}
        assert (result.model, result.size, result.sends) == ("gpt-image-2", "1024x1024", 1)
        assert result.cost_usd == Decimal(entry["cost_usd"]) == Decimal("0.0440000004")
        assert result.created == pytest.approx(entry["received_at"], abs=5)
        assert set(result.usage) >= {"prompt_tokens", "completion_tokens", "total_tokens", "cost"}
    assert emulator.stats()["posts"] == 1


def test_results_outlive_their_event_loop(emulator: Emulator, hook: DeepshiHook) -> None:
    async def two() -> tuple[ImagesResult, ImagesResult]:
        return await asyncio.gather(hook.agenerate(boat()), hook.agenerate(boat()))

    one, other = asyncio.run(two())
    with one, other:
        sent = {emulator.picture(entry["id"]) for entry in emulator.requests()}
        assert {one.images[0].read(), other.images[0].read()} == sent
