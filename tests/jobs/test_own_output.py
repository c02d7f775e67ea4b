"""An edit of its own output would be bought again in every run, from the previous run's image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.jobs import run_job as run
from tests.support.batches import batch, counts, ended, result_of
from tests.support.counts import posts
from tests.support.jobs import make_job
from tests.support.places import LocalPlace, Place, images

SMALL: dict[str, Any] = {"model": "deepshi-image-1", "prompt": "add a flag", "width": 64, "height": 48}


async def first_image(place: Place) -> str:
    made = await run(make_job(place))
    return made.images[0].uri


async def test_an_edit_of_its_own_output_is_refused_at_once(emulator: Emulator, place: Place) -> None:
    uri = await first_image(place)
    before = place.names()
    edit = make_job(place, operation="edit", fields={**SMALL, "images": [uri]}, owner={"task_id": "edit"})
    for _ in range(2):
        manifest = await run(edit)
        assert manifest.error is not None
        assert (manifest.error["type"], manifest.error["charged"], manifest.retry) == ("InvalidRequest", "no", False)
        assert "that it would replace" in manifest.error["message"]
    assert (posts(emulator), place.names()) == (1, before)


async def test_its_own_output_is_known_under_its_other_names(
    emulator: Emulator, local: LocalPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await first_image(local)
    (tmp_path / "link").symlink_to(local.path)
    (tmp_path / "picture.bin").symlink_to(local.path / "image-0.png")
    monkeypatch.chdir(tmp_path)
    ways = [
        str(local.path / "image-0.png"),
        f"file://localhost{local.path}/image-0.png",
        f"{local.path}/../{local.path.name}/image-0.png",
        f"{tmp_path}/link/image-0.png",
        f"{tmp_path}/picture.bin",
        f"{local.path.name}/image-0.png",
        f"{local.path}/image-3.webp",  # the format of the answer is not known yet
    ]
    for way in ways:
        manifest = await run(make_job(local, operation="edit", fields={**SMALL, "images": [way]}))
        assert manifest.error is not None
        assert manifest.error["type"] == "InvalidRequest", way
        assert "that it would replace" in manifest.error["message"], way
    assert posts(emulator) == 1


async def test_an_image_of_another_name_or_directory_may_be_edited(
    emulator: Emulator, local: LocalPlace, tmp_path: Path
) -> None:
    uri = await first_image(local)
    other = LocalPlace(tmp_path / "other")
    assert (await run(make_job(other, operation="edit", fields={**SMALL, "images": [uri]}))).status == "success"
    local.write("photo-0.png", local.read("image-0.png"))
    source = f"{local.uri}/photo-0.png"
    edit = make_job(local, operation="edit", fields={**SMALL, "images": [source]}, owner={"task_id": "edit"})
    assert (await run(edit)).status == "success"
    assert posts(emulator) == 3


@pytest.mark.parametrize(
    "edits",
    [
        {"shoe": "shoe"},
        {"shoe": "lamp", "lamp": "shoe"},
        {"shoe": "lamp", "lamp": "chair", "chair": "shoe", "desk": "shoe"},
    ],
)
def test_rows_that_edit_their_own_images_are_refused_before_any_row_is_bought(
    emulator: Emulator, place: Place, edits: dict[str, str]
) -> None:
    rows = [{"key": key, **SMALL, "images": [f"{place.uri}/{source}-0.png"]} for key, source in edits.items()]
    ti, err = ended(batch(place, [{"key": "boat", "prompt": "a boat"}, *rows]))
    assert isinstance(err, AirflowFailException)
    assert "edit their own images" in str(err)
    assert "shoe" in str(err)
    assert (posts(emulator), images(place), ti.xcoms["cost_usd"]) == (0, [], 0)


def test_a_row_may_edit_the_image_of_another_row(emulator: Emulator, local: Place) -> None:
    plain = [{"key": "shoe", "prompt": "a shoe"}]
    result_of(batch(local, plain))
    red = [{"key": "shoe-red", **SMALL, "images": [f"{local.uri}/shoe-0.png"]}]
    assert counts(result_of(batch(local, [*plain, *red]), run_id="tuesday")) == (1, 1, 0, 0)
    assert posts(emulator) == 2
