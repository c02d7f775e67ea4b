from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepshi_provider.api.catalog import Catalog, ModelInfo, read_catalog
from deepshi_provider.api.contradictions import Complaint, complaints
from deepshi_provider.api.parameters import Parameter
from deepshi_provider.api.requests import EditRequest, GenerateRequest
from tests.support.bodies import THOROUGH

known_keys = st.sampled_from(
    ["data", "models", "id", "parameters", "edit", "prompt_max_length", "modalities", "name", "enum", "values"]
) | st.sampled_from(["allowed", "min", "maximum", "max_images", "output", "n", "width", "resolution"])
any_text = st.text(st.characters(), max_size=4)  # including unpaired surrogates
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
    catalog = Catalog.read(document)
    for name in ("m", *catalog.models):
        for request in (REQUEST, EDIT):
            found = complaints(request.model_copy(update={"model": name}), catalog, [5, 10])
            assert all(isinstance(complaint, Complaint) for complaint in found)


def model(**entry: Any) -> ModelInfo:
    (read,) = read_catalog({"data": [{"id": "m", **entry}]})
    return read


def certain(request: GenerateRequest, **entry: Any) -> list[str]:
    """Return the complaints that refuse a request to ``m``."""
    found = complaints(request, Catalog.read({"data": [{"id": "m", **entry}]}))
    return [complaint.text for complaint in found if complaint.is_certain]


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
    listed: list[dict[str, Any]] = [
        {"name": "resolution", "type": "string", name: ["1K", "2K"], "default": "1K"},
        {"name": "n", "type": "integer", "minimum": 1, "maximum": 4},
        {"name": "width", "min": 64, "max": 2048.0},
        {"name": "seed"},
    ]
    read = model(parameters=listed if as_list else {p["name"]: p for p in listed})
    assert read.parameters == {
        "resolution": Parameter(type="string", allowed=("1K", "2K"), default="1K"),
        "n": Parameter(type="integer", minimum=1, maximum=4),
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
def test_unknown_parts_of_an_entry_refuse_nothing(entry: dict[str, Any]) -> None:
    assert certain(REQUEST, **entry) == []
    assert certain(EDIT, **entry) == []


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            {"parameters": {"aspect_ratio": {}, "resolution": {}}},
            [
                f"{side} is {size}, but m is sized by aspect_ratio and resolution and ignores {side}"
                for side, size in (("width", 640), ("height", 480))
            ],
        ),
        ({"parameters": {"quality": {"enum": ["low", "medium"]}}}, ["quality is high, m takes low, medium"]),
        ({"parameters": {"n": {"maximum": 1}}}, ["n is 2, m takes at most 1"]),
        ({"parameters": {"n": {"enum": [1]}}}, ["n is 2, m takes 1"]),
        (
            {"parameters": {"width": {"min": 1024}, "height": {"max": 256}}},
            ["width is 640, m takes at least 1024", "height is 480, m takes at most 256"],
        ),
        ({"prompt_max_length": 5}, ["prompt has 6 characters, m takes at most 5"]),
        ({"prompt_max_length": 6, "edit": False}, []),
    ],
)
def test_each_mistake_of_a_generation_is_one_sentence(entry: dict[str, Any], expected: list[str]) -> None:
    assert certain(REQUEST, **entry) == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"edit": False}, ["images has 2, but m cannot edit images"]),
        ({"edit": None, "modalities": {"input": ["text"]}}, ["images has 2, but m cannot edit images"]),
        ({"input_modalities": ["text"]}, ["images has 2, but m cannot edit images"]),
        ({"edit": {"supported": False}}, ["images has 2, but m cannot edit images"]),
        ({"edit": True}, []),
        ({"edit": {"max_images": 2}, "modalities": {"input": ["text"]}}, []),
        ({"edit": {"max_images": 0}}, []),
        ({"edit": None, "modalities": {"input": ["text", "img"]}}, []),
        ({"edit": {"max_images": 2}}, []),
        ({"edit": {"max_reference_images": 1}}, ["images has 2 input images, m takes at most 1"]),
        (
            {"edit": {"cap": 1}, "prompt_max_length": 1},
            ["prompt has 6 characters, m takes at most 1", "images has 2 input images, m takes at most 1"],
        ),
        ({"parameters": {"resolution": {"values": ["1K"]}}}, ["resolution is 4K, m takes 1K"]),
    ],
)
def test_each_mistake_of_an_edit_is_one_sentence(entry: dict[str, Any], expected: list[str]) -> None:
    assert certain(EDIT, **entry) == expected


def test_input_images_that_are_too_large_are_named() -> None:
    for cap in ({"max_image_bytes": 2 * 2**20}, {"max_image_mb": 2}):
        catalog = Catalog.read({"data": [{"id": "m", "edit": cap}]})
        (found,) = complaints(EDIT, catalog, [2 * 2**20, 2 * 2**20 + 1])
        assert (found.field, found.is_certain) == ("images", True)
        assert found.text == "images: number 2 has 2,097,153 bytes, m takes at most 2,097,152"
        assert complaints(EDIT, catalog) == []  # the check of a file of requests does not read images


BOAT: dict[str, Any] = {"model": "m", "prompt": "a boat"}
PIXELS: dict[str, Any] = {"width": {"min": 16, "max": 4096, "default": 1024}, "height": {}}


