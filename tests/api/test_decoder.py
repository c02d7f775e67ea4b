from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshi_provider.api.decoder import HEADER_LIMIT, JsonDecoder
from deepshi_provider.api.document import DEEPEST
from deepshi_provider.api.spool import Spool
from deepshi_provider.exceptions import DeepshiError, InvalidResponse, OutcomeUnknown
from tests.support import bodies
from tests.support.bodies import QUICK, THOROUGH, Pairs

Cut = Callable[[bytes], Iterator[bytes]]


def decode(*pieces: bytes) -> Any:
    """Return the document with bytes for images, or their problem if they are unreadable."""
    decoder = JsonDecoder()
    try:
        for piece in pieces:
            decoder.feed(piece)
        return plain(decoder.close())
    finally:
        for spool in decoder.spools:
            spool.close()


def plain(value: Any) -> Any:
    if isinstance(value, Spool):
        assert value.complete
        return value.problem or bodies.read(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@THOROUGH
@given(bodies.answers(bodies.image_bytes), bodies.seeds, bodies.cuts())
def test_any_answer_in_any_pieces_equals_the_result_of_json_and_base64(
    document: Pairs, rng: random.Random, cut: Cut
) -> None:
    text = bodies.written(document, rng)
    assert decode(*cut(text.encode())) == bodies.whole(text)


@THOROUGH
@given(
    st.binary(max_size=200) | st.text('{}[]":,\\ub64_jsonrldat;,ie=\n 09.-', max_size=200).map(str.encode),
    bodies.cuts(),
)
def test_arbitrary_bytes_raise_no_builtin_exceptions(body: bytes, cut: Cut) -> None:
    results = set()
    for pieces in ([body], list(cut(body))):
        try:
            results.add(repr(decode(*pieces)))
        except DeepshiError as err:
            results.add(repr(err))
    assert len(results) == 1


@QUICK
@given(
    bodies.image_bytes, st.sampled_from(["", "data:image/png;base64,", r"data:image\/png;base64\u002c"]), bodies.cuts()
)
def test_b64_json_may_hold_a_data_uri(image: bytes, head: str, cut: Cut) -> None:
    body = f'{{"b64_json": "{head}{bodies.text_of(image)}"}}'.encode()
    assert decode(*cut(body)) == {"b64_json": image}


@pytest.mark.parametrize("key", ["b64_json", r"b64\u005fjson", r"\u0062\u0036\u0034\u005F\u006A\u0073\u006F\u006E"])
def test_escapes_in_a_key_change_nothing(key: str) -> None:
    assert decode(f'{{"{key}" : "QUJD"}}'.encode()) == {"b64_json": b"ABC"}


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("QUJD", b"ABC"),
        ("QUI=", b"AB"),
        ("QUI", b"AB"),
        ("QQ", b"A"),
        ("QU\\nJD", b"ABC"),
        ("Q\\r\\n U J D", b"ABC"),
        ("QUI=\\n\\n\\n\\n\\n", b"AB"),
        ("\\u0051\\u0055\\u004a\\u0044", b"ABC"),
        ("", b""),
    ],
)
def test_base64_is_read_with_white_space_escapes_and_without_padding(text: str, image: bytes) -> None:
    body = f'{{"b64_json": "{text}"}}'.encode()
    assert decode(body) == {"b64_json": image}
    assert decode(*(body[at : at + 1] for at in range(len(body)))) == {"b64_json": image}


@pytest.mark.parametrize("text", ["QUJ*", "Q", "QQ==QUJD", "QUJDé", r"QU\\JD", r"QU\"JD", "=", "Q===", r"QUJ\u00e9"])
def test_broken_base64_is_reported_and_the_rest_is_read(text: str) -> None:
    body = f'{{"b64_json": "{text}", "usage": {{"cost": 0.000135}}}}'.encode()
    for pieces in ([body], [body[at : at + 1] for at in range(len(body))]):
        got = decode(*pieces)
        assert got["usage"] == {"cost": Decimal("0.000135")}
        assert got["b64_json"].startswith("its base64 data")


