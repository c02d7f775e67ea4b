"""Edits: forms with images."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from deepshi_provider.emulator.testing import Emulator
from tests.support.calls import EDITS, GENERATIONS, events, image_file, only_picture, part

EDIT = {"model": "deepshi-image-1", "prompt": "make it blue", "width": "256", "height": "256"}


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("name", ["image", "image[]"])
def test_edit_changes_the_light_of_its_input_image(client: httpx.Client, image_format: str, name: str) -> None:
    answer = client.post(EDITS, data=EDIT, files=[part(image_format, name=name)])
    assert answer.status_code == 200, answer.text
    with Image.open(io.BytesIO(only_picture(answer))) as image:
        assert image.size == (256, 256)
        pixel = image.convert("RGB").getpixel((250, 20))
    assert isinstance(pixel, tuple)
    # The input is completely red; the edit changes its light, and it is still red.
    assert pixel[0] - max(pixel[1:]) > 50
    assert pixel[0] < 250


def test_an_edit_covers_the_caption_of_its_source(client: httpx.Client) -> None:
    drawn: dict[str, Any] = {"model": "deepshi-banana-pro", "width": 640, "height": 480}
    boat = only_picture(client.post(GENERATIONS, json={**drawn, "prompt": "a red boat with a caption " * 9}))
    for _ in range(2):  # also an edit of the edit
        asked = {**EDIT, "width": "640", "height": "480"}
        boat = only_picture(client.post(EDITS, data=asked, files=[("image", ("boat.png", boat, "image/png"))]))
        with Image.open(io.BytesIO(boat)) as image:
            lower = image.convert("RGB").crop((0, 400, 640, 480))
        colours = lower.getcolors()
        assert colours is not None, "no part of the source, which has many"
        assert len(colours) <= 3, "the table, and the edit's own caption with its shadow"


def test_images_of_one_edit_look_different(client: httpx.Client) -> None:
    source = only_picture(client.post(GENERATIONS, json={"model": "deepshi-banana-pro", "prompt": "a blue shoe"}))
    asked = {"model": "gpt-image-2", "prompt": "on a wooden table", "n": "4", "quality": "low"}
    answer = client.post(EDITS, data=asked, files=[("image", ("shoe.png", source, "image/png"))]).json()
    images = [Image.open(io.BytesIO(base64.b64decode(item["b64_json"]))) for item in answer["data"]]
    assert len({image.convert("RGB").resize((64, 64)).tobytes() for image in images}) == 4


def test_journal_names_every_file_and_field(emulator: Emulator, client: httpx.Client) -> None:
    content = image_file("jpeg")
    files: list[Any] = [part("jpeg", name="image[]"), part("png", name="mask")]
    client.post(EDITS, data={**EDIT, "style": "flat"}, files=files)
    (entry,) = emulator.requests()
    assert entry["path"] == EDITS
    assert (entry["model"], entry["n"], entry["stream"]) == ("deepshi-image-1", 1, False)
    assert entry["fields"] == {**EDIT, "style": "flat"}
    assert entry["images"][0] == {
        "field": "image[]",
        "filename": "in.jpeg",
        "content_type": "image/jpeg",
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert entry["images"][1]["field"] == "mask"
    assert emulator.api_key not in json.dumps(emulator.requests())


def test_every_input_image_is_billed(emulator: Emulator, client: httpx.Client) -> None:
    fields = {"model": "gpt-image-2", "prompt": "join them", "quality": "low"}
    client.post(EDITS, data=fields, files=[part()] * 14)
    assert emulator.stats()["cost_usd"] == "0.0432000001"


def test_edit_can_be_streamed(emulator: Emulator, client: httpx.Client) -> None:
    answer = client.post(EDITS, data={**EDIT, "stream": "true"}, files=[part()])
    ((name, data),) = events(answer.text)
    assert name == json.loads(data)["type"] == "image_edit.completed"
    assert base64.b64decode(json.loads(data)["b64_json"]) == emulator.picture(answer.headers["x-request-id"])
