from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepshi_provider.api.requests import EditRequest, GenerateRequest, build
from deepshi_provider.exceptions import InvalidRequest
from tests.support.bodies import THOROUGH

BASE = {"model": "m", "prompt": "a boat"}
NUMBERS = ["n", "width", "height", "seed"]
TEXTS = ["aspect_ratio", "resolution", "image_size", "quality", "output_format", "response_format"]


def generation(**fields: Any) -> GenerateRequest:
    return build(GenerateRequest, {**BASE, **fields})


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("rendered", ["3", 3, 3.0, " 3 "])
def test_a_rendered_number_is_a_number(field: str, rendered: Any) -> None:
    assert generation(**{field: rendered}).wire_fields() == {**BASE, field: 3}


@pytest.mark.parametrize("field", [*NUMBERS, *TEXTS, "stream", "style"])
@pytest.mark.parametrize("rendered", [None, "", "None"])
def test_a_field_rendered_to_nothing_is_not_sent(field: str, rendered: Any) -> None:
    assert generation(**{field: rendered}).wire_fields() == BASE
    assert generation(**{field: rendered}).fingerprint("a") == generation().fingerprint("a")


@pytest.mark.parametrize("field", [*NUMBERS, "stream"])
@pytest.mark.parametrize("rendered", ["abc", "{{ params.x }}", [], {}, "1.5"])
def test_an_error_names_the_field_with_an_invalid_value(field: str, rendered: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^The request was not sent: {field}: ") as raised:
        generation(**{field: rendered})
    assert raised.value.charged == "no"
    assert str(rendered) in raised.value.message


@pytest.mark.parametrize("field", TEXTS)
def test_a_text_may_be_rendered_to_a_number(field: str) -> None:
    assert generation(**{field: 16}).wire_fields() == {**BASE, field: "16"}
    with pytest.raises(InvalidRequest, match=f"^The request was not sent: {field}: "):
        generation(**{field: ["16:9"]})


@pytest.mark.parametrize(
    ("rendered", "sent"), [("true", True), ("True", True), (1, True), ("false", None), (False, None)]
)
def test_stream_is_sent_when_it_is_wanted(rendered: Any, sent: bool | None) -> None:
    assert generation(stream=rendered).wire_fields() == BASE | ({"stream": True} if sent else {})


@pytest.mark.parametrize("missing", ["model", "prompt"])
@pytest.mark.parametrize("value", [None, "", "None"])
def test_missing_required_fields_are_named(missing: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^The request was not sent: {missing} is missing or empty "):
        generation(**{missing: value})


@pytest.mark.parametrize(("field", "value"), [("n", 0), ("n", 5), ("width", 0), ("height", -1)])
def test_numbers_have_their_range(field: str, value: int) -> None:
    with pytest.raises(InvalidRequest, match=f"{field}: must be at (least|most) [14], got '{value}'"):
        generation(**{field: value})


def test_all_mistakes_are_reported_together_without_the_prompt() -> None:
    with pytest.raises(InvalidRequest) as raised:
        build(GenerateRequest, {"prompt": ["secret"], "n": "x", "width": "y"})
    assert "secret" not in raised.value.message
    assert [part.split(":")[0].split(" ")[0] for part in raised.value.message[26:].split("; ")] == [
        "model",
        "prompt",
        "n",
        "width",
    ]


def test_undocumented_fields_are_kept_unchanged() -> None:
    extras = {"style": "oil", "loras": [{"id": 1, "w": 0.5}], "images": ["x"], "path": "p", "hd": True, "é": 1.5}
    assert generation(**extras).wire_fields() == {**BASE, **extras}
    assert generation(**extras).picture_fields() == {**BASE, **extras, "n": 1}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("style", object()),
        ("style", {1, 2}),
        ("style", {"a": ["\ud83d"]}),
        ("style", b"bytes"),
        ("style", float("nan")),
        ("style", {"x": [float("inf")]}),
        ("style", {1: "a", "b": 2}),
        pytest.param("seed", 10**5000, id="seed"),
    ],
)
def test_values_that_json_lacks_are_refused_before_sending(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^The request was not sent: {field} cannot be sent: "):
        generation(**{field: value})


def test_a_number_too_long_to_be_shown_is_named() -> None:
    with pytest.raises(InvalidRequest, match="n: must be at most 4 "):
        generation(n=10**5000)


@pytest.mark.parametrize("field", ["model", "prompt", "quality", "style"])
def test_unpaired_surrogates_are_refused_before_sending(field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^The request was not sent: {field}"):
        generation(**{field: "a boat \ud83d"})


# ------------------------------------------------------------------ fingerprints

fields = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.sampled_from(["a boat", "a boat ", "A boat"]),
        "n": st.sampled_from([None, 1, "1", 2, "2"]),
        "width": st.sampled_from([None, "", "None", 512, "512", 1024]),
        "resolution": st.sampled_from(["1K", "2K", None]),
        "seed": st.sampled_from([0, "0", None, 1]),
        "stream": st.booleans(),
        "response_format": st.sampled_from([None, "url", "b64_json"]),
        "style": st.sampled_from([None, "1", 1, True, [1, 2], [2, 1], {"a": 1, "b": 2}, {"b": 2, "a": 1}]),
    },
)
accounts = st.sampled_from(["https://a default", "https://b default"])
digests = st.lists(st.sampled_from(["aa", "bb", "aabb"]), max_size=3)


