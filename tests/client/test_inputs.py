"""Input images of an edit reach the server's form byte for byte, wherever they are stored."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import ObjectStoragePath
from PIL import Image as Pillow

from deepshi_provider.api.requests import EditRequest
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import DeepshiError, InvalidConnection, InvalidRequest, StorageFailed
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.directories import STORES
from deepshi_provider.jobs.inputs import read_inputs
from tests.services.s3_proxy import S3Proxy
from tests.services.seaweedfs import S3Server
from tests.support.counts import posts
from tests.support.servers import large_edit, open_files


@dataclass(kw_only=True)
class File:
    """An image file, and its expected entry in the server's journal."""

    path: Path
    media_type: str

    def arrived(self, field: str, position: int, extension: str) -> dict[str, Any]:
        content = self.path.read_bytes()
        return {
            "field": field,
            "filename": f"image-{position}.{extension}",
            "content_type": self.media_type,
            "size_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }


def _image(path: Path, kind: str, size: tuple[int, int] = (32, 24)) -> File:
    Pillow.frombytes("RGB", size, os.urandom(size[0] * size[1] * 3)).save(path, kind)
    return File(path=path, media_type=Pillow.MIME[kind])


@pytest.fixture
def png(images_dir: Path) -> File:
    return _image(images_dir / "in.png", "PNG")


@pytest.fixture
def large(images_dir: Path) -> File:
    """An image larger than what stays in memory, and than one piece."""
    return _image(images_dir / "large with a space.png", "PNG", (1000, 700))


def edit(*images: str | Path, **fields: Any) -> EditRequest:
    small = {"model": "deepshi-image-1", "prompt": "add a flag", "width": 64, "height": 48}
    return EditRequest.model_validate({**small, "images": list(images), **fields})


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_one_image_arrives_unchanged(emulator: Emulator, hook: DeepshiHook, png: File, stream: bool) -> None:
    with hook.edit(edit(png.path, stream=stream)) as result:
        (entry,) = emulator.requests()
        assert result.images[0].read() == emulator.picture(entry["id"])
    assert entry["path"] == "/v1/images/edits"
    assert entry["images"] == [png.arrived("image", 0, "png")]
    fields = {"model": "deepshi-image-1", "prompt": "add a flag", "width": "64", "height": "48"}
    assert entry["fields"] == fields | ({"stream": "true"} if stream else {})
    assert str(result.cost_usd) == entry["cost_usd"] == emulator.stats()["cost_usd"]


def test_several_images_keep_their_order_and_kind(
    emulator: Emulator, hook: DeepshiHook, images_dir: Path, png: File, large: File
) -> None:
    # The bytes decide about the media type: this JPEG is misnamed.
    jpeg, webp = _image(images_dir / "in.webp", "JPEG"), _image(images_dir / "in.bin", "WEBP")
    hook.edit(edit(png.path, jpeg.path, large.path, webp.path, png.path)).close()
    (entry,) = emulator.requests()
    assert entry["images"] == [
        png.arrived("image[]", 0, "png"),
        jpeg.arrived("image[]", 1, "jpg"),
        large.arrived("image[]", 2, "png"),
        webp.arrived("image[]", 3, "webp"),
        png.arrived("image[]", 4, "png"),
    ]


def test_local_images_may_be_named_in_any_way(
    emulator: Emulator, hook: DeepshiHook, large: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(large.path.parent.parent)
    name = large.path.name
    ways: list[str | Path] = [
        large.path,
        str(large.path),
        f"images/{name}",
        f"./images/../images/{name}",
        f"file://{large.path}",
    ]
    for way in ways:
        hook.edit(edit(way)).close()
    assert [entry["images"] for entry in emulator.requests()] == [[large.arrived("image", 0, "png")]] * len(ways)


@pytest.mark.parametrize("name", ["100%.png", "a#b.png", "a?b=c.png", "ümläut@home.png", "a:b.png", "~tilde.png"])
def test_odd_file_names_are_used_literally(emulator: Emulator, hook: DeepshiHook, images_dir: Path, name: str) -> None:
    file = _image(images_dir / name, "PNG")
    hook.edit(edit(file.path)).close()
    assert emulator.requests()[0]["images"] == [file.arrived("image", 0, "png")]


def test_a_retry_sends_inputs_from_their_beginning(emulator: Emulator, hook: DeepshiHook, large: File) -> None:
    emulator.fault("status", status=503, times=2)
    with hook.edit(edit(large.path)) as result:
        assert result.sends == 3
    assert [entry["images"] for entry in emulator.requests()] == [[large.arrived("image", 0, "png")]] * 3


@pytest.mark.slow
def test_fourteen_images_of_10_mib_arrive_unchanged(emulator: Emulator, hook: DeepshiHook, tmp_path: Path) -> None:
    request = large_edit(tmp_path)
    with hook.edit(request) as result:
        (entry,) = emulator.requests()
        assert result.images[0].read() == emulator.picture(entry["id"])
    digests = [hashlib.sha256(Path(image).read_bytes()).hexdigest() for image in request.images]
    assert [image["sha256"] for image in entry["images"]] == digests
    assert [image["size_bytes"] for image in entry["images"]] == [10 * 2**20] * 14


async def test_inputs_that_were_already_read_stay_open(emulator: Emulator, hook: DeepshiHook, large: File) -> None:
    request = edit(large.path)
    client = await hook.aclient()
    with await asyncio.to_thread(read_inputs, request.images, None, STORES) as inputs:
        assert inputs.digests == [hashlib.sha256(large.path.read_bytes()).hexdigest()]
        sent = large.arrived("image", 0, "png")
        large.path.unlink()  # the fingerprinted bytes are the ones to send
        for _ in range(2):
            (await client.edit(request, inputs)).close()
    assert [entry["images"] for entry in emulator.requests()] == [[sent]] * 2


@pytest.mark.s3
def test_images_come_from_s3(emulator: Emulator, hook: DeepshiHook, s3: S3Server, png: File, large: File) -> None:
    for file, key in ((png, "in/a.png"), (large, "in/b c.png")):
        s3.client().put_object(Bucket="images", Key=key, Body=file.path.read_bytes())
    uris = ["s3://s3_test@images/in/a.png", str(png.path), "s3://s3_test@images/in/b c.png"]
    hook.edit(edit(*uris)).close()
    with read_inputs(
        ["s3://images/in/b c.png", "s3://s3_test@images/in/a.png", str(large.path)], "s3_test", STORES
    ) as inputs:
        digests = inputs.digests
    a, b = (hashlib.sha256(file.path.read_bytes()).hexdigest() for file in (png, large))
    assert emulator.requests()[0]["images"] == [
        png.arrived("image[]", 0, "png"),
        png.arrived("image[]", 1, "png"),
        large.arrived("image[]", 2, "png"),
    ]
    assert digests == [b, a, b]


@pytest.mark.s3
def test_images_are_opened_in_their_current_version_despite_cached_listings(
    s3: S3Server, png: File, large: File
) -> None:
    folder = uuid.uuid4().hex
    path = ObjectStoragePath(f"s3://images/{folder}", conn_id="s3_test")

    def put(name: str, file: File) -> None:
        s3.client().put_object(Bucket="images", Key=f"{folder}/{name}", Body=file.path.read_bytes())

    put("a.png", png)
    assert [found.name for found in path.iterdir()] == ["a.png"]
    put("a.png", large)
    put("b.png", png)
    for uris in (["a.png", "b.png"], ["b.png", "a.png"]):
        [*path.iterdir()]
        put("c.png", png)
        with read_inputs([f"s3://images/{folder}/{name}" for name in [*uris, "c.png"]], "s3_test", STORES) as inputs:
            found = dict(zip(uris, inputs.digests, strict=False))
        s3.client().delete_object(Bucket="images", Key=f"{folder}/c.png")
        expected = {"a.png": large, "b.png": png}
        assert found == {name: hashlib.sha256(file.path.read_bytes()).hexdigest() for name, file in expected.items()}


@pytest.mark.s3
async def test_connection_of_the_images_is_an_argument(
    emulator: Emulator, hook: DeepshiHook, s3: S3Server, png: File
) -> None:
    s3.client().put_object(Bucket="images", Key="c.png", Body=png.path.read_bytes())
    (await hook.aedit(edit("s3://images/c.png"), images_conn_id="s3_test")).close()
    assert emulator.requests()[0]["images"] == [png.arrived("image", 0, "png")]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.png", "does not exist"),
        ("", "does not exist"),  # a directory
        ("text.png", "is not a PNG, JPEG or WebP image"),
        ("empty.png", "is not a PNG, JPEG or WebP image"),
        ("picture.gif", "is not a PNG, JPEG or WebP image"),
    ],
)
def test_invalid_image_is_found_before_anything_is_sent(
    emulator: Emulator, hook: DeepshiHook, images_dir: Path, png: File, name: str, says: str
) -> None:
    (images_dir / "text.png").write_text("I am no picture")
    (images_dir / "empty.png").touch()
    Pillow.new("RGB", (8, 8)).save(images_dir / "picture.gif")
    before = open_files()
    for uri in (f"{images_dir}/{name}", f"file://{images_dir}/{name}"):
        with pytest.raises(InvalidRequest, match=says) as caught:
            hook.edit(edit(png.path, uri))
        assert uri in caught.value.message
        assert (caught.value.charged, caught.value.sends) == ("no", 0)
    assert emulator.stats()["posts"] == 0
    assert open_files() == before


