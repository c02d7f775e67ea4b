"""Answers in all forms that servers may write, and their values by ``json`` and ``base64`` for comparison."""

from __future__ import annotations

import base64
import contextlib
import gc
import io
import json
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image

from deepshi_provider.api.answer import AnswerReader
from deepshi_provider.api.responses import Answer
from deepshi_provider.api.spool import IMAGE_LIMIT, Spool
from deepshi_provider.exceptions import DeepshiError

JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"
MIB = 2**20

# Number of examples from the profile that tests/conftest.py chooses: fewer in `make test-fast`.
THOROUGH = settings()
QUICK = settings(max_examples=THOROUGH.max_examples // 2)


@cache
def picture(kind: str = "PNG", width: int = 3, height: int = 2) -> bytes:
    """Return a small picture."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 40)).save(file, kind)
    return file.getvalue()


def padded(size_bytes: int) -> bytes:
    """Return a small PNG, padded to a length with an ancillary chunk."""
    image, length = picture(), size_bytes - len(picture()) - 12
    chunk = b"paDd" + bytes(length)
    return image[:-12] + struct.pack(">I", length) + chunk + struct.pack(">I", zlib.crc32(chunk)) + image[-12:]


def text_of(image: bytes) -> str:
    return base64.b64encode(image).decode()


def answer_text(*images: bytes, **fields: Any) -> bytes:
    """Return a plain answer to a generation."""
    data = [{"index": position, "b64_json": text_of(image)} for position, image in enumerate(images)]
    usage = {"total_tokens": 7, "cost": {"total_cost": 0.000135}}
    return json.dumps({"created": 1782595538, "data": data, "usage": usage, **fields}).encode()


def event(document: Any, name: str | None = "image_generation.completed", end: str = "\n\n") -> bytes:
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {json.dumps(document)}{end}".encode()


def completed(image: bytes, **fields: Any) -> dict[str, Any]:
    usage = {"cost": {"total_cost": 0.000135}}
    return {"type": "image_generation.completed", "b64_json": text_of(image), "usage": usage, **fields}


# ------------------------------------------------------------------ receiving


@dataclass(frozen=True, kw_only=True)
class Got:
    """A whole answer as plain values: index, bytes, media type, size in pixels and prompt of each image."""

    images: list[tuple[int, bytes, str, int, int, str | None]]
    answer: Answer
    warnings: list[str]
    cost_is_complete: bool

    @property
    def pictures(self) -> list[bytes]:
        return [image[1] for image in self.images]


def receive(
    pieces: Iterable[bytes] | bytes, content_type: str = JSON, *, wanted: int = 1, image_limit: int = IMAGE_LIMIT
) -> Got:
    """Read an answer like the hook, and close all spools."""
    reader = AnswerReader(wanted, image_limit=image_limit)
    try:
        for piece in [pieces] if isinstance(pieces, bytes) else pieces:
            reader.feed(piece)
            if reader.complete:
                break
        received = reader.close()
        images = [
            (i.index, read(i.spool), i.media.media_type, i.media.width, i.media.height, i.revised_prompt)
            for i in received.images
        ]
        return Got(
            images=images,
            answer=received.answer,
            warnings=received.warnings,
            cost_is_complete=received.cost_is_complete,
        )
    finally:
        reader.discard()


def error_of(pieces: Iterable[bytes] | bytes, content_type: str = JSON, **options: Any) -> DeepshiError:
    """Return the error of an answer."""
    try:
        got = receive(pieces, content_type, **options)
    except DeepshiError as err:
        return err
    raise AssertionError(f"no error, but {got}")


def read(spool: Spool) -> bytes:
    spool.file.seek(0)
    return spool.file.read()


def open_files() -> int:
    """Return the number of open files without sockets, since those of earlier tests may still be closing."""
    gc.collect()
    targets = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listed directory itself
            targets.append(str(entry.readlink()))
    return sum(target.startswith("/") for target in targets)


def peak_of(work: Callable[[], object]) -> int:
    """Return the peak memory of some work in bytes, beyond that in use before."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------ writing JSON oddly


class Pairs(list[tuple[str, Any]]):
    """An object whose keys may occur twice."""


def written(value: Any, rng: random.Random, *, lines: bool = False) -> str:
    """Write JSON in any of its equivalent forms."""
    space = rng.choice(["", "", " ", "\t", "\n", "\r\n  "] if not lines else ["", "\n", " \n"])
    if isinstance(value, dict):
        value = Pairs(value.items())
    if isinstance(value, Pairs):
        items = (f"{_string(k, rng)}{space}:{space}{written(v, rng, lines=lines)}" for k, v in value)
        return "{" + space + f"{space},{space}".join(items) + space + "}"
    if isinstance(value, list):
        return "[" + space + f",{space}".join(written(item, rng, lines=lines) for item in value) + space + "]"
    return _string(value, rng) if isinstance(value, str) else json.dumps(value)


def _string(text: str, rng: random.Random) -> str:
    often = rng.choice([0.0, 0.05, 1.0])
    return '"' + "".join(_character(c, rng, often) for c in text) + '"'


def _character(char: str, rng: random.Random, often: float) -> str:
    must = char in '"\\' or ord(char) < 32
    if not must and rng.random() >= often:
        return char
    if char in "/\n\t" and rng.random() < 0.7:
        return {"/": "\\/", "\n": "\\n", "\t": "\\t"}[char]
    units = char.encode("utf-16-be")
    style = rng.choice(["%04x", "%04X"])
    return "".join("\\u" + style % int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))


