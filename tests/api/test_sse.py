from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepshi_provider.api.sse import SseDecoder
from deepshi_provider.exceptions import DeepshiError, OutcomeUnknown
from tests.support import bodies
from tests.support.bodies import THOROUGH

Cut = Callable[[bytes], Iterator[bytes]]


def events(*pieces: bytes) -> list[tuple[str, object]]:
    """Return name and document of each event, or its text if that is not JSON."""
    decoder = SseDecoder()
    found = [event for piece in pieces for event in decoder.feed(piece)] + decoder.close()
    result = [(e.name, e.text if e.error else _plain(e.document)) for e in found]
    for event in found:
        for spool in event.spools:
            spool.close()
    return result


def _plain(document: object) -> object:
    if isinstance(document, dict) and "b64_json" in document:
        return {**document, "b64_json": bodies.read(document["b64_json"])}
    return document


@THOROUGH
@given(st.data(), bodies.seeds, bodies.cuts())
def test_any_stream_in_any_pieces_equals_the_json_of_each_event(
    data: st.DataObject, rng: random.Random, cut: Cut
) -> None:
    documents = data.draw(
        st.lists(st.dictionaries(bodies.plain_keys, bodies.extras, max_size=3), min_size=1, max_size=3)
    )
    texts = [bodies.written(document, rng, lines=True) for document in documents]
    names = [data.draw(st.sampled_from([None, "a.completed", "é"])) for _ in documents]
    body = data.draw(bodies.streams(list(zip(names, texts, strict=True))))
    got = events(*cut(body))
    done = [("", "[DONE]")] if b"[DONE]" in body else []
    expected = [(name or "", bodies.whole(text)) for name, text in zip(names, texts, strict=True)]
    assert [(name, text.strip() if isinstance(text, str) else text) for name, text in got] == expected + done


@THOROUGH
@given(st.binary(max_size=200) | st.text('data:event \r\n{}"b64_json', max_size=200).map(str.encode), bodies.cuts())
def test_arbitrary_bytes_give_the_same_in_any_pieces(body: bytes, cut: Cut) -> None:
    results = set()
    for pieces in ([body], list(cut(body))):
        try:
            results.add(repr(events(*pieces)))
        except DeepshiError as err:
            results.add(repr(err))
    assert len(results) == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_standards_own_example_is_understood(end: str) -> None:
    # https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    text = (
        ": test stream\n\ndata: 1\nid: 1\n\ndata:2\nid\n\ndata:  3\n\nevent: add\ndata: 4\n\nevent: lost\n\ndata: 5\n\n"
    )
    body = text.replace("\n", end).encode()
    expected = [("", 1), ("", 2), ("", 3), ("add", 4), ("", 5)]
    assert events(body) == expected
    assert events(*(body[at : at + 1] for at in range(len(body)))) == expected


def test_an_event_is_yielded_before_the_rest_of_its_piece_is_read() -> None:
    decoder = SseDecoder()
    found = decoder.feed(b'data: {"a": 1}\n\ndata: ' + b"[" * 200_000)
    assert next(found).document == {"a": 1}
    with pytest.raises(DeepshiError):
        next(found)


def test_base64_in_several_data_lines_is_one_image() -> None:
    image = bodies.picture()
    text = bodies.text_of(image)
    body = f'data: {{"b64_json": "{text[:9]}\ndata: {text[9:]}"}}\n\n'.encode()
    assert events(body) == [("", {"b64_json": image})]


def test_an_event_cut_by_the_end_of_the_stream_has_the_reason_as_its_error() -> None:
    decoder = SseDecoder()
    assert list(decoder.feed(b'event: a.completed\ndata: {"a": 1')) == []
    (event,) = decoder.close()
    assert (event.name, event.document) == ("a.completed", {})
    assert isinstance(event.error, OutcomeUnknown)
