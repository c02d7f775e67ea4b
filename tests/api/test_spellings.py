"""A value in another spelling than the catalog's, or a catalog in a form that may allow more, is never refused."""

from __future__ import annotations

from typing import Any

import pytest

from deepshi_provider.api.catalog import Catalog
from deepshi_provider.api.contradictions import complaints
from deepshi_provider.api.requests import EditRequest, GenerateRequest

BOAT: dict[str, Any] = {"model": "m", "prompt": "a boat"}


def found(entry: Any, *, certain: bool = True, **fields: Any) -> list[str]:
    """Return the complaints that refuse a request, or with ``certain=False`` all."""
    request = GenerateRequest(**BOAT | fields)
    listed = complaints(request, Catalog.read({"data": [{"id": "m", **entry}]}))
    return [complaint.text for complaint in listed if complaint.is_certain or not certain]


#: For each field, spellings of one value.
SAME: list[tuple[str, list[str]]] = [
    ("output_format", ["jpeg", "jpg", "JPEG", "image/jpeg", "image/jpg", ".jpg", "jpe"]),
    ("output_format", ["png", "PNG", "image/png", ".png"]),
    ("output_format", ["webp", "image/webp", "WebP"]),
    ("image_size", ["1024x768", "1024X768", "1024*768", "1024 x 768", "1024\u00d7768", "1024,768", "1024x768px"]),
    ("image_size", ["auto_2K", "auto-2k", "auto 2K"]),
    ("aspect_ratio", ["4:3", "4/3", "4x3", "4 : 3", "4_3"]),
    ("aspect_ratio", ["1.91:1", "1.91/1"]),
    ("resolution", ["1K", "1k", "1 K"]),
    ("quality", ["hd", "HD", "Hd "]),
    ("quality", ["very_high", "very high", "Very-High"]),
]


@pytest.mark.parametrize(("name", "same"), SAME, ids=str)
def test_another_spelling_of_a_listed_value_is_allowed(name: str, same: list[str]) -> None:
    for listed in same:
        parameters = {name: {"enum": ["another", listed]}}
        for asked in same:
            given: dict[str, Any] = {name: asked}
            other: dict[str, Any] = {name: f"not {asked}"}
            assert found({"parameters": parameters}, **given) == [], (listed, asked)
            assert found({"parameters": parameters}, **other) != []


@pytest.mark.parametrize(
    ("listed", "asked"),
    [([1, 2], "2"), (["1", "2.0"], 2), ([5.0], "5"), ([True], "true"), (["true"], True), ([False], "False")],
)
def test_numbers_and_booleans_may_be_text(listed: list[Any], asked: Any) -> None:
    assert found({"parameters": {"steps": {"enum": listed}}}, steps=asked) == []


@pytest.mark.parametrize(
    ("name", "listed", "asked"),
    [
        ("output_format", ["png", "jpg"], "webp"),
        ("output_format", ["image/png"], "gif"),
        ("image_size", ["1024x768", "auto"], "768x1024"),
        ("aspect_ratio", ["4:3", "16:9"], "3:4"),
        ("resolution", ["1K", "2K"], "8K"),
        ("quality", ["low", "medium"], "hd"),
        ("steps", [1, 2], 3),
        ("steps", [1, 2], "3"),
    ],
)
def test_other_values_are_refused(name: str, listed: list[Any], asked: Any) -> None:
    (text,) = found({"parameters": {name: {"enum": listed, "default": listed[0]}}}, **{name: asked})
    allowed = ", ".join(map(str, listed))
    assert text == f"{name} is {asked}, m takes {allowed} (default {listed[0]})"


#: Catalog entries for ``image_size``, ``quality`` and ``steps`` that may allow 640x480, high and 640.
OPEN: list[Any] = [
    {"enum": ["auto", "WxH"]},
    {"enum": ["auto", "WIDTHxHEIGHT"]},
    {"enum": ["auto", "<width>x<height>"]},
    {"enum": ["auto", "{width}x{height}"]},
    {"enum": ["256x256-4096x4096"]},
    {"enum": ["1-4096"]},
    {"enum": ["1 to 4096"]},
    {"enum": ["1..4096"]},
    {"enum": ["auto", "custom_size"]},
    {"enum": ["auto", "Any size"]},
    {"enum": ["^[a-z0-9]+$"]},
    {"enum": ["auto", "*"]},
    {"enum": []},
    {"enum": None},
    {"enum": "auto"},
    {"allowed": "auto, low"},
    {"values": {"auto": "Automatic", "low": "Low"}},
    {"values": [{"value": "auto", "label": "Automatic"}]},
    {"values": [[1024, 1024], [1536, 1024]]},
    {"enum": ["auto"], "values": ["640x480", "high", 640]},
    {"enum": [], "options": ["640x480", "high", 640]},
    {"enum": [512, 1024], "minimum": 256, "maximum": 2048, "default": "high", "options": ["640x480"]},
    {"min": 0, "max": 10_000, "step": 8},
    {"range": [1, 2]},
    {"anyOf": [{"enum": ["auto"]}, {"type": "integer"}]},
    "auto",
    ["auto"],
    None,
]


