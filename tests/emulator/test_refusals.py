"""Requests that the API refuses, each with its status and code, and free."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.support.calls import BOAT, EDITS, GENERATIONS, image_file, part

WRONG: list[tuple[dict[str, Any], str, str | None]] = [
    ({"model": "dall-e-9"}, "model_not_found", "model"),
    ({"model": "deepshi-chat-small"}, "model_not_found", "model"),
    ({"model": None}, "invalid_value", "model"),
    ({"prompt": " "}, "missing_required_parameter", "prompt"),
    ({"prompt": 5}, "invalid_value", "prompt"),
    ({"prompt": "x" * 8_001}, "PROMPT_TOO_LONG", "prompt"),
    ({"model": "nano-banana-pro", "prompt": "x" * 50_001}, "PROMPT_TOO_LONG", "prompt"),
    ({"n": 2}, "invalid_value", "n"),
    ({"n": 0}, "invalid_value", "n"),
    ({"n": "1"}, "invalid_value", "n"),
    ({"n": 1.0}, "invalid_value", "n"),
    ({"n": True}, "invalid_value", "n"),
    ({"n": None}, "invalid_value", "n"),
    ({"model": "gpt-image-2", "n": 5}, "invalid_value", "n"),
    ({"model": "deepshi-image-1", "n": 2}, "invalid_value", "n"),
    ({"width": "1024"}, "invalid_value", "width"),
    ({"height": 100_000}, "invalid_value", "height"),
    ({"response_format": "b64"}, "invalid_value", "response_format"),
    ({"output_format": "gif"}, "invalid_value", "output_format"),
    ({"model": "nano-banana-2", "output_format": "webp"}, "invalid_value", "output_format"),
    ({"model": "grok-imagine", "output_format": "png"}, "invalid_value", "output_format"),
    ({"model": "gpt-image-2", "quality": "best"}, "invalid_value", "quality"),
    ({"model": "gpt-image-2", "image_size": "1x1"}, "invalid_value", "image_size"),
    ({"model": "nano-banana-2", "aspect_ratio": "5:1"}, "invalid_value", "aspect_ratio"),
    ({"model": "grok-imagine-quality", "resolution": "4K"}, "invalid_value", "resolution"),
    ({"seed": "7"}, "invalid_value", "seed"),
    ({"stream": "true"}, "invalid_value", "stream"),
]


@pytest.mark.parametrize(("fields", "code", "param"), WRONG)
def test_wrong_field_is_refused_by_name(
    emulator: Emulator, client: httpx.Client, fields: dict[str, Any], code: str, param: str | None
) -> None:
    answer = client.post(GENERATIONS, json={**BOAT, **fields})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error.pop("message")
    assert error == {"type": "invalid_request_error", "code": code, "param": param}
    (entry,) = emulator.requests()
    assert (entry["outcome"], entry["status"], entry["cost_usd"]) == ("refused", 400, None)
    assert entry["id"] == answer.headers["x-request-id"]
    assert emulator.stats()["cost_usd"] == "0"


@pytest.mark.parametrize("missing", ["model", "prompt"])
def test_required_field_must_be_there(client: httpx.Client, missing: str) -> None:
    fields = {name: value for name, value in BOAT.items() if name != missing}
    answer = client.post(GENERATIONS, json=fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, missing)


def test_longest_prompt_is_taken(client: httpx.Client) -> None:
    assert client.post(GENERATIONS, json={**BOAT, "prompt": "ü" * 8_000}).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"n": NaN}', b'{"prompt": "\xff"}', b'{"x": "\\ud800"}'])
def test_what_is_not_a_json_object_is_refused(client: httpx.Client, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = client.post(GENERATIONS, content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_other_content_types_are_refused(client: httpx.Client) -> None:
    answers = [
        client.post(GENERATIONS, data=BOAT),
        client.post(GENERATIONS, content=json.dumps(BOAT)),
        client.post(EDITS, json=BOAT),
    ]
    assert [answer.status_code for answer in answers] == [400] * 3
    assert {answer.json()["error"]["code"] for answer in answers} == {"invalid_content_type"}


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer x", "sk-bf-emulator", "Basic c2s=", "Bearer sk-other"])
@pytest.mark.parametrize("path", [GENERATIONS, EDITS, "/v1/models"])
def test_call_without_the_key_is_refused(client: httpx.Client, path: str, header: str | None) -> None:
    request = client.build_request("GET" if path == "/v1/models" else "POST", path)
    del request.headers["authorization"]
    if header is not None:
        request.headers["authorization"] = header
    answer = client.send(request)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"


def test_unknown_and_malformed_keys_have_different_errors(client: httpx.Client) -> None:
    def message(key: str) -> str:
        answer = client.post(GENERATIONS, json=BOAT, headers={"authorization": f"Bearer {key}"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        return str(answer.json()["error"]["message"])

    assert message("sk-bf-someone-else") == "this API key is unknown"
    assert message("nonsense") != message("sk-bf-someone-else")


def test_unknown_paths_and_methods_have_the_apis_errors(client: httpx.Client) -> None:
    unknown, wrong = client.get("/v1/balance"), client.get(GENERATIONS)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert unknown.headers["x-request-id"] != wrong.headers["x-request-id"]


EDIT = {"model": "deepshi-image-1", "prompt": "make it blue", "width": "64", "height": "64"}
WRONG_PARTS: list[tuple[dict[str, Any], list[Any], str]] = [
    ({}, [], "missing_required_parameter"),
    ({}, [part()] * 6, "too_many_images"),
    ({"model": "grok-imagine"}, [part()] * 2, "too_many_images"),
    ({"model": "deepshi-banana-pro"}, [part()], "edit_not_supported"),
    ({}, [("image", ("a.png", image_file("png"), "application/octet-stream"))], "invalid_image"),
    ({}, [("image", ("a.png", image_file("jpeg"), "image/png"))], "invalid_image"),
    ({}, [("image", ("a.gif", image_file("gif"), "image/gif"))], "invalid_image"),
    ({}, [part(content=b"not a picture")], "invalid_image"),
    ({}, [part(content=b"")], "invalid_image"),
    ({}, [part(content=image_file("png")[:40])], "invalid_image"),
    ({}, [("image", (None, b"text"))], "invalid_image"),
    ({"width": "64.0"}, [part()], "invalid_value"),
    ({"width": ["64", "65"]}, [part()], "invalid_value"),
    ({"n": ""}, [part()], "invalid_value"),
    ({"stream": "yes"}, [part()], "invalid_value"),
]


@pytest.mark.parametrize(("fields", "files", "code"), WRONG_PARTS)
def test_wrong_edit_is_refused(
    emulator: Emulator, client: httpx.Client, fields: dict[str, Any], files: list[Any], code: str
) -> None:
    # An empty part makes httpx write a form even if there is no image.
    answer = client.post(EDITS, data={**EDIT, **fields}, files=files or [("x", (None, b"y"))])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert emulator.stats()["charged_requests"] == 0


def test_rate_limit_refuses_with_the_time_to_wait(emulator: Emulator, client: httpx.Client) -> None:
    emulator.settings(rate_limit=0.5)
    answers = [client.post(GENERATIONS, json=BOAT) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 429, 429]
    assert answers[1].headers["retry-after"] == "2"
    assert answers[1].json()["error"]["code"] == "rate_limit_exceeded"
    assert emulator.stats()["images"] == 1


STATUSES = [
    (400, "invalid_request_error", "invalid_request"),
    (401, "authentication_error", "invalid_api_key"),
    (402, "insufficient_quota", "insufficient_quota"),
    (403, "permission_error", "permission_denied"),
    (429, "rate_limit_error", "rate_limit_exceeded"),
    (500, "server_error", "internal_error"),
    (502, "server_error", "bad_gateway"),
    (503, "server_error", "service_unavailable"),
    (504, "server_error", "gateway_timeout"),
    (524, "server_error", "origin_timeout"),
]


@pytest.mark.parametrize(("status", "kind", "code"), STATUSES)
def test_every_documented_error_can_be_produced(
    emulator: Emulator, client: httpx.Client, status: int, kind: str, code: str
) -> None:
    emulator.fault("status", status=status)
    answer = client.post(GENERATIONS, json={**BOAT, "stream": True})
    assert answer.status_code == status
    assert "retry-after" not in answer.headers
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == (kind, code)
    (entry,) = emulator.requests()
    assert entry["outcome"] == ("refused" if status < 500 else "faulted")
    assert emulator.stats()["charged_requests"] == 0
    assert client.post(GENERATIONS, json=BOAT).status_code == 200
