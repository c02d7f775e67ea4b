"""Results are compared with their request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from deepshi_provider.api.postcheck import mismatches
from deepshi_provider.api.requests import GenerateRequest


@dataclass(frozen=True, kw_only=True)
class Came:
    index: int = 0
    media_type: str = "image/png"
    width: int = 1024
    height: int = 1024
    sha256: str = "a"


def found(came: Came, **fields: Any) -> list[str]:
    return mismatches(GenerateRequest(model="m", prompt="x", **fields), [came])


@pytest.mark.parametrize(
    ("fields", "came", "expected"),
    [
        ({"width": 64, "height": 48}, Came(), ["Image 0 has 1024x1024 pixels, asked for 64x48"]),
        ({"width": 64}, Came(), ["Image 0 has 1024x1024 pixels, asked for 64xany"]),
        ({"width": 48, "height": 64}, Came(width=64, height=48), ["Image 0 has 64x48 pixels, asked for 48x64"]),
        ({"image_size": "1536x1024"}, Came(), ["Image 0 has 1024x1024 pixels, asked for 1536x1024"]),
        ({"aspect_ratio": "16:9"}, Came(), ["Image 0 has 1024x1024 pixels, which is not 16:9"]),
        ({"aspect_ratio": "5:4"}, Came(width=1365), ["Image 0 has 1365x1024 pixels, which is not 5:4"]),
        ({"resolution": "4K"}, Came(), ["Image 0 has 1024x1024 pixels, which is not 4K"]),
        ({"output_format": "JPEG"}, Came(), ["Image 0 is image/png, asked for image/jpeg"]),
        ({"output_format": "image/jpg"}, Came(), ["Image 0 is image/png, asked for image/jpeg"]),
        ({"image_size": "1536*1024"}, Came(), ["Image 0 has 1024x1024 pixels, asked for 1536x1024"]),
        ({"size": "1536 x 1024"}, Came(), ["Image 0 has 1024x1024 pixels, asked for 1536x1024"]),
        ({"aspect_ratio": "16/9"}, Came(), ["Image 0 has 1024x1024 pixels, which is not 16/9"]),
        ({"aspect_ratio": "1.91:1"}, Came(), ["Image 0 has 1024x1024 pixels, which is not 1.91:1"]),
        ({"resolution": "4 k"}, Came(), ["Image 0 has 1024x1024 pixels, which is not 4 k"]),
        ({"n": 2}, Came(), ["Asked for 2 images, got 1"]),
    ],
)
def test_each_difference_is_one_sentence(fields: dict[str, Any], came: Came, expected: list[str]) -> None:
    assert found(came, **fields) == expected


@pytest.mark.parametrize(
    ("fields", "came"),
    [
        ({}, Came()),
        ({"width": 1024, "height": 1024, "output_format": "png"}, Came()),
        ({"image_size": "auto_2K"}, Came(width=2048, height=1024)),
        ({"image_size": "landscape"}, Came()),
        ({"aspect_ratio": "16:9", "resolution": "1K"}, Came(width=1344, height=768)),
        ({"aspect_ratio": "21:9", "resolution": "4K"}, Came(width=6336, height=2688)),
        ({"aspect_ratio": "5:4"}, Came(width=1152, height=896)),
        ({"aspect_ratio": "auto", "resolution": "high"}, Came(width=9)),
        ({"aspect_ratio": "0:0"}, Came()),
        ({"output_format": "avif"}, Came()),
        ({"output_format": "jpg"}, Came(media_type="image/jpeg")),
        ({"output_format": "image/jpeg"}, Came(media_type="image/jpeg")),
        ({"output_format": ".JPG"}, Came(media_type="image/jpeg")),
        ({"image_size": "16:9"}, Came()),
        ({"image_size": "16/9", "size": 5}, Came()),
        ({"size": ["1536", "1024"]}, Came()),
        ({"image_size": "1024X1024"}, Came()),
        ({"image_size": "1024 * 1024 px"}, Came()),
        ({"aspect_ratio": "1.5"}, Came()),
        ({"aspect_ratio": "1/1"}, Came()),
    ],
)
def test_matching_or_incomparable_values_are_no_difference(fields: dict[str, Any], came: Came) -> None:
    assert found(came, **fields) == []


def test_two_identical_pictures_are_a_difference() -> None:
    request = GenerateRequest(model="m", prompt="x", n=3)
    came = [Came(index=0), Came(index=1, sha256="b"), Came(index=2)]
    assert mismatches(request, came) == ["Images 0 and 2 are the same, byte for byte"]


def test_an_image_of_one_colour_is_a_difference() -> None:
    request = GenerateRequest(model="m", prompt="x", n=2)
    came = [Came(index=0), Came(index=1, sha256="b")]
    assert mismatches(request, came, [1]) == ["Image 1 is all one colour"]
