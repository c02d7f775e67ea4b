"""On a local disk an image is written once, and never copied."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepshi_provider.api.spool import Spool
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.store.store import Store
from tests.support.counts import posts
from tests.support.jobs import make_job
from tests.support.places import LocalPlace, images, state
from tests.support.waiting import wait_until


def unnamed_files_in(pid: int, directory: Path) -> int:
    """Number of unnamed files that a process has open in a directory."""
    found = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = str(file.readlink())
            found += target.startswith(f"{directory}/") and target.endswith("(deleted)")
    return found


async def publish(store: Store, spool: Spool) -> None:
    def opened() -> io.FileIO:
        file = io.FileIO(os.dup(spool.file.fileno()), "r")
        file.seek(0)
        return file

    await store.publish("image-0.png", opened, "image/png")


@pytest.fixture
def store(images_dir: Path) -> Store:
    return Store(str(images_dir))


async def test_image_is_put_in_place_without_a_copy(store: Store, images_dir: Path) -> None:
    new_file = await store.files()
    assert new_file, "this file system makes no unnamed files"
    with Spool(new_file=new_file) as spool:
        spool.write(b"picture")
        inode = os.fstat(spool.file.fileno()).st_ino
        assert LocalPlace(images_dir).names() == [], "nothing is seen before"
        await publish(store, spool)
    image = images_dir / "image-0.png"
    assert (image.read_bytes(), image.stat().st_ino) == (b"picture", inode)
    plain = images_dir / "plain"
    plain.touch()
    assert image.stat().st_mode == plain.stat().st_mode


async def test_image_that_is_put_in_place_twice_is_complete(store: Store, images_dir: Path) -> None:
    with Spool(new_file=await store.files()) as spool:
        spool.write(b"picture")
        await publish(store, spool)
        await publish(store, spool)
        (images_dir / "image-0.png").unlink()
        await publish(store, spool)
    place = LocalPlace(images_dir)
    assert [place.read(name) for name in place.names()] == [b"picture"]


async def test_image_elsewhere_is_copied(store: Store, images_dir: Path, tmp_path: Path) -> None:
    other = Store(str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    with Spool(new_file=await other.files()) as beside, Spool() as temporary:
        for spool in (beside, temporary):
            spool.write(b"picture" * 20_000)
            await publish(store, spool)
            assert (images_dir / "image-0.png").read_bytes() == b"picture" * 20_000


async def test_store_without_unnamed_files_is_supported(tmp_path: Path) -> None:
    assert await Store(str(tmp_path / "is not there")).files() is None
    assert await Store("memory://images").files() is None


class _FullDisk(io.FileIO):
    """A file on a disk with 10 bytes left."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        room = 10 - self.tell()
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data[:room])


@pytest.mark.parametrize(
    "pieces", [[b"a picture of a boat"], [b"a picture ", b"of a boat"], [b"a", b" picture of a boat"]], ids=len
)
def test_full_destination_does_not_lose_the_image(tmp_path: Path, pieces: list[bytes]) -> None:
    with Spool(new_file=lambda: _FullDisk(tmp_path / "full", "w+")) as spool:
        for piece in pieces:
            spool.write(piece)
        spool.file.seek(0)
        assert spool.file.read() == b"a picture of a boat"
        assert spool.size_bytes == 19


@pytest.mark.slow
def test_answer_is_spooled_in_its_directory_and_a_kill_leaves_no_part_of_it(
    emulator: Emulator, tmp_path: Path, images_dir: Path
) -> None:
    place = LocalPlace(images_dir)
    emulator.settings(picture_bytes=2**20)
    emulator.fault("slow", bytes_per_second=400_000)
    job = tmp_path / "job.json"
    job.write_text(make_job(place).model_dump_json())
    program = (
        "import asyncio, sys; from deepshi_provider.hooks.jobs import run_job;"
        "from deepshi_provider.jobs.job import Job;"
        "asyncio.run(run_job(Job.model_validate_json(open(sys.argv[1]).read())))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(job)])
    try:
        wait_until(lambda: unnamed_files_in(process.pid, images_dir) == 1, timeout=60)
    finally:
        process.kill()
        process.wait()
    assert images(place) == []
    assert len(state(place, "claim")) == posts(emulator) == 1
