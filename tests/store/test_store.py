"""One directory of an object store: on a local file system and on a real S3 server."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import fsspec.asyn
import pytest
from airflow.sdk import ObjectStoragePath
from fsspec.implementations.memory import MemoryFileSystem
from s3fs import S3FileSystem

from deepshi_provider.exceptions import InvalidConnection, StorageFailed
from deepshi_provider.hooks.directories import STORES
from deepshi_provider.store import s3 as s3_store
from deepshi_provider.store.store import Store
from tests.services.s3_proxy import S3Proxy
from tests.services.seaweedfs import S3Server
from tests.support.places import LocalPlace, Place, S3Place, images
from tests.support.waiting import until


def store_of(place: Place) -> Store:
    return STORES.at(place.uri, place.conn_id)


def source(data: bytes) -> Callable[[], BinaryIO]:
    return lambda: io.BytesIO(data)


# ------------------------------------------------------------------ objects


async def test_a_missing_object_is_an_answer_and_no_error(place: Place) -> None:
    store = store_of(place)
    assert await store.list() == {}
    assert await store.read("_deepshi/none.json") is None
    assert await store.size("image-0.png") is None
    await store.remove("image-0.png")
    assert place.names() == []


async def test_a_written_object_is_read_listed_and_removed(place: Place) -> None:
    store = store_of(place)
    await store.write("_deepshi/a.json", b"one")
    await store.write("_deepshi/a.json", b"two, longer")
    await store.create("_deepshi/b.json", b"")
    await store.publish("image-0.png", source(b"picture"), "image/png")
    assert await store.read("_deepshi/a.json") == b"two, longer"
    assert await store.list() == {"a.json": 11, "b.json": 0}
    assert await store.size("image-0.png") == 7
    assert await store.process("image-0.png", lambda file: file.read()) == b"picture"
    await store.remove("_deepshi/a.json")
    assert await store.list() == {"b.json": 0}
    assert place.names() == ["_deepshi/b.json", "image-0.png"]


async def test_listings_and_reads_are_never_cached(place: Place) -> None:
    store = store_of(place)
    await store.write("_deepshi/a.json", b"1")
    assert await store.list() == {"a.json": 1}
    place.write("_deepshi/a.json", b"22")
    place.write("_deepshi/b.json", b"")
    assert await store.list() == {"a.json": 2, "b.json": 0}
    assert await store.size("_deepshi/a.json") == 2
    assert await store.read("_deepshi/a.json") == b"22"
    place.delete("_deepshi/a.json")
    assert await store.list() == {"b.json": 0}
    assert await store.size("_deepshi/a.json") is None
    assert await store.read("_deepshi/a.json") is None


@pytest.mark.parametrize("data", [b"", b"{}", b"x" * 6_000_000])
async def test_create_never_replaces(place: Place, data: bytes) -> None:
    first, second = store_of(place), store_of(place)
    assert await first.create("_deepshi/claim", data)
    assert not await first.create("_deepshi/claim", b"other")
    assert not await second.create("_deepshi/claim", b"third")
    assert await second.create("_deepshi/claim", data), "an answer that was lost is not a loss of the object"
    assert place.read("_deepshi/claim") == data


@pytest.mark.slow
async def test_of_many_creators_one_wins(place: Place) -> None:
    stores = [store_of(place) for _ in range(12)]
    await asyncio.gather(*(store.list() for store in stores))
    names = [f"_deepshi/{n:03}.claim" for n in range(300 if isinstance(place, LocalPlace) else 3)]
    for name in names:
        won = await asyncio.gather(*(s.create(name, str(i).encode()) for i, s in enumerate(stores)))
        assert won.count(True) == 1
        assert place.read(name) == str(won.index(True)).encode()
    assert place.names() == names


# ------------------------------------------------------------------ images


async def test_failing_source_publishes_nothing_and_keeps_the_old_image(place: Place) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 8 * 2**20:
                raise OSError("the disk with the spool is gone")
            return super().read(size)

    store = store_of(place)
    await store.publish("image-0.png", source(b"the first"), "image/png")
    for name in ("image-0.png", "image-1.png"):
        with pytest.raises(StorageFailed, match="the disk with the spool is gone"):
            await store.publish(name, lambda: Broken(bytes(16 * 2**20)), "image/png")
    assert place.names() == ["image-0.png"]
    assert place.read("image-0.png") == b"the first"


@pytest.mark.slow
async def test_readers_see_only_whole_images(place: Place) -> None:
    """Readers open the image repeatedly while others of the same length replace it."""
    length = 32 * 2**20
    versions = [bytes([n]) * length for n in range(3)]
    known = {hashlib.sha256(version).hexdigest() for version in versions}
    store = store_of(place)
    await store.publish("image-0.png", source(versions[0]), "image/png")
    seen: set[str] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.add(hashlib.sha256(place.read("image-0.png")).hexdigest())

    reader = asyncio.create_task(asyncio.to_thread(look))
    try:
        published = 1
        while published < 5 or len(seen) < 2:  # the reader may be late on a busy machine
            await store.publish("image-0.png", source(versions[published % 3]), "image/png")
            assert images(place) == ["image-0.png"]
            published += 1
    finally:
        stop.set()
        await reader
    assert seen <= known


@pytest.mark.s3
@pytest.mark.parametrize("cuts", [0, 1])
async def test_an_image_takes_one_call_and_is_whole_after_a_lost_connection(
    s3_place: S3Place, proxy: S3Proxy, cuts: int
) -> None:
    image = random.Random(1).randbytes(18 * 2**20)
    proxy.cuts_uploads = cuts
    store = STORES.at(s3_place.uri, proxy.conn_id)
    await store.publish("image-0.png", source(image), "image/png")
    assert s3_place.read("image-0.png") == image
    assert [method for method, _ in proxy.seen] == ["PUT"] * (1 + cuts)
    assert not any("expect" in headers for headers in proxy.headers)


@pytest.mark.s3
async def test_a_long_file_is_uploaded_in_parts(
    s3_place: S3Place, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_store, "_LONGEST_PUT", 6 * 2**20)
    image = random.Random(1).randbytes(7 * 2**20)
    await STORES.at(s3_place.uri, proxy.conn_id).publish("image-0.png", source(image), "image/png")
    assert s3_place.read("image-0.png") == image
    assert sorted(method for method, _ in proxy.seen) == ["HEAD", "POST", "POST", "PUT", "PUT"]


@pytest.mark.s3
async def test_an_upload_that_the_server_does_not_take_ends(
    s3_place: S3Place, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_store, "_LONGEST_PAUSE", 1)
    proxy.held = "image-0"
    with pytest.raises(StorageFailed, match="has taken nothing of it for 1 s"):
        await STORES.at(s3_place.uri, proxy.conn_id).publish("image-0.png", source(b"picture"), "image/png")


@pytest.mark.s3
@pytest.mark.parametrize("method", ["publish", "write", "create"])
async def test_a_call_that_is_cancelled_in_the_file_system_is_a_failure(
    s3_place: S3Place, proxy: S3Proxy, method: str
) -> None:
    """fsspec returns None for it, as if the object were stored."""
    store = STORES.at(s3_place.uri, proxy.conn_id)
    await store.write("_deepshi/warm", b"1")
    proxy.held = "PUT .*image-0"
    arguments = (source(b"picture"), "image/png") if method == "publish" else (b"picture",)
    calling = asyncio.create_task(getattr(store, method)("image-0.png", *arguments))
    await until("the upload", proxy.held_requests)
    loop = fsspec.asyn.get_loop()
    loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
    with pytest.raises(StorageFailed, match="cancelled"):
        await calling


@pytest.mark.s3
async def test_a_small_object_takes_one_call(s3_place: S3Place, proxy: S3Proxy) -> None:
    store = STORES.at(s3_place.uri, proxy.conn_id)
    for content in (b"", b"{}", bytes(2**20)):
        await store.write("_deepshi/a.json", content)
        proxy.seen.clear()
        assert await store.read("_deepshi/a.json") == content
        assert [method for method, _ in proxy.seen] == ["GET"]
    proxy.seen.clear()
    assert await store.read("_deepshi/none.json") is None
    assert len(proxy.seen) == 1
    proxy.cuts_answers = 2
    assert await store.read("_deepshi/a.json") == bytes(2**20)
    proxy.ends_after = 1000
    with pytest.raises(StorageFailed):
        await store.read("_deepshi/a.json")


@pytest.mark.s3
async def test_options_of_the_file_system_are_sent_with_an_image(s3_place: S3Place, proxy: S3Proxy) -> None:
    class Private(S3FileSystem):  # type: ignore[misc] # s3fs is not annotated
        cachable = False

    connection = s3_place.server
    fs = Private(
        key=connection.access_key,
        secret=connection.secret_key,
        endpoint_url=f"http://127.0.0.1:{proxy.server_port}",
        requester_pays=True,
        s3_additional_kwargs={"Metadata": {"team": "catalog"}, "MaxKeys": 7},
        config_kwargs={"max_pool_connections": 3},
    )
    store = Store(s3_place.uri, open_remote=lambda *_: (fs, f"images/{s3_place.prefix}"))
    await store.publish("image-0.png", source(b"picture"), "image/png")
    head = connection.client().head_object(Bucket="images", Key=f"{s3_place.prefix}/image-0.png")
    assert head["Metadata"] == {"team": "catalog"}
    assert fs.s3.meta.config.max_pool_connections == 3
    assert await store.read("image-0.png") == b"picture"
    assert {headers["x-amz-request-payer"] for headers in proxy.headers} == {"requester"}


@pytest.mark.s3
async def test_calls_of_all_storage_threads_run_at_once(s3_place: S3Place, proxy: S3Proxy) -> None:
    store = STORES.at(s3_place.uri, proxy.conn_id)
    await store.write("_deepshi/warm", b"1")
    proxy.held = "PUT .*image-"
    names = [f"image-{number:02}.png" for number in range(30)]
    publishing = asyncio.gather(*(store.publish(name, source(b"picture"), "image/png") for name in names))
    waiting = functools.partial(filter, lambda request: proxy.holds(*request))
    await until("30 uploads at once", lambda: len({path for _, path in waiting(proxy.seen)}) == 30, timeout=14)
    proxy.released.set()
    await publishing
    assert images(s3_place) == names


@pytest.mark.s3
async def test_image_on_s3_has_its_content_type(s3_place: S3Place) -> None:
    store = store_of(s3_place)
    await store.publish("image-0.webp", source(b"picture"), "image/webp")
    head = s3_place.server.client().head_object(Bucket="images", Key=f"{s3_place.prefix}/image-0.webp")
    assert head["ContentType"] == "image/webp"


# ------------------------------------------------------------------ URIs and connections


@pytest.mark.parametrize(
    ("given", "uri", "conn_id"),
    [
        ("s3://bucket/a/b", "s3://bucket/a/b", "default"),
        ("s3://bucket/a/b/", "s3://bucket/a/b", "default"),
        ("s3://bucket", "s3://bucket", "default"),
        ("s3://mine@bucket/a", "s3://bucket/a", "mine"),
        ("s3://bucket/a@b/c", "s3://bucket/a@b/c", "default"),
        ("/data/images", "file:///data/images", "default"),
        ("file:///data/images/", "file:///data/images", "default"),
    ],
)
def test_uris_never_hold_a_connection(given: str, uri: str, conn_id: str) -> None:
    store = STORES.at(given, "default")
    assert (store.uri, store.conn_id) == (uri, conn_id)
    assert store.uri_of("image-0.png") == f"{uri}/image-0.png"


def test_relative_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert STORES.at("images").uri == f"file://{tmp_path}/images"


async def test_directory_with_odd_characters_works(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path / "a b" / "ü" / "100%")
    store = STORES.at(str(place.path))
    await store.write("_deepshi/a.json", b"1")
    assert await store.list() == {"a.json": 1}
    assert place.names() == ["_deepshi/a.json"]


@pytest.mark.s3
async def test_connection_inside_the_uri_is_used(s3_place: S3Place) -> None:
    store = STORES.at(f"s3://s3_test@images/{s3_place.prefix}")
    await store.write("_deepshi/a.json", b"1")
    assert s3_place.names() == ["_deepshi/a.json"]
    assert store.uri_of("x") == f"{s3_place.uri}/x"


async def test_missing_connection_is_named_and_never_anonymous() -> None:
    with pytest.raises(InvalidConnection, match="'nowhere' of the object store is not defined"):
        await STORES.at("s3://images/a", "nowhere").list()


async def test_unknown_protocol_is_a_storage_failure() -> None:
    with pytest.raises(StorageFailed, match="gopher"):
        await STORES.at("gopher://images/a").list()


@pytest.mark.s3
async def test_missing_bucket_is_never_an_empty_directory_and_not_created(s3: S3Server) -> None:
    store = STORES.at("s3://no-such-bucket/a", "s3_test")
    for work in (
        store.list(),
        store.read("_deepshi/a.json"),
        store.size("image-0.png"),
        store.process("image-0.png", lambda file: file.read()),
        store.remove("_deepshi/a.json"),
        store.write("_deepshi/a.json", b"1"),
        store.create("_deepshi/a.json", b"1"),
        store.publish("image-0.png", source(b"1"), "image/png"),
    ):
        with pytest.raises(StorageFailed, match=r"s3://no-such-bucket/a: .*bucket"):
            await work
    assert [bucket["Name"] for bucket in s3.client().list_buckets()["Buckets"]] == ["images"]


@pytest.mark.s3
async def test_wrong_credentials_are_an_error_and_not_an_empty_directory(
    s3_place: S3Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_place.write("_deepshi/a.json", b"1")
    wrong = json.loads(s3_place.server.airflow_connection_json()) | {"password": "wrong"}
    monkeypatch.setenv("AIRFLOW_CONN_S3_WRONG", json.dumps(wrong))
    store = STORES.at(s3_place.uri, "s3_wrong", patience=3600)
    for work in (
        store.list(),
        store.read("_deepshi/a.json"),
        store.size("_deepshi/a.json"),
        store.create("_deepshi/b.json", b""),
        store.write("_deepshi/b.json", b""),
        store.publish("image-0.png", source(b"1"), "image/png"),
    ):
        with pytest.raises(StorageFailed) as failed:
            await work
        assert "wrong" not in failed.value.message
        assert failed.value.retryable
    assert s3_place.names() == ["_deepshi/a.json"]


@pytest.mark.s3
@pytest.mark.parametrize("code", ["", "NoSuchKey", "NoSuchBucket"])
async def test_listing_that_is_not_found_is_never_an_empty_directory(
    s3_place: S3Place, proxy: S3Proxy, code: str
) -> None:
    s3_place.write("_deepshi/a.json", b"1")
    proxy.no_listing = code
    with pytest.raises(StorageFailed, match="Could not list '_deepshi'"):
        await STORES.at(s3_place.uri, proxy.conn_id).list()


@pytest.mark.s3
@pytest.mark.parametrize("token", ["", "the-same-again"])
async def test_listing_whose_next_page_cannot_be_asked_for_is_an_error(
    s3_place: S3Place, proxy: S3Proxy, token: str
) -> None:
    s3_place.write("_deepshi/a.json", b"1")
    proxy.cuts_listings = token
    with pytest.raises(StorageFailed, match=r"Could not list '_deepshi'.*cut off"):
        await STORES.at(s3_place.uri, proxy.conn_id).list()


@pytest.mark.s3
async def test_object_is_read_in_its_current_version_despite_earlier_listings(s3_place: S3Place) -> None:
    store = store_of(s3_place)
    s3_place.write("rows.jsonl", b"old")
    path = ObjectStoragePath(s3_place.uri, conn_id="s3_test")
    assert [found.name for found in path.iterdir()] == ["rows.jsonl"]
    s3_place.write("rows.jsonl", b"longer than it was")
    s3_place.write("more.jsonl", b"new")
    assert await store.process("rows.jsonl", lambda file: file.read()) == b"longer than it was"
    [*path.iterdir()]
    s3_place.write("last.jsonl", b"newest")
    assert await store.process("last.jsonl", lambda file: file.read()) == b"newest"


FULL_DISK = """
import asyncio, io, resource, signal, sys
from types import SimpleNamespace
from deepshi_provider.api.spool import Spool
from deepshi_provider.exceptions import StorageFailed
from deepshi_provider.client.result import Image
from deepshi_provider.jobs.publisher import _rescued
from deepshi_provider.store.store import Store

