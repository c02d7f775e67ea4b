"""The official OpenAI SDK with only another base URL."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import openai
import pytest
from PIL import Image

from deepshi_provider.emulator.testing import Emulator
from tests.support.calls import image_file


@pytest.fixture
def sdk(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[openai.OpenAI]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    base_url = f"{emulator.base_url}/v1"
    with openai.OpenAI(api_key=emulator.api_key, base_url=base_url, max_retries=0) as client:
        yield client


def size_of(text: str | None) -> tuple[int, int]:
    assert text is not None
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        width, height = image.size
    return width, height


def test_generate(emulator: Emulator, sdk: openai.OpenAI) -> None:
    answer = sdk.images.generate(model="deepshi-banana-pro", prompt="a boat", extra_body={"width": 80, "height": 60})
    assert answer.data is not None
    assert size_of(answer.data[0].b64_json) == (80, 60)
    assert emulator.stats()["images"] == 1


def test_generate_several_with_url(sdk: openai.OpenAI) -> None:
    answer = sdk.images.generate(model="gpt-image-2", prompt="a boat", n=2, quality="low", response_format="url")
    assert answer.data is not None
    assert [str(item.url)[:15] for item in answer.data] == ["data:image/png;"] * 2
    assert answer.data[0].revised_prompt == "A detailed picture of a boat"


def test_generate_streamed(sdk: openai.OpenAI, emulator: Emulator) -> None:
    emulator.settings(form=["partial_images"])
    stream = sdk.images.generate(
        model="gpt-image-1.5", prompt="a boat", stream=True, extra_body={"image_size": "1024x1024"}
    )
    found = list(stream)
    assert [event.type for event in found] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert size_of(found[-1].b64_json) == (1024, 1024)


def test_edit_with_one_image(sdk: openai.OpenAI, emulator: Emulator) -> None:
    image = ("in.png", image_file("png"), "image/png")
    answer = sdk.images.edit(model="deepshi-image-1", prompt="blue", image=image)
    assert answer.data is not None
    assert size_of(answer.data[0].b64_json) == (1024, 1024)
    assert [image["field"] for image in emulator.requests()[0]["images"]] == ["image"]


def test_edit_with_several_images(sdk: openai.OpenAI, emulator: Emulator) -> None:
    images = [(f"in.{kind}", image_file(kind), f"image/{kind}") for kind in ("jpeg", "webp")]
    answer = sdk.images.edit(model="nano-banana-2", prompt="join", image=images, n=2)
    assert answer.data is not None
    assert len(answer.data) == 2
    assert [image["field"] for image in emulator.requests()[0]["images"]] == ["image[]"] * 2


def test_edit_streamed(sdk: openai.OpenAI) -> None:
    image = ("in.png", image_file("png"), "image/png")
    stream = sdk.images.edit(model="deepshi-image-1", prompt="blue", image=image, stream=True)
    (event,) = stream
    assert event.type == "image_edit.completed"
    assert size_of(event.b64_json) == (1024, 1024)


def test_models(sdk: openai.OpenAI) -> None:
    ids = [model.id for model in sdk.models.list()]
    assert ids[0] == "deepshi-banana-pro"
    assert "deepshi-chat-large" in ids


def test_errors_become_the_sdks_exceptions(sdk: openai.OpenAI, emulator: Emulator) -> None:
    def generate() -> None:
        sdk.images.generate(model="deepshi-banana-pro", prompt="a boat")

    with pytest.raises(openai.BadRequestError) as refused:
        sdk.images.generate(model="nothing", prompt="a boat")
    assert refused.value.code == "model_not_found"
    assert refused.value.request_id == emulator.requests()[0]["id"]
    wrong_key = sdk.with_options(api_key="sk-bf-wrong")
    with pytest.raises(openai.AuthenticationError):
        wrong_key.images.generate(model="deepshi-banana-pro", prompt="a boat")
    for status, kind in (
        (403, openai.PermissionDeniedError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ):
        emulator.fault("status", status=status)
        with pytest.raises(kind):
            generate()
    emulator.fault("cut", at="headers")
    with pytest.raises(openai.APIConnectionError):
        generate()


def test_error_in_a_stream_becomes_the_sdks_exception(sdk: openai.OpenAI, emulator: Emulator) -> None:
    emulator.fault("error_event", code="moderation_blocked", message="no boats")
    stream = sdk.images.generate(model="deepshi-banana-pro", prompt="a boat", stream=True)
    with pytest.raises(openai.APIError, match="no boats"):
        list(stream)
