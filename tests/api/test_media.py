from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepshi_provider.api.media import EXTENSIONS, Media, identify, media_type
from tests.api import wire
from tests.api.wire import THOROUGH

KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


def look(image: bytes) -> Media:
    return identify(io.BytesIO(image), len(image))


@pytest.mark.parametrize(("kind", "type_"), KINDS.items())
@pytest.mark.parametrize(("width", "height"), [(1, 1), (640, 3), (3, 1000)])
def test_an_image_tells_its_kind_and_size(kind: str, type_: str, width: int, height: int) -> None:
    assert look(wire.picture(kind, width, height)) == Media(media_type=type_, width=width, height=height)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [b"\n", b"\x00" * 1000])
def test_a_few_bytes_after_the_end_do_not_matter(kind: str, after: bytes) -> None:
    assert look(wire.picture(kind) + after) == look(wire.picture(kind))


@pytest.mark.parametrize("image", [b"", b"GIF89a" + bytes(50), b"<svg/>", b"RIFF\x04\0\0\0WAVE", b"\x89PNG"])
def test_what_is_no_image_of_the_api_is_refused(image: bytes) -> None:
    with pytest.raises(ValueError, match="it is not a PNG, JPEG or WebP image"):
        look(image)


@pytest.mark.parametrize(
    "image",
    [
        b"\x89PNG\r\n\x1a\nIEND\xaeB`\x82",
        wire.picture("PNG")[:16] + bytes(8) + wire.picture("PNG")[24:],
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff" + bytes(1000) + b"\xff\xd9",
        b"RIFF\x04\0\0\0WEBP",
        b"RIFF\x0c\0\0\0WEBPXXXX" + bytes(20),
    ],
)
def test_an_image_without_a_size_is_refused(image: bytes) -> None:
    with pytest.raises(ValueError, match="data tells no size"):
        look(image)


@THOROUGH
@given(st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP"]), st.binary(max_size=300))
def test_arbitrary_bytes_are_an_image_or_a_value_error(head: bytes, rest: bytes) -> None:
    for end in (b"", b"IEND\xaeB`\x82", b"\xff\xd9"):
        try:
            media = look(head + rest + end)
        except ValueError:
            continue
        assert media.media_type in EXTENSIONS
        assert min(media.width, media.height) > 0


@pytest.mark.parametrize(("kind", "type_"), KINDS.items())
def test_twelve_bytes_tell_the_kind(kind: str, type_: str) -> None:
    assert media_type(wire.picture(kind)[:12]) == type_
    assert media_type(wire.picture(kind)[:2]) is None
