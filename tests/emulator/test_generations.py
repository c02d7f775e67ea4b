"""Generations and the catalog, as API.md describes them."""

from __future__ import annotations

import base64
import io
import json
from decimal import Decimal
from typing import Any

import httpx
import pytest
from PIL import Image

from deepshi_provider.emulator.testing import Emulator
from tests.support.calls import BOAT, GENERATIONS, TWO_BOATS, events, exact, only_picture, raw_post
from tests.support.waiting import wait_until

SIZES: list[tuple[dict[str, Any], tuple[int, int]]] = [
    ({"model": "deepshi-banana-pro", "width": 321, "height": 77}, (321, 77)),
    ({"model": "deepshi-banana-pro"}, (1024, 1024)),
    ({"model": "flux-2-pro", "width": 16, "height": 4096}, (16, 4096)),
    ({"model": "flux-2-pro", "width": 4095, "height": 17}, (4095, 17)),
    ({"model": "nano-banana-2", "aspect_ratio": "16:9", "resolution": "2K"}, (2736, 1536)),
    ({"model": "nano-banana-pro", "aspect_ratio": "9:16"}, (768, 1360)),
    ({"model": "grok-imagine", "aspect_ratio": "4:3"}, (1184, 880)),
    ({"model": "seedream-4.5", "image_size": "auto_2K"}, (2048, 2048)),
    ({"model": "gpt-image-2", "image_size": "1536x1024"}, (1536, 1024)),
]


