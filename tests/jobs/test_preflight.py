"""What the free catalog says is heard before a request is paid for; what it does not say stops nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.jobs import run_job as run
from tests.support.calls import image_file
from tests.support.counts import posts
from tests.support.jobs import make_job
from tests.support.places import Place, images

MODELS = "/v1/models"
#: Fields of a generation, and what is said about them.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"aspect_ratio": "16:9"}, "deepshi-banana-pro is sized by width and height and ignores aspect_ratio"),
    ({"model": "grok-imagine"}, "grok-imagine is sized by aspect_ratio and ignores width"),
    ({"model": "nano-banana-2", "width": None, "height": None, "resolution": "8K"}, "allowed are 1K, 2K, 4K"),
    ({"model": "seedream-4.5", "image_size": "12x12"}, "image_size is 12x12, allowed are"),
    ({"output_format": "gif"}, "output_format is gif, allowed are png, jpeg, webp"),
    ({"n": 2, "stream": False}, "n is 2, the most is 1"),
    ({"width": 5000}, "width is 5000, the most is 4096"),
    ({"width": 8}, "width is 8, the least is 16"),
    ({"prompt": "x" * 8_001}, "the prompt has 8,001 characters, deepshi-banana-pro takes 8,000"),
]


@pytest.mark.parametrize("shape", ["object", "list", "allowed"])
@pytest.mark.parametrize(("fields", "complaint"), WRONG, ids=lambda value: str(value)[:40])
async def test_complaint_is_an_error_before_paying(
    emulator: Emulator, local: Place, fields: dict[str, Any], complaint: str, shape: str
) -> None:
    emulator.settings(catalog_shape=shape)
    manifest = await run(make_job(local, fields=fields, preflight="error"))
    assert manifest.error is not None
    assert (manifest.error["type"], manifest.error["charged"], manifest.retry) == ("PreflightFailed", "no", False)
    assert complaint in manifest.error["message"]
    assert (posts(emulator), emulator.stats()["gets"], manifest.task_cost_usd) == (0, 1, Decimal(0))
    assert local.names() == []


@pytest.mark.parametrize(
    ("model", "count", "complaint"),
    [
        ("deepshi-image-1", 6, "6 input images, deepshi-image-1 takes 5"),
        ("deepshi-banana-pro", 1, None),  # "edit": null tells nothing
    ],
)
async def test_input_images_are_counted(
    emulator: Emulator, local: Place, tmp_path: Path, model: str, count: int, complaint: str | None
) -> None:
    file = tmp_path / "in.png"
    file.write_bytes(image_file("png"))
    fields = {"model": model, "images": [str(file)] * count}
    manifest = await run(make_job(local, operation="edit", fields=fields, preflight="error"))
    assert manifest.error is not None
    if complaint:
        assert complaint in manifest.error["message"]
        assert posts(emulator) == 0
    else:
        assert manifest.error["code"] == "edit_not_supported"


async def test_by_default_a_complaint_is_a_warning(
    emulator: Emulator, local: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        manifest = await run(make_job(local, fields={"aspect_ratio": "16:9"}, preflight="warn"))
    assert (manifest.status, posts(emulator)) == ("success", 1)
    assert "Preflight: deepshi-banana-pro is sized by width and height and ignores aspect_ratio" in caplog.text


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


async def test_model_that_the_catalog_does_not_know_is_sent_as_it_is(emulator: Emulator, local: Place) -> None:
    manifest = await run(make_job(local, fields={"model": "brand-new"}, preflight="error"))
    assert manifest.error is not None
    assert (manifest.error["code"], posts(emulator)) == ("model_not_found", 1)


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
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(read_timeout=0.3))
    emulator.fault(fault, path=MODELS, **params)
    with caplog.at_level(logging.WARNING):
        manifest = await run(make_job(local, fields={"aspect_ratio": "16:9"}, preflight=mode))
    assert (manifest.status, posts(emulator), images(local)) == ("success", 1, ["image-0.png"])
    assert "The catalog could not be read" in caplog.text
    assert emulator.api_key not in caplog.text


async def test_empty_catalog_lets_through(emulator: Emulator, local: Place) -> None:
    emulator.fault("no_data", path=MODELS)
    assert (await run(make_job(local, fields={"aspect_ratio": "16:9"}, preflight="error"))).status == "success"
