from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepshi_provider.api.catalog import ModelInfo, Parameter, complaints, read_catalog
from deepshi_provider.api.requests import EditRequest, GenerateRequest
from tests.support.bodies import THOROUGH

known_keys = st.sampled_from(
    ["data", "models", "id", "parameters", "edit", "prompt_max_length", "modalities", "name", "enum", "values"]
) | st.sampled_from(["allowed", "min", "maximum", "max_images", "output", "n", "width", "resolution"])
any_text = st.text(st.characters(), max_size=4)  # halves of surrogate pairs included
any_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | any_text | known_keys,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(known_keys | any_text, inner, max_size=5),
    max_leaves=25,
)
any_entry = st.fixed_dictionaries(
    {"id": any_text},
    optional={"parameters": any_json, "edit": any_json, "prompt_max_length": any_json, "modalities": any_json},
)

REQUEST = GenerateRequest(model="m", prompt="a boat", n=2, width=640, height=480, quality="high", steps=[1])
EDIT = EditRequest(model="m", prompt="a boat", images=["a", "b"], resolution="4K")


@THOROUGH
@given(any_json | st.lists(any_entry, max_size=3) | st.builds(lambda e: {"data": e}, st.lists(any_entry, max_size=3)))
def test_no_catalog_raises(document: Any) -> None:
    for model in read_catalog(document):
        for request in (REQUEST, EDIT):
            assert all(isinstance(complaint, str) for complaint in complaints(request, model))


def model(**entry: Any) -> ModelInfo:
    (read,) = read_catalog({"data": [{"id": "m", **entry}]})
    return read


@pytest.mark.parametrize(
    "document",
    [
        {"object": "list", "data": [{"id": "m"}, {"id": "t", "type": "text"}]},
        {"models": [{"id": "m"}, {"id": "t"}]},
        {"data": None, "models": [{"id": "m"}, {"id": "t"}]},
        {"data": {"m": {}, "t": {}, "odd": 5}},
        [{"id": "m"}, {"id": "t"}, {"id": 5}, {}, None],
    ],
)
def test_models_are_found_in_any_form_of_the_list(document: Any) -> None:
    assert [found.id for found in read_catalog(document)] == ["m", "t"]


@pytest.mark.parametrize("document", [None, 5, "x", {}, [], {"data": 5}, {"error": "x"}])
def test_no_list_is_an_empty_catalog(document: Any) -> None:
    assert read_catalog(document) == []


@pytest.mark.parametrize("name", ["enum", "values", "allowed", "options"])
@pytest.mark.parametrize("as_list", [False, True])
def test_parameters_are_an_object_or_a_list(name: str, as_list: bool) -> None:
    said: list[dict[str, Any]] = [
        {"name": "resolution", "type": "string", name: ["1K", "2K"], "default": "1K"},
        {"name": "n", "type": "integer", "minimum": 1, "maximum": 4},
        {"name": "width", "min": 64, "max": 2048.0},
        {"name": "seed"},
    ]
    read = model(parameters=said if as_list else {p["name"]: p for p in said})
    assert read.parameters == {
        "resolution": Parameter(allowed=("1K", "2K")),
        "n": Parameter(minimum=1, maximum=4),
        "width": Parameter(minimum=64, maximum=2048),
        "seed": Parameter(),
    }
    assert read.sizing == ("width", "resolution")


def test_a_whole_entry_is_understood() -> None:
    entry = {
        "prompt_max_length": 8000,
        "modalities": {"input": ["text"], "output": ["image"]},
        "edit": {"max_images": 5},
        "parameters": {"image_size": {"enum": ["auto_2K"]}},
    }
    assert model(**entry) == ModelInfo(
        id="m",
        parameters={"image_size": Parameter(allowed=("auto_2K",))},
        can_edit=True,
        max_input_images=5,
        prompt_max_length=8000,
        makes_images=True,
        entry={"id": "m", **entry},
    )


UNKNOWN: list[dict[str, Any]] = [
    {},
    {"parameters": None, "edit": None, "prompt_max_length": None},
    {"parameters": {}, "edit": {}, "prompt_max_length": "8000"},
    {"parameters": [], "edit": {"supported": "perhaps"}, "prompt_max_length": True},
    {"parameters": ["width", "n"], "edit": [], "prompt_max_length": 0},
    {"parameters": {"type": "object", "properties": {"n": {"maximum": 1}}}, "prompt_max_length": -1},
    {"parameters": {"n": 1, "resolution": None, "width": {}, "height": {}}},
    {"parameters": {"resolution": {"enum": []}, "width": {"enum": [{"value": 1}]}, "height": {"enum": [None, 5]}}},
    {"parameters": {"resolution": {}, "width": {"maximum": "5"}, "height": {"maximum": True}, "n": {"max": 10**400}}},
    {"parameters": {"resolution": {}, "width": {"max": float("nan")}, "height": {}, "n": {"min": float("inf")}}},
    {"parameters": {"resolution": {}, "width": {}, "height": {}, "steps": {"enum": [1, 2]}, "prompt": {"enum": ["x"]}}},
    {
        "parameters": {
            "resolution": {},
            "width": {"enum": [640.0]},
            "height": {"enum": ["480"]},
            "n": {"enum": [1.0, 2]},
        }
    },
]


@pytest.mark.parametrize("entry", UNKNOWN)
def test_what_is_not_understood_is_let_through(entry: dict[str, Any]) -> None:
    assert complaints(REQUEST, model(**entry)) == []
    assert complaints(EDIT, model(**entry)) == []


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            {"parameters": {"aspect_ratio": {}, "resolution": {}}},
            [f"m is sized by aspect_ratio and resolution and ignores {field}" for field in ("width", "height")],
        ),
        ({"parameters": {"quality": {"enum": ["low", "medium"]}}}, ["quality is high, allowed are low, medium"]),
        ({"parameters": {"n": {"maximum": 1}}}, ["n is 2, the most is 1"]),
        ({"parameters": {"n": {"enum": [1]}}}, ["n is 2, allowed are 1"]),
        (
            {"parameters": {"width": {"min": 1024}, "height": {"max": 256}}},
            ["width is 640, the least is 1024", "height is 480, the most is 256"],
        ),
        ({"prompt_max_length": 5}, ["the prompt has 6 characters, m takes 5"]),
        ({"prompt_max_length": 6, "edit": False}, []),
    ],
)
def test_each_mistake_of_a_generation_is_one_sentence(entry: dict[str, Any], expected: list[str]) -> None:
    assert complaints(REQUEST, model(**entry)) == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"edit": False}, ["m cannot edit images"]),
        ({"edit": True}, []),
        ({"edit": {"max_images": 2}}, []),
        ({"edit": {"max_reference_images": 1}}, ["2 input images, m takes 1"]),
        (
            {"edit": {"cap": 1}, "prompt_max_length": 1},
            ["the prompt has 6 characters, m takes 1", "2 input images, m takes 1"],
        ),
        ({"parameters": {"resolution": {"values": ["1K"]}}}, ["resolution is 4K, allowed are 1K"]),
    ],
)
def test_each_mistake_of_an_edit_is_one_sentence(entry: dict[str, Any], expected: list[str]) -> None:
    assert complaints(EDIT, model(**entry)) == expected
