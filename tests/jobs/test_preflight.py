"""What the free catalog says is heard before a request is paid for; what it does not say stops nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable
from decimal import Decimal
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.jobs import run_job as run
from deepshi_provider.jobs.job import Job
from deepshi_provider.jobs.outcome import ImageOutcome
from deepshi_provider.operators.images import DeepshiGenerateImageOperator
from tests.services.authority import Authority
from tests.support.calls import image_file
from tests.support.counts import posts
from tests.support.jobs import make_job
from tests.support.places import Place, images
from tests.support.servers import Wire

MODELS = "/v1/models"
#: The operators' default.
DEFAULT = signature(DeepshiGenerateImageOperator.__init__).parameters["preflight"].default
SHAPES = ["object", "list", "allowed", "bare", "foreign", "odd"]
#: Fields of a generation, and the beginning of the complaint about them.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"aspect_ratio": "16:9"}, "aspect_ratio is 16:9, but deepshi-banana-pro is sized by width and height and ignores"),
    ({"model": "grok-imagine"}, "width is 64, but grok-imagine is sized by aspect_ratio and ignores width"),
    (
        {"model": "nano-banana-2", "width": None, "height": None, "resolution": "8K"},
        "resolution is 8K, nano-banana-2 takes 1K, 2K, 4K (default 1K)",
    ),
    ({"model": "seedream-4.5", "image_size": "12x12"}, "image_size is 12x12, seedream-4.5 takes auto_2K, "),
    ({"output_format": "gif"}, "output_format is gif, deepshi-banana-pro takes png, jpeg, webp (default png)"),
    ({"n": 2, "stream": False}, "n is 2, deepshi-banana-pro takes 1 (default 1)"),
    ({"width": 5000}, "width is 5000, deepshi-banana-pro takes 16 to 4096 (default 1024)"),
    ({"width": 8}, "width is 8, deepshi-banana-pro takes 16 to 4096 (default 1024)"),
    ({"height": None}, "width is 64 and height is missing: pictures are sized by both (height takes 16 to 4096"),
    ({"width": None}, "height is 48 and width is missing: pictures are sized by both (width takes 16 to 4096"),
    ({"prompt": "x" * 8_001}, "prompt has 8,001 characters, deepshi-banana-pro takes at most 8,000"),
    (
        {"model": "deepshi-banana"},
        "model is deepshi-banana, which is not in the catalog of this key. Did you mean deepshi-banana-pro?",
    ),
    (
        {"model": "deepshi-chat-large"},
        "model is deepshi-chat-large, which makes no images. It lists deepshi-banana-pro",
    ),
]


@pytest.mark.parametrize("shape", ["object", "list", "allowed"])
@pytest.mark.parametrize(("fields", "complaint"), WRONG, ids=lambda value: str(value)[:40])
async def test_complaint_is_an_error_before_paying(
    emulator: Emulator, local: Place, fields: dict[str, Any], complaint: str, shape: str
) -> None:
    emulator.settings(catalog_shape=shape)
    manifest = await run(make_job(local, fields=fields, preflight=DEFAULT))
    assert manifest.error is not None
    assert (manifest.error["type"], manifest.error["charged"], manifest.retry) == ("PreflightFailed", "no", False)
    assert complaint in manifest.error["message"]
    assert (posts(emulator), emulator.stats()["gets"], manifest.task_cost_usd) == (0, 1, Decimal(0))
    assert local.names() == []


@pytest.mark.parametrize(
    ("model", "count", "complaint"),
    [
        ("deepshi-image-1", 6, "images has 6 input images, deepshi-image-1 takes at most 5"),
        (
            "deepshi-banana-pro",
            1,
            "images has 1, but deepshi-banana-pro cannot edit images; deepshi-image-1, flux-2-pro",
        ),
    ],
)
async def test_input_images_are_counted(
    emulator: Emulator, local: Place, tmp_path: Path, model: str, count: int, complaint: str
) -> None:
    file = tmp_path / "in.png"
    file.write_bytes(image_file("png"))
    fields = {"model": model, "images": [str(file)] * count}
    manifest = await run(make_job(local, operation="edit", fields=fields, preflight="error"))
    assert manifest.error is not None
    assert complaint in manifest.error["message"]
    assert posts(emulator) == 0


async def test_a_complaint_is_a_warning_if_the_user_wants_that(
    emulator: Emulator, local: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        manifest = await run(make_job(local, fields={"aspect_ratio": "16:9"}, preflight="warn"))
    assert (manifest.status, posts(emulator)) == ("success", 1)
    assert "Preflight: aspect_ratio is 16:9, but deepshi-banana-pro is sized by width and height" in caplog.text


@pytest.mark.parametrize(("field", "value"), [("seed", 7), ("quality", "high")])
async def test_a_field_that_would_be_ignored_is_warned_of_and_sent(
    emulator: Emulator, local: Place, caplog: pytest.LogCaptureFixture, field: str, value: Any
) -> None:
    fields = {"model": "nano-banana-2", "width": None, "height": None, field: value}
    with caplog.at_level(logging.WARNING):
        manifest = await run(make_job(local, fields=fields, preflight=DEFAULT))
    assert (manifest.status, posts(emulator)) == ("success", 1)
    assert f"Preflight: {field} is {value}, and nano-banana-2 will ignore it: the catalog lists only" in caplog.text


#: Of each sizing style, with everything that the model takes.
WORKING: list[dict[str, Any]] = [
    {"width": 64, "height": 48, "seed": 7, "output_format": "webp"},
    {"model": "flux-2-pro", "width": 64, "height": 48, "n": 2, "stream": False},
    {"model": "nano-banana-2", "aspect_ratio": "16:9", "resolution": "1K", "n": 4, "stream": False},
    {"model": "grok-imagine", "aspect_ratio": "3:2", "output_format": "jpeg"},
    {"model": "seedream-4.5", "image_size": "1024x1024", "seed": 1},
    {"model": "gpt-image-2", "image_size": "auto", "quality": "low"},
]


@pytest.mark.parametrize("shape", SHAPES)
async def test_nothing_that_works_is_refused_whatever_the_catalog_looks_like(
    emulator: Emulator, new_place: Callable[[str], Place], tmp_path: Path, shape: str
) -> None:
    emulator.settings(catalog_shape=shape)
    for fields in WORKING:
        unsized = {"width": None, "height": None, **fields}
        manifest = await run(make_job(new_place("file"), fields=unsized, preflight=DEFAULT))
        assert manifest.status == "success", (fields, manifest.error)
    file = tmp_path / "in.png"
    file.write_bytes(image_file("png"))
    edit = {"model": "deepshi-image-1", "images": [str(file)] * 5}
    manifest = await run(make_job(new_place("file"), operation="edit", fields=edit, preflight=DEFAULT))
    assert (manifest.status, posts(emulator)) == ("success", len(WORKING) + 1), manifest.error


@pytest.mark.parametrize("shape", ["bare", "foreign", "odd"])
async def test_documented_cap_on_n_needs_no_catalog(emulator: Emulator, local: Place, shape: str) -> None:
    emulator.settings(catalog_shape=shape)
    manifest = await run(make_job(local, fields={"n": 2, "stream": False}, preflight=DEFAULT))
    assert manifest.error is not None
    assert ("n is 2, deepshi-banana-pro takes 1 (default 1)" in manifest.error["message"], posts(emulator)) == (True, 0)


async def test_input_image_that_is_too_large_is_refused(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, local: Place, tmp_path: Path
) -> None:
    file = tmp_path / "in.png"
    file.write_bytes(image_file("png"))
    size = file.stat().st_size
    body = json.dumps({"data": [{"id": "m", "edit": {"max_image_bytes": size - 1}}]}).encode()
    asked: list[bytes] = []

    def catalog(client: socket.socket) -> None:
        asked.append(client.recv(65536).split(b"\r\n")[0])
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    wire = Wire("http", authority, monkeypatch)
    with wire.serving(catalog) as url:
        wire.connect_to(url)
        fields = {"model": "m", "images": [str(file)]}
        manifest = await run(make_job(local, operation="edit", fields=fields, preflight=DEFAULT))
    assert manifest.error is not None
    assert f"images: number 1 has {size:,} bytes, m takes at most {size - 1:,}" in manifest.error["message"]
    assert asked == [b"GET /v1/models HTTP/1.1"]


@pytest.mark.parametrize(
    ("size", "fields", "warned"),
    [
        ((64, 48), {"width": None, "height": None}, True),
        ((1024, 1024), {"width": None, "height": None}, False),
        ((64, 48), {}, False),
        ((64, 48), {"width": None, "height": None, "model": "nano-banana-2"}, False),
    ],
    ids=["other", "default", "given", "without-default"],
)
async def test_an_edit_without_a_size_is_warned_of_if_it_will_not_keep_its_own(
    emulator: Emulator,
    local: Place,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    size: tuple[int, int],
    fields: dict[str, Any],
    warned: bool,
) -> None:
    file = tmp_path / "in.png"
    file.write_bytes(image_file("png", size))
    edit = {"model": "deepshi-image-1", "images": [str(file)], **fields}
    with caplog.at_level(logging.WARNING):
        manifest = await run(make_job(local, operation="edit", fields=edit, preflight=DEFAULT))
    assert (manifest.status, posts(emulator)) == ("success", 1), manifest.error
    text = (
        "Preflight: width and height are missing: deepshi-image-1 returns its default of 1024x1024 pixels, and the "
        "input image has 64x48"
    )
    assert [record.message for record in caplog.records if "are missing" in record.message] == [text] * warned


async def test_off_does_not_ask(emulator: Emulator, local: Place, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await run(make_job(local, fields={"aspect_ratio": "16:9"}, preflight="off"))
    assert emulator.stats()["gets"] == 0
    assert "Preflight" not in caplog.text


async def test_jobs_of_one_process_share_a_catalog(emulator: Emulator, new_place: Callable[[str], Place]) -> None:
    jobs = [make_job(new_place("file"), preflight="warn") for _ in range(8)]
    await asyncio.gather(*map(run, jobs))
    await run(make_job(new_place("file"), preflight="warn"))
    assert (emulator.stats()["gets"], posts(emulator)) == (1, 9)


async def test_jobs_of_one_process_do_not_all_ask_for_a_catalog_that_cannot_be_had(
    emulator: Emulator, new_place: Callable[[str], Place]
) -> None:
    emulator.fault("status", status=500, path=MODELS, times=100)
    await asyncio.gather(*(run(make_job(new_place("file"), preflight="warn")) for _ in range(8)))
    assert (emulator.stats()["gets"], posts(emulator)) == (1, 8)


async def test_what_is_stored_needs_no_catalog(emulator: Emulator, local: Place) -> None:
    await run(make_job(local, preflight="error"))
    assert (await run(make_job(local, preflight="error", owner={"try_number": 2}))).reused
    assert emulator.stats()["gets"] == 1


@pytest.mark.parametrize("model", ["deepshi-banana-pro", "nano-banana-2", "grok-imagine", "seedream-4.5"])
async def test_catalog_that_nobody_understands_lets_through(emulator: Emulator, local: Place, model: str) -> None:
    emulator.settings(catalog_shape="odd")
    fields = {"model": model, "width": None, "height": None}
    manifest = await run(make_job(local, fields=fields, preflight="error"))
    assert (manifest.status, posts(emulator)) == ("success", 1)


@pytest.mark.parametrize("shape", ["bare", "foreign", "odd"])
async def test_model_that_may_be_elsewhere_is_sent_as_it_is(emulator: Emulator, local: Place, shape: str) -> None:
    emulator.settings(catalog_shape=shape)
    manifest = await run(make_job(local, fields={"model": "brand-new"}, preflight=DEFAULT))
    assert manifest.error is not None
    assert (manifest.error["code"], posts(emulator)) == ("model_not_found", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "params"),
    [
        ("status", {"status": 500}),
        ("status", {"status": 401}),
        ("status", {"status": 503, "body": "html"}),
        ("cut", {}),
        ("cut", {"at": "body"}),
        ("silence", {}),
        ("html_200", {}),
        ("wrong_json", {}),
        ("slow", {"bytes_per_second": 500}),
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["warn", "error"])
async def test_catalog_that_cannot_be_had_lets_through_with_a_warning(
    emulator: Emulator,
    local: Place,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    params: dict[str, Any],
    mode: str,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(read_timeout=0.3, connect_timeout=2))
    emulator.fault(fault, path=MODELS, **params)
    with caplog.at_level(logging.WARNING):
        manifest = await run(make_job(local, fields={"aspect_ratio": "16:9"}, preflight=mode))
    assert (manifest.status, posts(emulator), images(local)) == ("success", 1, ["image-0.png"])
    assert "The catalog could not be read" in caplog.text
    assert emulator.api_key not in caplog.text


async def test_a_catalog_that_does_not_end_is_not_read_into_memory(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = b'{"id": "m", "parameters": {"n": {"max": 1}}},' * 20_000
    sent = []

    def catalog(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n[")
        with contextlib.suppress(OSError):
            while True:
                client.sendall(piece)
                sent.append(len(piece))

    wire = Wire("http", authority, monkeypatch)
    says = "The list of models is longer than 16,777,216 bytes"
    with wire.serving(catalog) as url:
        wire.connect_to(url)
        with pytest.raises(DeepshiError, match=says):
            await DeepshiHook().alist_models()
    assert sum(sent) < 64 * 2**20, "the rest of this is what the sockets hold"


async def test_empty_catalog_lets_through(emulator: Emulator, local: Place) -> None:
    emulator.fault("no_data", path=MODELS)
    assert (await run(make_job(local, fields={"aspect_ratio": "16:9"}, preflight="error"))).status == "success"


# ------------------------------------------------------------------ mapped tasks


async def in_a_process_of_its_own(job: Job) -> ImageOutcome:
    """Run a job on a loop of its own, since jobs on one loop share the catalog."""
    return await asyncio.to_thread(asyncio.run, run(job))


def mapped(place: Place, map_index: int, *, run_id: str = "monday", **more: Any) -> Job:
    return make_job(
        place,
        owner={"map_index": map_index, "run_id": run_id},
        output_uri=f"{place.uri}/{run_id}/{map_index}",
        runs_uri=place.uri,
        runs_conn_id=place.conn_id,
        preflight="error",
        **more,
    )


def copies(place: Place) -> list[str]:
    return [name for name in place.names() if name.startswith("_deepshi_runs/") and "/catalog-" in name]


async def test_mapped_tasks_of_a_run_request_the_catalog_once(emulator: Emulator, place: Place) -> None:
    for index in range(3):
        assert (await in_a_process_of_its_own(mapped(place, index))).status == "success"
    assert (posts(emulator), emulator.stats()["gets"], len(copies(place))) == (3, 1, 1)
    assert (await in_a_process_of_its_own(mapped(place, 0, run_id="tuesday"))).status == "success"
    assert (posts(emulator), emulator.stats()["gets"], len(copies(place))) == (4, 2, 2)


async def test_single_task_keeps_no_copy_of_the_catalog(emulator: Emulator, local: Place) -> None:
    job = make_job(local, runs_uri=local.uri, preflight="error")
    assert (await in_a_process_of_its_own(job)).status == "success"
    assert (emulator.stats()["gets"], copies(local)) == (1, [])


@pytest.mark.parametrize("content", ['{"data": [%s]}', "not JSON", '{"data": []}', ""])
async def test_a_copy_of_the_catalog_refuses_no_request(emulator: Emulator, local: Place, content: str) -> None:
    await in_a_process_of_its_own(mapped(local, 0))
    (name,) = copies(local)
    other = json.dumps({"id": "other", "parameters": {"width": {"type": "integer"}, "height": {"type": "integer"}}})
    whole = local.read(name)
    local.write(name, content.replace("%s", other).encode())
    assert (await in_a_process_of_its_own(mapped(local, 1))).status == "success"
    assert (posts(emulator), emulator.stats()["gets"]) == (2, 1 if content == '{"data": []}' else 2)
    assert (local.read(name) == whole) == (content != '{"data": []}')


async def test_request_that_contradicts_the_copy_and_the_catalog_is_refused(emulator: Emulator, local: Place) -> None:
    await in_a_process_of_its_own(mapped(local, 0))
    refused = await in_a_process_of_its_own(mapped(local, 1, fields={"width": 5000}))
    assert refused.error is not None
    assert refused.error["type"] == "PreflightFailed"
    assert (posts(emulator), emulator.stats()["gets"]) == (1, 2)


async def test_request_that_contradicts_only_the_copy_passes_if_the_catalog_cannot_be_read(
    emulator: Emulator, local: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await in_a_process_of_its_own(mapped(local, 0))
    emulator.fault("status", status=500, path=MODELS)
    with caplog.at_level(logging.WARNING):
        outcome = await in_a_process_of_its_own(mapped(local, 1, fields={"aspect_ratio": "16:9"}))
    assert (outcome.status, posts(emulator)) == ("success", 2)
    assert "The catalog could not be read" in caplog.text