@pytest.mark.s3
@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("s3://s3_test@images/missing.png", InvalidRequest),
        ("s3://s3_test@no-such-bucket/in.png", InvalidRequest),
        ("s3://s3_test@images", InvalidRequest),
        ("s3://s3_test@images/", InvalidRequest),
        ("s3://s3_test@images/folder/", InvalidRequest),
        ("s3://not_defined@images/in.png", InvalidConnection),
        ("s3://s3_wrong@images/in.png", StorageFailed),
        ("s3://s3_down@images/in.png", StorageFailed),
    ],
)
def test_failure_of_an_images_store_has_its_own_error(
    emulator: Emulator,
    hook: DeepshiHook,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    uri: str,
    kind: type[DeepshiError],
) -> None:
    s3.client().put_object(Bucket="images", Key="in.png", Body=b"")
    s3.client().put_object(Bucket="images", Key="folder/in.png", Body=b"")
    connection = json.loads(s3.airflow_connection_json())
    monkeypatch.setenv("AIRFLOW_CONN_S3_WRONG", json.dumps({**connection, "password": "wrong"}))
    gone = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    monkeypatch.setenv("AIRFLOW_CONN_S3_DOWN", json.dumps({**connection, "extra": {**connection["extra"], **gone}}))
    with pytest.raises(kind) as caught:
        hook.edit(edit(uri))
    assert type(caught.value) is kind
    assert (caught.value.charged, caught.value.sends, emulator.stats()["posts"]) == ("no", 0, 0)
    assert uri in caught.value.message
    assert s3.secret_key not in str(caught.value)