@pytest.mark.parametrize("parameter", OPEN, ids=str)
def test_a_list_that_may_not_be_the_whole_one_refuses_nothing(parameter: Any) -> None:
    parameters = {"image_size": parameter, "quality": parameter, "steps": parameter}
    assert found({"parameters": parameters}, image_size="640x480", quality="high", steps=640) == []


def test_the_default_is_always_allowed() -> None:
    parameters = {
        "image_size": {"enum": ["1024x1024"], "default": "auto"},
        "steps": {"min": 1, "max": 9, "default": 0},
        "n": {"enum": [2, 4]},
    }
    assert found({"parameters": parameters}, image_size="Auto", steps=0) == [], "and n=1 is not sent"
    assert found({"parameters": parameters}, n=3) == ["n is 3, m takes 2, 4"]


PIXELS: dict[str, Any] = {"width": {"min": 16, "max": 4096}, "height": {"min": 16, "max": 4096}}


@pytest.mark.parametrize(
    "more",
    [
        {"parameters": PIXELS | {"advanced": {"aspect_ratio": {"enum": ["16:9"]}}}},
        {"parameters": PIXELS | {"aspectRatio": {"enum": ["16:9"]}}},
        {"parameters": PIXELS, "supported_parameters": ["width", "height", "aspect_ratio"]},
        {"parameters": PIXELS, "sizing": {"styles": [["width", "height"], ["aspect-ratio"]]}},
        {"parameters": [{"name": n, **p} for n, p in PIXELS.items()] + [{"name": "alt", "fields": ["aspect_ratio"]}]},
    ],
    ids=str,
)
def test_a_field_that_the_entry_names_elsewhere_is_only_warned_of(more: dict[str, Any]) -> None:
    assert found(more, aspect_ratio="16:9") == []
    (warning,) = found(more, aspect_ratio="16:9", certain=False)
    assert warning.startswith("aspect_ratio is 16:9, but m is sized by width and height")
    assert found({"parameters": PIXELS}, aspect_ratio="16:9") != []


def test_a_width_may_come_with_an_aspect_ratio_if_the_model_takes_both() -> None:
    both = PIXELS | {"aspect_ratio": {}}
    assert found({"parameters": both}, width=64, aspect_ratio="1:1") == []
    assert found({"parameters": both}, width=64) != []


@pytest.mark.parametrize("first", [True, False])
def test_a_model_that_is_listed_twice_is_checked_by_neither_entry(first: bool) -> None:
    entries: list[Any] = [
        {"id": "m", "parameters": {"aspect_ratio": {}, "n": {"max": 1}}, "modalities": {"output": ["image"]}},
        {"id": "m", "parameters": PIXELS, "edit": {"max_images": 1}, "modalities": {"output": ["text"]}},
    ]
    catalog = Catalog.read({"data": entries if first else entries[::-1]})
    assert list(catalog.models) == ["m"]
    for request in (
        GenerateRequest(**BOAT, width=64, height=48, n=2),
        GenerateRequest(**BOAT, aspect_ratio="1:1"),
        EditRequest(**BOAT, images=["a", "b"]),
    ):
        assert [text for text in complaints(request, catalog) if text.is_certain] == []


IMAGE = {"id": "other", "modalities": {"output": ["image"]}}


@pytest.mark.parametrize(
    "document",
    [
        {"data": [IMAGE], "hasMore": True},
        {"data": [IMAGE], "nextPageToken": "2"},
        {"data": [IMAGE], "pagination": {"next": "/v1/models?page=2"}},
        {"data": [IMAGE], "meta": {"total_pages": 3, "page": 1}},
        {"data": [IMAGE], "links": {"self": "/v1/models", "next": "/v1/models?after=other"}},
        {"data": [IMAGE], "total": 500},
        {"data": [IMAGE], "pagination": {"total_count": "2"}},
        {"data": [IMAGE], "page": 1, "pages": 2},
        {"data": [IMAGE], "is_truncated": True},
        {"data": [IMAGE | {"id": "deepshi/M"}]},
        {"models": ["m"], "data": [IMAGE]},
    ],
    ids=str,
)
def test_a_model_that_may_be_on_another_page_is_allowed(document: Any) -> None:
    assert complaints(GenerateRequest(**BOAT), Catalog.read(document)) == []


@pytest.mark.parametrize(
    "document",
    [
        {"data": [IMAGE], "has_more": False, "next": None, "total": 1},
        {"data": [IMAGE], "meta": {"total_pages": 1, "page": 1, "next_cursor": ""}},
        {"data": [IMAGE], "links": {"self": "/v1/models", "next": None}},
    ],
    ids=str,
)
def test_a_model_that_is_on_no_page_is_refused(document: Any) -> None:
    (unlisted,) = complaints(GenerateRequest(**BOAT), Catalog.read(document))
    assert (unlisted.field, unlisted.is_certain) == ("model", True)