@pytest.mark.parametrize("parameters", [PIXELS, {"width": {}}, {"height": {"min": 16}}])
def test_width_without_height_is_refused_only_where_pixels_count(parameters: dict[str, Any]) -> None:
    lone = GenerateRequest(**BOAT, width=64)
    assert certain(lone, parameters=parameters)[-1].startswith("width is 64 and height is missing")
    assert certain(GenerateRequest(**BOAT, width=64, height=64), parameters=parameters) == []
    (only,) = complaints(lone, Catalog.read({"data": [{"id": "m"}]}))
    assert (only.field, only.is_certain) == ("height", False)


def test_a_complaint_names_field_value_what_is_allowed_and_the_default() -> None:
    sizes = {"resolution": {"enum": ["1K", "2K"], "default": "1K"}, "aspect_ratio": {}}
    assert certain(GenerateRequest(**BOAT, resolution="8K"), parameters=sizes) == [
        "resolution is 8K, m takes 1K, 2K (default 1K)"
    ]
    sides = "width takes 16 to 4096 (default 1024)"
    assert certain(GenerateRequest(**BOAT, aspect_ratio="1:1"), parameters=PIXELS) == [
        f"aspect_ratio is 1:1, but m is sized by width and height and ignores aspect_ratio ({sides})"
    ]


@pytest.mark.parametrize(("field", "value"), [("seed", 7), ("quality", "high"), ("output_format", "png"), ("n", 2)])
def test_fields_that_the_entry_does_not_list_are_likely_to_be_ignored(field: str, value: Any) -> None:
    request = GenerateRequest(**BOAT, **{field: value}, steps=4)
    (found,) = complaints(request, Catalog.read([{"id": "m", "parameters": {"width": {}, "height": {}}}]))
    assert (found.field, found.is_certain) == (field, False)
    assert found.text == f"{field} is {value}, and m will ignore it: the catalog lists only width, height"
    assert complaints(request, Catalog.read([{"id": "m", "parameters": {"temperature": {}}}])) == []


@pytest.mark.parametrize("model", ["deepshi-banana-pro", "deepshi-image-1"])
@pytest.mark.parametrize("entry", [{}, {"parameters": {"n": {}}}, {"parameters": {"width": {}, "height": {}}}])
def test_documented_caps_on_n_hold_where_the_catalog_is_silent(model: str, entry: dict[str, Any]) -> None:
    request = GenerateRequest(model=model, prompt="x", n=2)
    found = complaints(request, Catalog.read([{"id": model, **entry}]))
    assert f"n is 2, {model} takes 1 (default 1)" in [complaint.text for complaint in found if complaint.is_certain]
    assert complaints(request, Catalog.read([{"id": model, "parameters": {"n": {"max": 2}}}])) == []


IMAGES: dict[str, Any] = {"modalities": {"output": ["image"]}}


def test_an_unlisted_model_is_refused_with_a_suggestion() -> None:
    catalog = Catalog.read([{"id": "deepshi-banana-pro", **IMAGES}, {"id": "chat", "output_modalities": ["text"]}])
    (found,) = complaints(GenerateRequest(model="deepshi-bananapro", prompt="x"), catalog)
    assert (found.field, found.is_certain) == ("model", True)
    assert found.text == (
        "model is deepshi-bananapro, which is not in the catalog of this key. Did you mean deepshi-banana-pro? "
        "It lists deepshi-banana-pro"
    )
    (chat,) = complaints(GenerateRequest(model="chat", prompt="x"), catalog)
    assert chat.text == "model is chat, which makes no images. It lists deepshi-banana-pro"


@pytest.mark.parametrize(
    "document",
    [
        {"data": []},
        {"data": [{"id": "other"}]},
        {"data": [{"id": "other", "output_modalities": ["text"]}]},
        {"data": [{"id": "deepshi/m", **IMAGES}]},
        {"data": [{"id": "M", **IMAGES}]},
        {"data": [{"id": "5f3a", "name": "m", **IMAGES}]},
        {"data": [{"id": "m-2026-01-01", "aliases": ["m"], **IMAGES}]},
        {"data": [{"id": "other", **IMAGES}], "has_more": True},
        {"data": [{"id": "other", **IMAGES}], "next_page_token": "2"},
    ],
    ids=str,
)
def test_a_model_that_may_be_listed_under_another_name_or_elsewhere_is_allowed(document: Any) -> None:
    assert complaints(GenerateRequest(**BOAT), Catalog.read(document)) == []
    assert complaints(GenerateRequest(model="vendor/m", prompt="x"), Catalog.read([{"id": "m", **IMAGES}])) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"aspect_ratio": {}, "resolution": 5, "n": 1},
        {"aspect_ratio": {"enum": [{"value": "1:1"}]}},
        {"aspect_ratio": {"max": "16:9"}},
        {"width": {"values": ["16-4096"]}, "height": {"values": ["16-4096"]}, "quality": {"values": ["low", "custom"]}},
        {"width": {"min": 0, "max": 0}, "height": {"min": 9, "max": 2}, "quality": {"values": ["HIGH"]}},
    ],
    ids=str,
)
def test_limits_in_an_unknown_form_refuse_nothing(parameters: dict[str, Any]) -> None:
    assert certain(REQUEST, parameters=parameters) == []
