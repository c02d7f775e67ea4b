"""The forms of answers: each is really sent, and contains the picture."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx

from deepshi_provider.emulator.testing import Emulator
from tests.support.calls import BOAT, GENERATIONS, STREAMED_BOAT, TWO_BOATS, events

COMPLETED = "image_generation.completed"


def streamed(emulator: Emulator, client: httpx.Client, *form: str, **fields: Any) -> httpx.Response:
    emulator.settings(form=list(form))
    answer = client.post(GENERATIONS, json={**STREAMED_BOAT, **fields})
    assert answer.status_code == 200
    return answer


def is_the_picture(emulator: Emulator, answer: httpx.Response, text: str) -> bool:
    picture = emulator.picture(answer.headers["x-request-id"])
    return base64.b64decode(text, validate=True) == picture


def test_completed_event_has_openais_form(emulator: Emulator, client: httpx.Client) -> None:
    answer = streamed(emulator, client)
    ((name, data),) = events(answer.text)
    event = json.loads(data)
    assert name == event["type"] == COMPLETED
    assert set(event) >= {"b64_json", "created_at", "size", "quality", "output_format", "usage"}
    assert is_the_picture(emulator, answer, event["b64_json"])


def test_url_replaces_base64_in_a_stream(emulator: Emulator, client: httpx.Client) -> None:
    answer = streamed(emulator, client, "url")
    event = json.loads(events(answer.text)[0][1])
    assert "b64_json" not in event
    assert is_the_picture(emulator, answer, event["url"].split(",")[1])


def test_url_replaces_base64_in_an_answer(emulator: Emulator, client: httpx.Client) -> None:
    emulator.settings(form="url")
    (item,) = client.post(GENERATIONS, json=BOAT).json()["data"]
    assert item["url"].startswith("data:image/png;base64,")


def test_event_line_is_missing(emulator: Emulator, client: httpx.Client) -> None:
    answer = streamed(emulator, client, "no_event_line")
    assert "event:" not in answer.text
    assert json.loads(events(answer.text)[0][1])["type"] == COMPLETED


def test_event_holds_the_whole_answer(emulator: Emulator, client: httpx.Client) -> None:
    answer = streamed(emulator, client, "whole_answer", **TWO_BOATS)
    ((name, data),) = events(answer.text)
    assert name == COMPLETED
    event = json.loads(data)
    assert set(event) == {"created", "model", "size", "data", "usage"}
    assert [item["index"] for item in event["data"]] == [0, 1]
    assert is_the_picture(emulator, answer, event["data"][0]["b64_json"])


def test_whole_answer_without_event_line_names_its_type(emulator: Emulator, client: httpx.Client) -> None:
    answer = streamed(emulator, client, "whole_answer", "no_event_line")
    assert json.loads(events(answer.text)[0][1])["type"] == COMPLETED


def test_previews_come_first_and_cost_nothing(emulator: Emulator, client: httpx.Client) -> None:
    answer = streamed(emulator, client, "partial_images")
    found = events(answer.text)
    assert [name for name, _ in found] == ["image_generation.partial_image"] * 2 + [COMPLETED]
    assert json.loads(found[1][1])["partial_image_index"] == 1
    assert not is_the_picture(emulator, answer, json.loads(found[0][1])["b64_json"])
    assert emulator.stats()["images"] == 1


def test_lines_end_with_crlf(emulator: Emulator, client: httpx.Client) -> None:
    answer = streamed(emulator, client, "crlf", "multi_data", "done")
    assert answer.content.count(b"\n") == answer.content.count(b"\r\n") > 5
    assert len(events(answer.text)) == 2


def test_stream_begins_with_a_byte_order_mark(emulator: Emulator, client: httpx.Client) -> None:
    answer = streamed(emulator, client, "bom")
    assert answer.content.startswith(b"\xef\xbb\xbf: keepalive\n")


def test_event_is_split_over_several_lines(emulator: Emulator, client: httpx.Client) -> None:
    answer = streamed(emulator, client, "multi_data")
    assert answer.text.count("\ndata: ") > 5
    ((_, data),) = events(answer.text)
    assert is_the_picture(emulator, answer, json.loads(data)["b64_json"])


def test_comment_has_no_blank_line_after_it(emulator: Emulator, client: httpx.Client) -> None:
    answer = streamed(emulator, client, "comment_no_blank")
    assert answer.text.startswith(f": keepalive\nevent: {COMPLETED}\ndata: ")


def test_stream_ends_with_done(emulator: Emulator, client: httpx.Client) -> None:
    assert streamed(emulator, client, "done").text.endswith("}\n\ndata: [DONE]\n\n")


def test_last_event_has_no_blank_line(emulator: Emulator, client: httpx.Client) -> None:
    assert streamed(emulator, client, "no_final_blank").text.endswith("}\n")
    text = streamed(emulator, client, "no_final_blank", "done", "crlf").text
    assert text.endswith("}\r\n\r\ndata: [DONE]\r\n")


def test_base64_is_escaped(emulator: Emulator, client: httpx.Client) -> None:
    emulator.settings(picture_bytes=400_000)
    emulator.fault("form", form=["escaped", "url"])
    answer = client.post(GENERATIONS, json=STREAMED_BOAT)
    assert r"data:image\/png;base64," in answer.text
    assert r"\u002B" in answer.text
    (data,) = (data for _, data in events(answer.text))
    assert "/" not in data.replace(r"\/", "")
    assert is_the_picture(emulator, answer, json.loads(data)["url"].split(",")[1])


def test_body_comes_in_small_pieces(emulator: Emulator, client: httpx.Client) -> None:
    emulator.settings(picture_bytes=5_000, piece_bytes=100)
    with client.stream("POST", GENERATIONS, json=STREAMED_BOAT) as answer:
        pieces = list(answer.iter_raw())
    assert (max(map(len, pieces)), len(pieces) > 60) == (100, True)


def test_stream_is_answered_with_plain_json(emulator: Emulator, client: httpx.Client) -> None:
    answer = streamed(emulator, client, "json_for_stream")
    assert answer.headers["content-type"] == "application/json"
    assert is_the_picture(emulator, answer, answer.json()["data"][0]["b64_json"])


def test_index_is_missing(emulator: Emulator, client: httpx.Client) -> None:
    emulator.settings(form=["no_index"])
    data = client.post(GENERATIONS, json=TWO_BOATS).json()["data"]
    assert [set(item) for item in data] == [{"b64_json"}] * 2
    answer = client.post(GENERATIONS, json={**TWO_BOATS, "stream": True})
    assert ["index" in json.loads(data) for _, data in events(answer.text)] == [False] * 2


def test_answer_holds_nothing_but_data(emulator: Emulator, client: httpx.Client) -> None:
    emulator.settings(form=["bare", "no_index"])
    answer = client.post(GENERATIONS, json=BOAT).json()
    assert set(answer) == {"data"}
    assert set(answer["data"][0]) == {"b64_json"}
    streamed_answer = streamed(emulator, client, "bare", "no_index")
    assert set(json.loads(events(streamed_answer.text)[0][1])) == {"type", "b64_json"}