@pytest.mark.parametrize("head_length", [HEADER_LIMIT - 1, HEADER_LIMIT, HEADER_LIMIT + 1, HEADER_LIMIT + 50])
def test_a_long_data_uri_head_means_the_same_in_any_pieces(head_length: int) -> None:
    head = "data:image/png;name=" + "x" * (head_length - 27) + ";base64"
    body = f'{{"url": "{head},QUJD"}}'.encode()
    at_once = decode(body)
    assert len(head) == head_length
    assert at_once == {"url": b"ABC" if head_length <= HEADER_LIMIT else f"{head},QUJD"}
    assert decode(*(body[at : at + 1] for at in range(len(body)))) == at_once


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": "\\ud83d"}', {"a": "\ufffd"}),
        ('{"a": "\\uDE00x\\ud83d\\ude00"}', {"a": "\ufffdx😀"}),
        ('{"\\ud83d": "\\\\ud83d"}', {"\ufffd": "\\ud83d"}),
        ('\ufeff{"a": 1}', {"a": 1}),
        ('{"a": NaN, "b": -Infinity}', {"a": None, "b": None}),
        ('{"a": 1e999999999, "b": 1e99999999999999999999, "c": 1E-999999}', {"a": None, "b": None, "c": None}),
        ('{"a": 0e99999, "b": 0.00, "c": -0}', {"a": Decimal("0e99999"), "b": Decimal("0.00"), "c": 0}),
        ('{"a": %s}' % ("9" * 5000), {"a": None}),
        ('{"a": "line\nbreak"}', {"a": "line\nbreak"}),
    ],
)
def test_odd_content_beside_an_image_does_not_lose_the_image(text: str, value: Any) -> None:
    assert decode(text.encode()) == value


def test_bytes_that_are_not_utf8_do_not_lose_the_image() -> None:
    assert decode(b'{"a": "\xff\xfe", "b64_json": "QUJD"}') == {"a": "\ufffd\ufffd", "b64_json": b"ABC"}


def test_commas_and_brackets_in_a_text_are_not_values() -> None:
    tags = "[red, {" * 5000
    assert decode(f'{{"revised_prompt": "{tags}", "b64_json": "QUJD"}}'.encode()) == {
        "revised_prompt": tags,
        "b64_json": b"ABC",
    }