def whole(text: str) -> Any:
    """Return the document by ``json`` and ``base64``, with bytes for images.

    If a key occurs twice, the last value that is not empty counts.
    """
    return json.loads(text, object_pairs_hook=_decoded, parse_float=Decimal)


def _decoded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    nothing: list[Any] = [None, "", [], {}]
    last = dict(pairs)
    value = last | {key: item for key, item in pairs if item not in nothing and last[key] in nothing}
    for key in ("b64_json", "url"):
        text = value.get(key)
        if key == "url" and isinstance(text, str) and text.lower().startswith("data:"):
            text = text.partition(",")[2]
        elif key == "url":
            continue
        if isinstance(text, str):
            value[key] = base64.b64decode(text)
    return value


# ------------------------------------------------------------------ strategies

seeds = st.integers(0, 2**32).map(random.Random)
odd_text = st.text(st.sampled_from('abC/+=:,{}[]"\\ \n\té漢😀\u2028'), max_size=20)
plain_keys = st.sampled_from(["a", "prompt", "b64", "URL", "b64_json ", "", "é", 'q"', "metadata", "id", "x" * 80])
numbers = st.integers(-(10**20), 10**20) | st.decimals(-1000, 1000, places=6).map(float)
extras: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | odd_text,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(plain_keys, inner, max_size=3)
        | st.builds(lambda link: {"url": link, "b64_json": None}, st.sampled_from([None, "", "https://x.y/z.png"]))
    ),
    max_leaves=6,
)
image_bytes = st.binary(max_size=300)
data_heads = st.sampled_from(["data:image/png;base64,", "data:;base64,", "DATA:image/webp;charset=utf-8;BASE64,"])


def entries(images: st.SearchStrategy[bytes]) -> st.SearchStrategy[Pairs]:
    """Generate entries of ``data``: an image under either name and other fields, in any order."""
    image = st.one_of(
        st.tuples(st.just("b64_json"), images.map(text_of)),
        st.tuples(st.just("url"), st.builds(lambda head, data: head + text_of(data), data_heads, images)),
    )
    others = st.lists(st.tuples(plain_keys, extras), max_size=2)
    prompts = st.lists(st.tuples(st.just("revised_prompt"), odd_text | st.none()), max_size=2)
    return st.builds(lambda i, o, p: [i, *o, *p], image, others, prompts).flatmap(st.permutations).map(Pairs)


def answers(images: st.SearchStrategy[bytes], most: int = 4) -> st.SearchStrategy[Pairs]:
    """Generate answers to generations; a key may occur twice."""
    usage = st.fixed_dictionaries({"total_tokens": numbers, "cost": st.just({"total_cost": 0.000135})})
    fields = st.lists(
        st.tuples(st.just("model"), odd_text)
        | st.tuples(st.just("created"), st.integers(0, 2**40) | st.none())
        | st.tuples(st.just("usage"), usage | st.none())
        | st.tuples(plain_keys, extras),
        max_size=5,
    )
    data = st.tuples(st.just("data"), st.lists(entries(images), min_size=1, max_size=most))
    return st.builds(lambda d, f: [d, *f], data, fields).flatmap(st.permutations).map(Pairs)


@st.composite
def cuts(draw: st.DrawFn) -> Callable[[bytes], Iterator[bytes]]:
    """Generate ways to cut a body into pieces: byte by byte, evenly, anywhere, with empty pieces."""
    step = draw(st.none() | st.sampled_from([1, 2, 3, 5, 7, 64, 10**9]))
    places = draw(st.lists(st.floats(0, 1), max_size=8))

    def cut(body: bytes) -> Iterator[bytes]:
        if step:
            at = [*range(0, len(body), step), len(body)]
        else:
            at = sorted([0, *(int(place * len(body)) for place in places), len(body)])
        return (body[a:b] for a, b in pairwise(at))

    return cut


@st.composite
def streams(draw: st.DrawFn, documents: list[tuple[str | None, str]]) -> bytes:
    """Generate event streams of documents (each with its event's name), in any of their equivalent forms."""
    lines: list[str] = []
    comment = st.sampled_from([[], [": keepalive"], [":"], [": keepalive", ""], ["id: 7", "retry: 10"]])
    for name, text in documents:
        lines += draw(comment)
        space = draw(st.sampled_from(["", " "]))
        named = [f"event:{space}{name}"] if name is not None else []
        data = [f"data:{space}{line}" for line in text.replace("\r\n", "\n").split("\n")]
        lines += [*named, *data] if draw(st.booleans()) else [*data, *named]
        lines += [*draw(comment)[:1], ""]
    if draw(st.booleans()):
        lines += ["data: [DONE]", ""]
    elif draw(st.booleans()):
        lines.pop()
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    mark = draw(st.sampled_from(["", "\ufeff"]))
    return (mark + end.join(lines) + draw(st.sampled_from(["", end]))).encode()