@pytest.mark.parametrize(("fields", "size"), SIZES)
def test_picture_has_the_size_that_the_models_style_asks_for(
    client: httpx.Client, fields: dict[str, Any], size: tuple[int, int]
) -> None:
    answer = client.post(GENERATIONS, json={**fields, "prompt": "a red boat"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["size"] == f"{size[0]}x{size[1]}"
    with Image.open(io.BytesIO(only_picture(answer))) as image:
        image.load()
        assert image.size == size


def test_fields_of_another_style_are_ignored_whatever_they_hold(client: httpx.Client) -> None:
    odd = {"aspect_ratio": 5, "resolution": "9K", "image_size": None, "quality": "best", "x": [1]}
    answer = client.post(GENERATIONS, json={**BOAT, **odd})
    assert answer.json()["size"] == "64x48"


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("total", [None, 5_000, 70_001, 196_608, 262_140, 1_000_001, 4 << 20])
def test_picture_has_its_format_and_the_length_that_was_set(
    emulator: Emulator, client: httpx.Client, output_format: str, total: int | None
) -> None:
    emulator.settings(picture_bytes=total)
    answer = client.post(GENERATIONS, json={**BOAT, "output_format": output_format})
    picture = only_picture(answer)
    with Image.open(io.BytesIO(picture)) as image:
        image.verify()
    with Image.open(io.BytesIO(picture)) as image:
        image.load()
        assert (image.format, image.size) == (output_format.upper(), (64, 48))
    assert total in (None, len(picture))
    assert emulator.picture(answer.headers["x-request-id"]) == picture


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_every_length_is_hit_where_padding_is_too_small_for_a_chunk(
    emulator: Emulator, client: httpx.Client, output_format: str
) -> None:
    boat = {**BOAT, "output_format": output_format, "seed": 1}
    natural = len(only_picture(client.post(GENERATIONS, json=boat)))
    for extra in range(1, 30):
        total = natural + extra
        emulator.settings(picture_bytes=total)
        picture = only_picture(client.post(GENERATIONS, json=boat))
        with Image.open(io.BytesIO(picture)) as image:
            image.load()
        assert len(picture) == total


def test_equal_seeds_buy_equal_pictures_and_no_seed_buys_another(client: httpx.Client) -> None:
    def bought(**fields: int) -> bytes:
        return only_picture(client.post(GENERATIONS, json={**BOAT, **fields}))

    assert bought(seed=7) == bought(seed=7)
    assert len({bought(seed=7), bought(seed=8), bought(), bought()}) == 4


def test_images_of_one_request_and_of_other_seeds_look_different(client: httpx.Client) -> None:
    def looks(**fields: Any) -> list[bytes]:
        asked = {"model": "gpt-image-2", "prompt": "a red boat", "quality": "low", **fields}
        items = client.post(GENERATIONS, json=asked).json()["data"]
        images = [Image.open(io.BytesIO(base64.b64decode(item["b64_json"]))) for item in items]
        return [image.convert("RGB").resize((64, 64)).tobytes() for image in images]

    four = looks(n=4)
    assert len(set(four)) == 4
    assert looks(n=4) == four, "tests see the same images"
    seeded = [only_picture(client.post(GENERATIONS, json={**BOAT, "seed": seed})) for seed in (1, 2)]
    assert len({Image.open(io.BytesIO(image)).convert("RGB").tobytes() for image in seeded}) == 2


def test_a_product_stands_before_its_backdrop(client: httpx.Client) -> None:
    asked = {**BOAT, "prompt": "Studio photo of a red mug, white background", "width": 320, "height": 240}
    with Image.open(io.BytesIO(only_picture(client.post(GENERATIONS, json=asked)))) as image:
        corners = [image.convert("RGB").getpixel(place) for place in ((5, 5), (315, 5), (315, 200))]
        middle = image.convert("RGB").getcolors(1_000)
    assert all(isinstance(pixel, tuple) and min(pixel) > 190 for pixel in corners)
    assert middle is not None
    assert (217, 43, 43) in {colour for _, colour in middle}, "and not white, which is its background"


@pytest.mark.slow
def test_words_of_the_prompt_choose_what_is_drawn_and_its_colour(client: httpx.Client) -> None:
    def drawn(prompt: str) -> Image.Image:
        fields = {"model": "deepshi-banana-pro", "prompt": prompt, "width": 256, "height": 192, "seed": 7}
        return Image.open(io.BytesIO(only_picture(client.post(GENERATIONS, json=fields)))).convert("RGB")

    def share(picture: Image.Image, colour: tuple[int, int, int]) -> float:
        pixels = picture.tobytes()
        at = range(0, len(pixels), 3)
        near = [i for i in at if sum(abs(a - b) for a, b in zip(pixels[i : i + 3], colour, strict=True)) < 24]
        return len(near) / len(at)

    things = ["boat", "house", "tree", "balloon", "mug", "lamp", "flower", "mountain", "shoe"]
    pictures = [drawn(f"a red {thing}") for thing in things]
    assert len({picture.tobytes() for picture in pictures}) == len(things)
    for picture in pictures:
        assert share(picture, (217, 43, 43)) > 0.005
    assert share(drawn("a green boat"), (217, 43, 43)) < 0.001


def test_url_is_a_data_uri(client: httpx.Client) -> None:
    answer = client.post(GENERATIONS, json={**BOAT, "response_format": "url"})
    (item,) = answer.json()["data"]
    assert set(item) == {"index", "url"}
    head, _, text = item["url"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(text, validate=True).startswith(b"\x89PNG")


def test_answer_holds_exactly_the_documented_fields(client: httpx.Client) -> None:
    answer = exact(client.post(GENERATIONS, json={**BOAT, "width": 512, "height": 512}))
    assert set(answer) == {"created", "model", "size", "data", "usage"}
    assert answer["usage"]["cost"] == {"total_cost": Decimal("0.000135")}
    assert set(answer["usage"]) == {
        "prompt_tokens",
        "prompt_tokens_details",
        "completion_tokens",
        "completion_tokens_details",
        "total_tokens",
        "cost",
    }


def test_one_model_revises_its_prompts(client: httpx.Client) -> None:
    answer = client.post(GENERATIONS, json={"model": "gpt-image-2", "prompt": "a boat"})
    assert answer.json()["data"][0]["revised_prompt"] == "A detailed picture of a boat"


def test_several_pictures_come_with_their_positions(client: httpx.Client) -> None:
    data = client.post(GENERATIONS, json=TWO_BOATS).json()["data"]
    assert [item["index"] for item in data] == [0, 1]
    assert data[0]["b64_json"] != data[1]["b64_json"]


PRICES: list[tuple[dict[str, Any], str]] = [
    ({"model": "nano-banana-2"}, "0.039"),
    ({"model": "nano-banana-2", "n": 3}, "0.117"),
    ({"model": "nano-banana-2", "resolution": "2K"}, "0.0585"),
    ({"model": "nano-banana-2", "resolution": "4K"}, "0.117"),
    ({"model": "deepshi-banana-pro", "width": 1024, "height": 512}, "0.00027"),
    ({"model": "deepshi-banana-pro", "width": 100, "height": 100}, "0.000005149841"),
    ({"model": "gpt-image-2", "quality": "low"}, "0.0110000001"),
    ({"model": "gpt-image-2", "quality": "high", "image_size": "1024x1536"}, "0.25050000015"),
    ({"model": "seedream-4.5", "image_size": "auto_4K"}, "0.0800001"),
]


def test_prices_are_exact_and_so_is_their_sum(emulator: Emulator, client: httpx.Client) -> None:
    for fields, price in PRICES:
        answer = client.post(GENERATIONS, json={**fields, "prompt": "a boat"})
        assert exact(answer)["usage"]["cost"]["total_cost"] == Decimal(price)
        assert f'"total_cost": {price}}}' in answer.text
        assert emulator.requests()[-1]["cost_usd"] == price
    stats = emulator.stats()
    assert Decimal(stats["cost_usd"]) == sum(Decimal(price) for _, price in PRICES)
    assert (stats["charged_requests"], stats["images"]) == (9, 11)


def test_a_stream_is_billed_like_an_answer(emulator: Emulator, client: httpx.Client) -> None:
    request = {**TWO_BOATS, "stream": True}
    answer = client.post(GENERATIONS, json=request)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.text.startswith(": keepalive\n\n")
    found = events(answer.text)
    assert [name for name, _ in found] == ["image_generation.completed"] * 2
    assert emulator.stats()["cost_usd"] == "0.0400000018"
    assert '"total_cost": 0.0400000018' in found[1][1]
    assert '"usage"' not in found[0][1]  # with quotes, because base64 may contain it


@pytest.mark.slow
def test_a_stream_sends_keepalives_while_it_works(emulator: Emulator, client: httpx.Client) -> None:
    emulator.settings(latency=0.3, keepalive=0.05)
    answer = client.post(GENERATIONS, json={**BOAT, "stream": True})
    assert answer.text.count(": keepalive\n\n") >= 4


def test_catalog_has_the_parameters_of_each_model(client: httpx.Client) -> None:
    models = {entry["id"]: entry for entry in client.get("/v1/models").json()["data"]}
    assert len(models) == 13
    banana, image_1 = models["deepshi-banana-pro"], models["deepshi-image-1"]
    assert banana["parameters"]["n"]["maximum"] == image_1["parameters"]["n"]["maximum"] == 1
    assert banana["edit"] is None
    assert image_1["edit"] == {"max_images": 5}
    assert models["nano-banana-2"]["parameters"]["output_format"]["enum"] == ["png"]
    assert models["grok-imagine"]["parameters"]["output_format"]["enum"] == ["jpeg"]
    assert models["deepshi-chat-small"]["modalities"]["output"] == ["text"]


@pytest.mark.parametrize("shape", ["object", "list", "allowed", "odd"])
def test_catalog_has_other_shapes_with_the_same_models(emulator: Emulator, client: httpx.Client, shape: str) -> None:
    emulator.settings(catalog_shape=shape)
    data = client.get("/v1/models").json()["data"]
    ids = {entry["id"] for entry in data if isinstance(entry, dict) and entry.get("id")}
    assert {"deepshi-banana-pro", "gpt-image-2", "nano-banana-2"} <= ids
    parameters = data[3].get("parameters")
    if shape == "list":
        assert {"name": "output_format", "type": "string", "values": ["png"], "default": "png"} in (parameters)
    if shape == "allowed":
        assert parameters["output_format"]["allowed"] == ["png"]


def test_catalog_may_say_nothing_but_ids_or_be_of_another_vendor(emulator: Emulator, client: httpx.Client) -> None:
    emulator.settings(catalog_shape="bare")
    assert {"id": "gpt-image-2"} in client.get("/v1/models").json()["data"]
    emulator.settings(catalog_shape="foreign")
    document = client.get("/v1/models").json()
    assert (document["next_page_token"], document["models"][0]["id"]) == ("2", "deepshi/deepshi-banana-pro")


COSTS = [
    ("object", {"total_cost": Decimal("0.039")}),
    ("number", Decimal("0.039")),
    ("string", "0.039"),
    ("absent", None),
]


@pytest.mark.parametrize(("form", "cost"), COSTS)
def test_cost_has_other_forms_and_the_charge_stays(
    emulator: Emulator, client: httpx.Client, form: str, cost: object
) -> None:
    emulator.settings(cost_form=form)
    answer = client.post(GENERATIONS, json={"model": "nano-banana-2", "prompt": "a boat"})
    assert exact(answer)["usage"].get("cost") == cost
    assert emulator.stats()["cost_usd"] == "0.039"


def test_a_request_without_its_body_costs_nothing(emulator: Emulator) -> None:
    body = len(json.dumps(BOAT))
    raw_post(emulator, BOAT, missing_bytes=body).close()
    raw_post(emulator, BOAT, missing_bytes=1).close()
    wait_until(lambda: emulator.stats()["disconnects"] == 2, timeout=60)
    stats = emulator.stats()
    assert (stats["posts"], stats["in_flight"], stats["images"], stats["cost_usd"]) == (2, 0, 0, "0")
    assert [entry["fields"] for entry in emulator.requests()] == [{}, {}]