def test_unknown_kind_of_store_is_a_deepshi_error(emulator: Emulator, hook: DeepshiHook) -> None:
    with pytest.raises(StorageFailed, match=r"nosuch://bucket/in\.png"):
        hook.edit(edit("nosuch://bucket/in.png"))
    assert emulator.stats()["posts"] == 0


def test_input_without_a_directory_for_its_copy_costs_nothing(
    emulator: Emulator, hook: DeepshiHook, large: File, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(StorageFailed, match="temporary files") as caught:
        hook.edit(edit(large.path))
    assert (caught.value.charged, caught.value.sends, emulator.stats()["posts"]) == ("no", 0, 0)
    assert "paid" not in caught.value.message


@pytest.mark.slow
def test_input_with_an_unnoticed_truncated_download_is_not_sent(
    emulator: Emulator, hook: DeepshiHook, proxy: S3Proxy, s3: S3Server, large: File
) -> None:
    """s3fs accepts a truncated answer without a length as complete; an edit of the cut image would be paid for."""
    s3.client().put_object(Bucket="images", Key="cut/large.png", Body=large.path.read_bytes())
    proxy.ends_after = 300_000
    with pytest.raises(StorageFailed, match=r"only 300,000 of [\d,]+ bytes arrived") as caught:
        asyncio.run(hook.aedit(edit("s3://images/cut/large.png"), images_conn_id=proxy.conn_id))
    assert (caught.value.charged, posts(emulator)) == ("no", 0)
    proxy.ends_after = None
    asyncio.run(hook.aedit(edit("s3://images/cut/large.png"), images_conn_id=proxy.conn_id)).close()
    assert posts(emulator) == 1