async def fail(work):
    try:
        await work
    except StorageFailed as err:
        print(type(err.__cause__).__name__)

async def main():
    store = Store(sys.argv[1])
    data = bytes(100_000)
    await fail(store.create("_deepshi/a.claim.json", data))
    await fail(store.write("_deepshi/a.json", data))
    await fail(store.publish("image-0.png", lambda: io.BytesIO(data), "image/png"))
    await fail(store.write_file("manifest.jsonl", lambda file: file.write(data), "application/jsonl"))

def image(index, size):
    spool = Spool()
    spool.write(bytes(size))
    what = {"media_type": "image/png", "width": 1, "height": 1, "sha256": spool.sha256, "revised_prompt": None}
    return Image(index=index, size_bytes=size, spool=spool, **what)

images = [image(0, 10_000), image(1, 100_000)]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
asyncio.run(main())
for some in (images, images[1:]):
    result = SimpleNamespace(images=some, cost_usd=None, cost_is_complete=False, sends=1)
    print(_rescued(StorageFailed("the store is away"), result).message, file=sys.stderr)
"""


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_behind(local: LocalPlace, tmp_path: Path) -> None:
    """The limit of file size for the process is 50,000 bytes."""
    (tmp_path / "tmp").mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK, local.uri],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split() == ["OSError"] * 4, ended.stderr
    assert local.names() == []
    (rescued,) = (tmp_path / "tmp").glob("deepshi*")
    assert [path.name for path in rescued.iterdir()] == ["image-0.png"], "what was saved whole stays, and no part"
    first, second = [line for line in ended.stderr.splitlines() if "could not be stored" in line]
    assert f"{rescued}/image-0.png; 1 of 2 could not be saved" in first
    assert "1 of 1 could not be saved" in second


async def test_impossible_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = STORES.at(str(tmp_path / "file" / "images"))
    with pytest.raises(StorageFailed, match=r"Could not write '_deepshi/a.json' in file:///.*: NotADirectoryError"):
        await store.write("_deepshi/a.json", b"1")


# ------------------------------------------------------------------ patience


@pytest.mark.slow
async def test_retries_outlast_a_failing_store() -> None:
    calls = 0

    async def fails_twice() -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise StorageFailed("not now")
        return "done"

    assert await STORES.at("/nowhere").patiently(fails_twice) == "done"
    assert calls == 3


@pytest.mark.slow
async def test_retries_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = STORES.at(str(tmp_path / "file" / "images"), patience=0.3)
    begun = time.monotonic()
    with pytest.raises(StorageFailed):
        await store.patiently(lambda: store.write("a", b""))
    assert time.monotonic() - begun >= 0.3


async def test_only_store_errors_are_retried() -> None:
    calls = 0

    async def fails() -> None:
        nonlocal calls
        calls += 1
        raise InvalidConnection("there is no such connection")

    with pytest.raises(InvalidConnection):
        await STORES.at("/nowhere").patiently(fails)
    assert calls == 1


async def test_many_images_are_stored_at_once(local: LocalPlace) -> None:
    """Each mostly waits for the store; one after another, they would delay later images."""
    all_of_them = threading.Barrier(32, timeout=60)

    def opened() -> BinaryIO:
        all_of_them.wait()
        return io.BytesIO(b"a picture")

    await asyncio.gather(*(store_of(local).publish(f"image-{n}.png", opened, "image/png") for n in range(32)))
    assert images(local) == sorted(f"image-{n}.png" for n in range(32))


@pytest.mark.parametrize("was_open", [True, False])
async def test_a_package_that_vanishes_later_is_a_failure_of_the_store(was_open: bool) -> None:
    """A deployment replaces it: the paid image is tried again and saved, and not reported as never requested."""
    fs = MemoryFileSystem(skip_instance_cache=True)  # other tests use the shared one

    def opened(*_: object) -> tuple[MemoryFileSystem, str]:
        if not was_open:
            raise ModuleNotFoundError("No module named 'gcsfs'")
        return fs, f"/{uuid.uuid4().hex}"

    store = Store("gs://bucket/images", open_remote=opened)
    if was_open:
        await store.write("a", b"1")
    fs.pipe_file = fs.open = _vanished
    with pytest.raises(StorageFailed if was_open else InvalidConnection):
        await store.write("b", b"2")


def _vanished(*_: object, **__: object) -> None:
    raise ModuleNotFoundError("No module named 'gcsfs.core'")
