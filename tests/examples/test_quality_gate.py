"""The gate of ``quality_gate.py`` fails on the images that it must reject."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from dags_examples.quality_gate import SIDE, check


@pytest.fixture(autouse=True)
def connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", '{"conn_type": "deepshi"}')


def batch_of(folder: Path, pictures: dict[str, Image.Image]) -> dict[str, str]:
    rows = [{"key": "lost", "uri": None}]
    for key, picture in pictures.items():
        picture.save(folder / f"{key}.png")
        rows.append({"key": key, "uri": (folder / f"{key}.png").as_uri()})
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"manifest_uri": manifest.as_uri()}


def gradient(angle: int, side: int = SIDE) -> Image.Image:
    return Image.linear_gradient("L").resize((side, side)).rotate(angle)


def test_pictures_that_differ_pass(tmp_path: Path) -> None:
    assert check.function(batch_of(tmp_path, {"mug": gradient(0), "lamp": gradient(270)})) == 2


def test_a_wrong_size_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lamp has 500x500 pixels"):
        check.function(batch_of(tmp_path, {"mug": gradient(0), "lamp": gradient(270, 500)}))


def test_a_picture_that_was_saved_again_with_a_small_change_fails(tmp_path: Path) -> None:
    nearly = gradient(0)
    nearly.putpixel((5, 5), 255)
    with pytest.raises(ValueError, match="lamp looks like mug"):
        check.function(batch_of(tmp_path, {"mug": gradient(0), "lamp": nearly}))
