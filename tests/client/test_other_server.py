"""The hook against an independent image server: aimock, from npm."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image as Pillow

from deepshi_provider.api.requests import EditRequest
from deepshi_provider.exceptions import (
    AuthenticationFailed,
    ContentRefused,
    DeepshiError,
    InsufficientQuota,
    InvalidRequest,
    InvalidResponse,
    OutcomeUnknown,
    RateLimited,
    ServerFailed,
)
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.services import programs
from tests.services.processes import Process, free_ports
from tests.support.servers import Wire, boat, relay_to
from tests.support.waiting import wait_for

TEST_KEY = "sk-bf-of-these-tests"

pytestmark = pytest.mark.slow


def _png(colour: str) -> bytes:
    target = io.BytesIO()
    Pillow.new("RGB", (64, 48), colour).save(target, "PNG")
    return target.getvalue()


RED, BLUE = _png("red"), _png("blue")


def _fixture(prompt: str, response: dict[str, Any], **match: Any) -> dict[str, Any]:
    words = {"userMessage": prompt} if prompt else {}
    return {"match": {"endpoint": "image", **words, **match}, "response": response}


def _error(prompt: str, status: int, code: str, retry_after: int = 0) -> dict[str, Any]:
    error = {"message": f"refused: {prompt}", "type": "some_error", "code": code}
    match = {"sequenceIndex": 0} if "once" in prompt else {}
    return _fixture(prompt, {"error": error, "status": status, "retryAfter": retry_after}, **match)


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


ERRORS: dict[str, tuple[type[DeepshiError], int, str, int]] = {
    "malformed": (InvalidRequest, 400, "invalid_request", 1),
    "indecent": (ContentRefused, 400, "moderation_blocked", 1),
    "wrong key": (AuthenticationFailed, 401, "invalid_api_key", 1),
    "no money": (InsufficientQuota, 402, "insufficient_quota", 1),
    "slow down": (RateLimited, 429, "rate_limit_exceeded", 3),
    "broken": (ServerFailed, 500, "internal_error", 3),
    "overloaded": (ServerFailed, 503, "overloaded", 3),
    "gave up": (OutcomeUnknown, 504, "gateway_timeout", 1),
}
FIXTURES = [
    *(_error(prompt, status, code) for prompt, (_, status, code, _) in ERRORS.items()),
    _error("slow down a minute", 429, "rate_limit_exceeded", retry_after=60),
    _error("busy once", 429, "rate_limit_exceeded"),
    _error("shaky once", 503, "overloaded"),
    _fixture("as a link", {"image": {"url": f"data:image/png;base64,{_b64(RED)}", "revisedPrompt": "a red one"}}),
    _fixture("hosted", {"image": {"url": "https://images.example/1.png"}}),
    _fixture("two", {"images": [{"b64Json": _b64(RED)}, {"b64Json": _b64(BLUE)}]}),
    _fixture("no picture", {"image": {"b64Json": _b64(b"I am sorry, I cannot draw that.")}}),
    _fixture("", {"image": {"b64Json": _b64(RED)}}, model="deepshi-banana-pro"),
    _fixture("", {"image": {"b64Json": _b64(BLUE)}}, model="deepshi-image-1"),
]
# The first fixture that matches is used, so more specific ones come first.
FIXTURES.sort(key=lambda fixture: -len(fixture["match"].get("userMessage", "")))


class Aimock:
    """A running aimock."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._http = httpx.Client(base_url=base_url, headers={"Authorization": f"Bearer {TEST_KEY}"}, trust_env=False)

    def journal(self) -> list[dict[str, Any]]:
        """All requests to the API since the last reset."""
        answer = self._http.get("/__aimock/journal")
        answer.raise_for_status()
        found = answer.json()
        entries: list[dict[str, Any]] = found["entries"] if isinstance(found, dict) else found
        return entries

    def posts(self) -> list[tuple[str, int]]:
        """Path and status of each paid request."""
        return [(entry["path"], entry["response"]["status"]) for entry in self.journal() if entry["method"] == "POST"]

    def is_ready(self) -> bool:
        try:
            return self._http.get("/health").is_success
        except httpx.HTTPError:
            return False

    def reset(self) -> None:
        self._http.post("/__aimock/reset/journal").raise_for_status()

    def close(self) -> None:
        self._http.close()


@pytest.fixture(scope="module")
def aimock_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aimock]:
    folder = tmp_path_factory.mktemp("aimock")
    (folder / "fixtures.json").write_text(json.dumps({"fixtures": FIXTURES}))
    (port,) = free_ports(1)
    process = Process(
        "aimock",
        [programs.node(), str(programs.aimock()), "--port", str(port), "--fixtures", str(folder / "fixtures.json")],
        env={**os.environ, "AIMOCK_API_KEYS": TEST_KEY},
        log_path=folder / "aimock.log",
    )
    server = Aimock(f"http://127.0.0.1:{port}")
    try:
        wait_for(f"an answer from aimock: {process.log_text()}", 30, server.is_ready, every=0.05)
        yield server
    finally:
        server.close()
        process.terminate(timeout=5)