@pytest.mark.slow
@settings(QUICK, max_examples=15)
@given(st.sampled_from(["x", "é", "😀", "\\\\", "\\u00e9", "\\ud83d\\ude00"]), st.integers(0, 12), bodies.cuts())
def test_a_text_that_is_too_long_is_cut_and_the_image_kept(unit: str, before: int, cut: Cut) -> None:
    long = "y" * before + unit * (90_000 // len(unit.encode()))
    body = f'{{"long": "{long}", "other": "{long}", "k": "short", "b64_json": "QUJD"}}'.encode()
    step = cut if len(list(cut(b"x" * 1000))) < 100 else lambda data: iter([data])
    got = decode(*step(body))
    meant = bodies.whole(f'"{long}"')
    assert (got["k"], got["b64_json"]) == ("short", b"ABC")
    assert meant.startswith(got["long"].rstrip("\ufffd"))
    assert meant.startswith(got["other"].rstrip("\ufffd"))
    assert len(got["long"]) > 5_000
    assert len(got["other"]) > 8


@pytest.mark.parametrize("document", ['{"a": [1.5e-7, true, null, false], "b": {"c": "d\\u00e9"}, "b64_json": "QUJD"}'])
def test_a_document_cut_anywhere_is_an_unknown_outcome(document: str) -> None:
    body = document.encode()
    for at in range(len(body)):
        with pytest.raises(OutcomeUnknown, match="was cut off") as caught:
            decode(body[:at])
        assert caught.value.charged == "unknown"


ENDS = {"a": b'"],', "b": b"}", "b64_json": b'"QUJD"'}


def test_every_whole_value_of_a_truncated_document_is_kept() -> None:
    whole = {"a": [Decimal("1.5"), True, None, "x]"], "b": {"c": 'd"'}, "b64_json": b"ABC", "e": 12}
    body = b'{"a": [1.5, true, null, "x]"], "b": {"c": "d\\""}, "b64_json": "QUJD", "e": 12}'
    assert decode(body) == whole
    for at in range(1, len(body)):
        decoder = JsonDecoder()
        decoder.feed(body[:at])
        found = decoder.beginning()
        for spool in decoder.spools:
            spool.close()
        came = [key for key, end in ENDS.items() if at >= body.index(end) + len(end)]
        assert [key for key in came if key != "b64_json" and found[key] != whole[key]] == []
        assert ("b64_json" in came, "e" in found) == (isinstance(found.get("b64_json"), Spool), False)


def test_anything_after_the_last_bracket_is_ignored() -> None:
    for rest in (b" x", b"}", b"{", b'"', b', "b64_json": "QUJD"}', b"\x00" * 100_000):
        assert decode(b'{"a": {"b": []}}' + rest) == {"a": {"b": []}}
        assert decode(b'{"a": {"b": []}', b"}", rest) == {"a": {"b": []}}


@pytest.mark.parametrize("depth", [40, 400, 1_900])
def test_too_deep_nesting_does_not_lose_the_image(depth: int) -> None:
    for begin, end in (("[", "]"), ('{"k": ', "}")):
        inside = begin * (depth // 2) + '"b64_json"' + end * (depth // 2)
        got = decode(f'{{"usage": {inside}, "b64_json": "QUJD", "k": "v"}}'.encode())
        assert (got["b64_json"], got["k"], str(got["usage"]).count("v")) == (b"ABC", "v", 0)


def test_images_beyond_the_limit_are_skipped() -> None:
    got = decode(b'{"data": [%s"end"], "k": "v"}' % (b'{"b64_json": "QUJD"},' * 20))
    texts = [entry["b64_json"] for entry in got["data"][:-1]]
    assert texts == [b"ABC"] * 8 + ["the answer has more than 8 images"] * 12
    assert got["k"] == "v"


@pytest.mark.parametrize(
    ("body", "charged"),
    [
        (b"<html>Bad gateway</html>", "unknown"),
        (b'{"a": nope}', "unknown"),
        (b'{"b64_json": "QUJD",}', "yes"),
        (b"[" * 5_000 + b"]" * 5_000, "unknown"),
    ],
)
def test_an_answer_that_is_not_json_is_an_invalid_response(body: bytes, charged: str) -> None:
    with pytest.raises(InvalidResponse) as raised:
        decode(body)
    assert raised.value.charged == charged


@pytest.mark.parametrize(("opened", "closed"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_an_answer_may_be_nested_as_deep_as_any_python_can_write_it(opened: bytes, closed: bytes) -> None:
    body = b'{"usage":' + opened * (DEEPEST - 1) + b"1" + closed * (DEEPEST - 1) + b"}"
    assert json.loads(json.dumps(decode(body))) == json.loads(body)


def test_endless_base64_without_an_image_is_cut() -> None:
    decoder = JsonDecoder(lambda: Spool(4 * bodies.MIB))
    decoder.feed(b'{"b64_json": "')
    for _ in range(4):
        decoder.feed(b" " * bodies.MIB)
    with pytest.raises(InvalidResponse, match="does not end"):
        decoder.feed(b" " * bodies.MIB)
    decoder.spools[0].close()


def test_an_image_in_tiny_pieces_does_not_count_as_endless() -> None:
    body = f'{{"b64_json": "{bodies.text_of(bytes(3000))}"}}'.encode()
    assert decode(*(body[at : at + 1] for at in range(len(body)))) == {"b64_json": bytes(3000)}