def meant(given_fields: dict[str, Any]) -> str:
    given = {**BASE, "n": 1, **{k: v for k, v in given_fields.items() if v not in (None, "", "None")}}
    picture = {k: v for k, v in given.items() if k not in ("stream", "response_format")}
    typed = {k: int(v) if k in NUMBERS else v for k, v in picture.items()}
    return json.dumps(typed, sort_keys=True)


@THOROUGH
@given(fields, fields, accounts, accounts, digests, digests)
def test_fingerprints_are_equal_if_and_only_if_the_same_is_asked_for(
    first: dict[str, Any],
    second: dict[str, Any],
    account: str,
    other_account: str,
    inputs: list[str],
    other_inputs: list[str],
) -> None:
    same = (meant(first), account, inputs) == (meant(second), other_account, other_inputs)
    one = generation(**first).fingerprint(account, inputs)
    other = generation(**second).fingerprint(other_account, other_inputs)
    assert (one == other) == same
    assert len(one) == 64


@THOROUGH
@given(fields, st.randoms())
def test_the_order_of_fields_does_not_change_a_fingerprint(values: dict[str, Any], random: Any) -> None:
    items = list({**BASE, **values}.items())
    random.shuffle(items)
    assert build(GenerateRequest, dict(items)).fingerprint("a") == generation(**values).fingerprint("a")


def test_an_edit_is_another_request_and_depends_on_the_contents_of_its_images() -> None:
    def edit(*images: str) -> EditRequest:
        return EditRequest(model="m", prompt="a boat", images=list(images))

    assert edit("a.png").fingerprint("a", ["1"]) == edit("s3://b/c.png").fingerprint("a", ["1"])
    distinct = {
        generation().fingerprint("a", ["1"]),
        edit("a").fingerprint("a", ["1"]),
        edit("a", "b").fingerprint("a", ["1", "2"]),
        edit("a", "b").fingerprint("a", ["2", "1"]),
        edit("a", "b").fingerprint("a", ["12"]),
        edit("a", "b").fingerprint("b", ["1", "2"]),
    }
    assert len(distinct) == 6


def test_a_fingerprint_stays_the_same_from_release_to_release() -> None:
    # Paid images are stored under it: change this value only together with "version" in fingerprint().
    request = generation(width="1024", height=768, style="oil")
    assert request.fingerprint("a", ["1"]) == "e1a4e63a83aaa5e9d607d34ae7de2f69ad76fcdb155da47a464235de1246433c"


# ------------------------------------------------------------------ edits


def test_form_fields_are_the_wire_fields_as_text() -> None:
    request = EditRequest(
        model="m",
        prompt="é\n",
        images=["a.png"],
        n=2,
        width=1024,
        stream=True,
        seed=0,
        loras=[1, {"a": None}],
        hd=False,
    )
    assert request.form_fields() == {
        "model": "m",
        "prompt": "é\n",
        "n": "2",
        "width": "1024",
        "stream": "true",
        "seed": "0",
        "loras": '[1, {"a": null}]',
        "hd": "false",
    }
    assert request.image_field() == "image"
    assert (GenerateRequest.path, request.path) == ("/v1/images/generations", "/v1/images/edits")


@pytest.mark.parametrize(
    ("images", "read"),
    [("a.png", ["a.png"]), (Path("a.png"), ["a.png"]), (["s3://b/c", Path("d")], ["s3://b/c", "d"]), (("a",), ["a"])],
)
def test_images_are_paths_or_uris(images: Any, read: list[str]) -> None:
    request = build(EditRequest, {**BASE, "images": images})
    assert request.images == read
    assert request.image_field() == ("image" if len(read) == 1 else "image[]")
    assert request.wire_fields() == BASE


@pytest.mark.parametrize("images", [None, [], "", 5, {"a": 1}, [None], [["a"]], ["a"] * 15])
def test_missing_or_too_many_images_are_reported(images: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^The request was not sent: images"):
        build(EditRequest, {**BASE, "images": images})
