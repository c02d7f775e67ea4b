from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deepshi_provider.api.media import EXTENSIONS, Media, identify, media_type
from tests.support import bodies
from tests.support.bodies import QUICK, THOROUGH

KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


def look(image: bytes) -> Media:
    return identify(io.BytesIO(image))


@pytest.mark.parametrize(("kind", "type_"), KINDS.items())
@pytest.mark.parametrize(("width", "height"), [(1, 1), (640, 3), (3, 1000)])
def test_kind_and_size_of_an_image_are_read(kind: str, type_: str, width: int, height: int) -> None:
    assert look(bodies.picture(kind, width, height)) == Media(media_type=type_, width=width, height=height)


def saved(kind: str, image: Image.Image, **options: Any) -> bytes:
    """Return an image file as Pillow writes it."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture that compresses badly, so that its data contains many 0xFF bytes."""
    pixels = random.Random(width * height).randbytes(width * height * len(mode))
    return Image.frombytes(mode, (width, height), pixels)


def exif(*, orientation: int = 1) -> bytes:
    """An EXIF block with a thumbnail: a complete JPEG of another size, with its own end marker."""
    thumbnail = saved("JPEG", noise(16, 16))
    blank = Image.Exif()
    blank[0x0112] = orientation
    blank[0x010E] = "x"  # a description before the thumbnail
    return blank.tobytes() + thumbnail