@pytest.fixture
def aimock(aimock_process: Aimock, wire: Wire) -> Iterator[Aimock]:
    """The server, with an empty journal, behind TLS and the connection ``deepshi_default``."""
    aimock_process.reset()
    with wire.serving(relay_to(aimock_process.base_url)) as url:
        _connect(wire, url, TEST_KEY)
        yield aimock_process


def _connect(wire: Wire, url: str, key: str) -> None:
    wire.connect_to(f"{url}/v1", key=key, max_retries=2, max_retry_wait=0.02, read_timeout=10)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_image_is_generated(aimock: Aimock, stream: bool) -> None:
    with DeepshiHook().generate(boat(stream=stream)) as result:
        (image,) = result.images
        assert image.read() == RED
        assert (image.media_type, image.width, image.height, image.index) == ("image/png", 64, 48, 0)
        # The answer has no cost: it is unknown, not 0.
        assert (result.size, result.sends, result.cost_usd) == ("64x48", 1, None)
        assert result.created is not None
    assert aimock.posts() == [("/v1/images/generations", 200)]


def test_image_may_come_as_a_data_uri(aimock: Aimock) -> None:
    with DeepshiHook().generate(boat(prompt="as a link")) as result:
        assert result.images[0].read() == RED
        assert result.images[0].revised_prompt == "a red one"


def test_two_images_keep_their_order(aimock: Aimock) -> None:
    with DeepshiHook().generate(boat(prompt="two boats", n=2)) as result:
        assert [(image.index, image.read()) for image in result.images] == [(0, RED), (1, BLUE)]
    assert aimock.posts() == [("/v1/images/generations", 200)]


@pytest.mark.parametrize("count", [1, 3])
def test_images_are_edited(aimock: Aimock, tmp_path: Path, count: int) -> None:
    (tmp_path / "in.png").write_bytes(RED)
    request = EditRequest(model="deepshi-image-1", prompt="make it blue", images=[str(tmp_path / "in.png")] * count)
    with DeepshiHook().edit(request) as result:
        assert result.images[0].read() == BLUE
    assert aimock.posts() == [("/v1/images/edits", 200)]


@pytest.mark.parametrize("operation", ["generate", "edit"])
@pytest.mark.parametrize("prompt", ERRORS)
def test_errors_have_distinct_exceptions(aimock: Aimock, tmp_path: Path, prompt: str, operation: str) -> None:
    kind, status, code, posts = ERRORS[prompt]
    (tmp_path / "in.png").write_bytes(RED)
    edit = EditRequest(model="deepshi-image-1", prompt=prompt, images=[str(tmp_path / "in.png")])
    hook = DeepshiHook()
    call = partial(hook.edit, edit) if operation == "edit" else partial(hook.generate, boat(prompt=prompt))
    with pytest.raises(kind, match=f"refused: {prompt}") as caught:
        call()
    assert type(caught.value) is kind
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert caught.value.charged == ("unknown" if kind is OutcomeUnknown else "no")
    assert caught.value.sends == posts == len(aimock.posts())


def test_long_retry_after_is_left_to_the_caller(aimock: Aimock) -> None:
    with pytest.raises(RateLimited) as caught:
        DeepshiHook().generate(boat(prompt="slow down a minute"))
    assert (caught.value.retry_after, aimock.posts()) == (60, [("/v1/images/generations", 429)])


@pytest.mark.parametrize(("prompt", "status"), [("busy once", 429), ("shaky once", 503)])
def test_requests_that_were_not_charged_are_retried(aimock: Aimock, prompt: str, status: int) -> None:
    with DeepshiHook().generate(boat(prompt=prompt)) as result:
        assert (result.images[0].read(), result.sends) == (RED, 2)
    assert [found for _, found in aimock.posts()] == [status, 200]


def test_unknown_key_is_refused(aimock: Aimock, wire: Wire) -> None:
    _connect(wire, aimock.base_url, "sk-bf-unknown")
    with pytest.raises(AuthenticationFailed) as caught:
        DeepshiHook().generate(boat())
    assert (caught.value.sends, "sk-bf-unknown" in str(caught.value)) == (1, False)
    assert DeepshiHook().test_connection()[0] is False


@pytest.mark.parametrize(("prompt", "says"), [("hosted", "a link, not data"), ("no picture", "is not a PNG")])
def test_request_is_not_repeated_after_an_answer_without_a_picture(aimock: Aimock, prompt: str, says: str) -> None:
    with pytest.raises(InvalidResponse, match=says) as caught:
        DeepshiHook().generate(boat(prompt=prompt))
    assert (caught.value.charged, caught.value.cost_usd) == ("yes", None)
    assert aimock.posts() == [("/v1/images/generations", 200)]


def test_models_are_listed(aimock: Aimock) -> None:
    hook = DeepshiHook()
    models = hook.list_models()
    assert "deepshi-banana-pro" in [model.id for model in models]
    # It returns only the names of models, so no request can be refused in advance.
    assert {(model.parameters, model.can_edit, model.makes_images) for model in models} == {(None, None, None)}
    assert hook.test_connection() == (True, f"Connected; the key may use {len(models)} models")
    assert aimock.posts() == []