def with_other_chunks(width: int, height: int) -> bytes:
    """A PNG with chunks before, between and after its data."""
    image = saved("PNG", noise(width, height), exif=exif(), dpi=(72, 72))
    at = image.index(b"IDAT") - 4
    length = int.from_bytes(image[at : at + 4], "big")
    half = image[at + 8 : at + 8 + length // 2], image[at + 8 + length // 2 : at + 8 + length]
    data = b"".join(chunk(b"IDAT", part) for part in (half[0], b"", half[1]))
    text = chunk(b"tEXt", b"Comment\0IEND\xaeB`\x82 is not the end")
    return image[:at] + text + data + text + image[at + 12 + length :]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_fill_bytes(image: bytes) -> bytes:
    """A JPEG with fill bytes before its markers, which T.81 (B.1.1.2) allows."""
    return image.replace(b"\xff\xda", b"\xff\xff\xff\xda").replace(b"\xff\xdb", b"\xff\xff\xdb")


FRAMES = [noise(31, 17), noise(31, 18).crop((0, 0, 31, 17)), Image.new("RGB", (31, 17))]
WHOLE = {
    "PNG": saved("PNG", noise(31, 17)),
    "PNG, palette": saved("PNG", noise(31, 17).convert("P")),
    "PNG, transparent": saved("PNG", noise(31, 17, "RGBA")),
    "PNG, 16 bits": saved("PNG", Image.new("I;16", (31, 17))),
    "PNG, other chunks": with_other_chunks(31, 17),
    "APNG": saved("PNG", FRAMES[0], save_all=True, append_images=FRAMES[1:]),
    "JPEG": saved("JPEG", noise(31, 17), quality=95),
    "JPEG, grey": saved("JPEG", noise(31, 17, "L")),
    "JPEG, CMYK": saved("JPEG", noise(31, 17, "CMYK")),
    "JPEG, progressive": saved("JPEG", noise(31, 17), progressive=True, quality=95),
    "JPEG, restart markers": saved("JPEG", noise(99, 77), restart_marker_blocks=1),
    "JPEG, thumbnail": saved("JPEG", noise(31, 17), exif=exif()),
    "JPEG, comment": saved("JPEG", noise(31, 17), comment=b"\xff\xd9 is not the end, nor \xff\xc0\0\x11"),
    "JPEG, fill bytes": with_fill_bytes(saved("JPEG", Image.new("RGB", (31, 17)))),
    "WebP": saved("WEBP", noise(31, 17)),
    "WebP, lossless": saved("WEBP", noise(31, 17), lossless=True),
    "WebP, lossless, one pixel": saved("WEBP", Image.new("RGB", (1, 1)), lossless=True),
    "WebP, transparent": saved("WEBP", noise(31, 17, "RGBA")),
    "WebP, EXIF": saved("WEBP", noise(31, 17), exif=exif()),
    "WebP, animated": saved("WEBP", FRAMES[0], save_all=True, append_images=FRAMES[1:]),
}
images_of_all_forms = pytest.mark.parametrize("image", WHOLE.values(), ids=WHOLE)


def test_the_test_images_match_their_names() -> None:
    assert WHOLE["JPEG, thumbnail"].count(b"\xff\xd9") == WHOLE["WebP, EXIF"].count(b"\xff\xd9") + 1 == 2
    assert WHOLE["PNG, other chunks"].count(b"IEND\xaeB`\x82") == 3
    assert WHOLE["PNG, other chunks"].count(b"IDAT") == 3
    assert b"\xff\xd5" in WHOLE["JPEG, restart markers"]
    assert (WHOLE["JPEG, progressive"].count(b"\xff\xda"), b"\xff\xc2" in WHOLE["JPEG, progressive"]) == (10, True)
    assert (b"acTL" in WHOLE["APNG"], WHOLE["WebP, animated"].count(b"ANMF")) == (True, 3)
    assert [WHOLE[name][12:16] for name in ("WebP", "WebP, lossless", "WebP, EXIF")] == [b"VP8 ", b"VP8L", b"VP8X"]


@images_of_all_forms
def test_size_is_the_same_as_in_pillow(image: bytes) -> None:
    with Image.open(io.BytesIO(image)) as opened:
        opened.load()
        assert look(image) == Media(media_type=KINDS[opened.format or ""], width=opened.width, height=opened.height)


@images_of_all_forms
def test_an_image_that_is_cut_anywhere_is_cut_short(image: bytes) -> None:
    for length in range(12, len(image)):
        with pytest.raises(ValueError, match="data is truncated"):
            look(image[:length])


@images_of_all_forms
@pytest.mark.parametrize("length", [1, 2, 1000, 4096, 70_000, 2**20])
def test_anything_after_the_end_is_ignored(image: bytes, length: int) -> None:
    behind = random.Random(length)
    assert look(image + behind.randbytes(length)) == look(image)
    assert look(image + bytes(length)) == look(image)
    assert look(image + b"\xff" * length) == look(image)
    assert look(image + image[:length]) == look(image)


@QUICK
@given(st.sampled_from(sorted(WHOLE)), st.binary(max_size=300))
def test_any_bytes_may_follow_the_end(name: str, behind: bytes) -> None:
    assert look(WHOLE[name] + behind) == look(WHOLE[name])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_size_is_that_of_the_stored_pixels_however_exif_rotates_them(kind: str, orientation: int) -> None:
    image = saved(kind, noise(31, 17), exif=exif(orientation=orientation))
    with Image.open(io.BytesIO(image)) as opened:
        assert opened.getexif()[0x0112] == orientation
    assert (look(image).width, look(image).height) == (31, 17)


class Counted(io.BytesIO):
    """A file that records the largest read."""

    most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.most = max(self.most, len(found))
        return found


@pytest.mark.parametrize("before", range(-3, 4))
def test_a_marker_may_lie_across_two_pieces(before: int) -> None:
    """The end marker of a JPEG is at the boundary of the first piece that is read of its data."""
    image = saved("JPEG", Image.new("RGB", (31, 17)))
    at = image.index(b"\xff\xda")
    for pieces in (4096, 65536):
        fill = b"\x55" * (pieces - len(image) + at + before)
        longer = image[:-2] + fill + image[-2:]
        assert look(longer) == look(image)
        for cut in (1, 2):
            with pytest.raises(ValueError, match="truncated"):
                look(longer[:-cut])


def large(kind: str) -> bytes:
    """An image of more than 2 MiB."""
    image = noise(1500, 1200)
    return saved(kind, image, lossless=True) if kind == "WEBP" else saved(kind, image, quality=100)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_large_image_is_read_in_pieces(kind: str) -> None:
    image = large(kind)
    assert len(image) > 2 * 2**20
    file = Counted(image + bytes(2**20))
    assert (identify(file).width, identify(file).height) == (1500, 1200)
    assert file.most <= 64 * 1024


def test_a_picture_that_was_cut_before_another_begins_is_cut_short() -> None:
    image = WHOLE["JPEG"]
    with pytest.raises(ValueError, match="data is truncated"):
        look(image[:-2] + image)


@pytest.mark.parametrize("image", [b"", b"GIF89a" + bytes(50), b"<svg/>", b"RIFF\x04\0\0\0WAVE", b"\x89PNG"])
def test_other_files_than_the_apis_image_formats_are_refused(image: bytes) -> None:
    with pytest.raises(ValueError, match="it is not a PNG, JPEG or WebP image"):
        look(image)


@pytest.mark.parametrize(
    "image",
    [
        b"\x89PNG\r\n\x1a\n\0\0\0\0IEND\xaeB`\x82",
        bodies.picture("PNG")[:33] + bodies.picture("PNG")[-12:],
        bodies.picture("PNG")[:16] + bytes(8) + bodies.picture("PNG")[24:],
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff" + bytes(1000) + b"\xff\xd9",
        b"RIFF\x04\0\0\0WEBP",
        b"RIFF\x0c\0\0\0WEBPXXXX" + bytes(20),
        b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(10),
        b"RIFF\x16\0\0\0WEBPVP8 \x0a\0\0\0" + bytes(10),
        b"RIFF\x12\0\0\0WEBPVP8L\x05\0\0\0" + bytes(6),
    ],
)
def test_an_image_without_a_size_or_pixels_is_refused(image: bytes) -> None:
    with pytest.raises(ValueError, match="data contains no image"):
        look(image)


@pytest.mark.parametrize(
    "image",
    [
        bodies.picture("PNG").replace(b"IDAT", b"\0\0\0\0"),
        b"RIFF\x0c\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(10),
        b"RIFF\x20\0\0\0" + bodies.picture("WEBP")[8:],
    ],
)
def test_an_image_whose_parts_contradict_each_other_is_refused(image: bytes) -> None:
    with pytest.raises(ValueError, match="data is damaged"):
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
def test_twelve_bytes_suffice_for_the_kind(kind: str, type_: str) -> None:
    assert media_type(bodies.picture(kind)[:12]) == type_
    assert media_type(bodies.picture(kind)[:2]) is None


@pytest.mark.parametrize("part", [b"\xff\xe0\0\x02", b"\xff\x01"], ids=["empty segments", "lone markers"])
def test_an_image_of_countless_parts_is_not_read_to_its_end(part: bytes) -> None:
    file = io.BytesIO(b"\xff\xd8" + part * 1_000_000 + b"\xff\xd9")
    with pytest.raises(ValueError, match="has too many parts"):
        identify(file)
    assert file.tell() < 2**20
