"""Values of templates and upstream tasks become directories and lists of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deepshi_provider.api.texts import is_blank
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.hooks.directories import default_output_uri
from deepshi_provider.journal.entries import Owner
from deepshi_provider.operators.rendered import image_uris
from tests.support.counts import posts
from tests.support.places import LocalPlace
from tests.support.tasks import generate, run_try

URI = "s3://bucket/a/image-0.png"
XCOM: dict[str, Any] = {"images": [{"uri": URI, "index": 0}, {"uri": "s3://bucket/a/image-1.png"}], "model": "m"}

# ------------------------------------------------------------------ images


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        ("", []),
        ("None", []),
        ([], []),
        (URI, [URI]),
        (f"  {URI}\n", [URI]),
        ("/data/a b.png", ["/data/a b.png"]),
        (Path("/data/in.png"), ["/data/in.png"]),
        ([URI, "/b.png"], [URI, "/b.png"]),
        ((URI,), [URI]),
        (iter([URI, None, ""]), [URI]),
        (XCOM, [URI, "s3://bucket/a/image-1.png"]),
        (XCOM["images"], [URI, "s3://bucket/a/image-1.png"]),
        (XCOM["images"][1], ["s3://bucket/a/image-1.png"]),
        ([XCOM, URI, [Path("/b.png"), [XCOM["images"][0]]]], [URI, "s3://bucket/a/image-1.png", URI, "/b.png", URI]),
        (str(XCOM), [URI, "s3://bucket/a/image-1.png"]),
        (str([XCOM, URI]), [URI, "s3://bucket/a/image-1.png", URI]),
        (f"['{URI}']", [URI]),
        ({"images": []}, []),
    ],
)
def test_images_may_have_many_forms(value: Any, expected: list[str]) -> None:
    assert image_uris(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *(7, True, b"bytes", [7], {"model": "m"}, {"uri": None}),
        *({URI}, frozenset({URI}), "{'a', 'b'}"),  # a set has another order in each process
        *("[1, 2", "{", "[unquoted]", "['a'] + ['b']", "{'a': 1}"),
    ],
)
def test_images_of_an_unknown_form_are_named(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^images: "):
        image_uris(value)


LAZY = ("LazyXComSequence(", "LazyXComSelectSequence(", "_MapResult(", "_ZipResult(", "_ConcatResult(")


def is_path(text: str) -> bool:
    """Whether a text is one path: neither blank, nor the start of a list or another form, nor a data URI."""
    is_data = text.strip().lower().startswith("data:image/")
    return not is_blank(text) and not is_data and not text.strip().startswith(("[", "{", *LAZY))


@given(st.lists(st.text(min_size=1).filter(is_path), max_size=5))
def test_list_rendered_as_text_is_the_same_list(uris: list[str]) -> None:
    assert image_uris(str(uris)) == image_uris(uris) == [uri.strip() for uri in uris]


@given(st.text(max_size=40))
def test_any_text_is_a_path_or_an_invalid_request(text: str) -> None:
    try:
        found = image_uris(text)
    except InvalidRequest:
        assert text.lstrip()[0] in "[{"
    else:
        assert all(isinstance(uri, str) for uri in found)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda v: st.lists(v, max_size=2) | st.dictionaries(st.text(), v, max_size=2),
        max_leaves=3,
    )
)
def test_only_missing_values_are_blank(value: Any) -> None:
    texts = ("", "None", "null", "NaN", "nan")
    assert is_blank(value) == (value is None or (isinstance(value, str) and value.strip() in texts))


# ------------------------------------------------------------------ directories

BASE = "s3://bucket/deepshi"
ids = st.one_of(
    st.text(min_size=1, max_size=250),
    st.text(alphabet="ab-_:+./=~", min_size=1, max_size=4),
    st.sampled_from(["..", ".", "a:b", "a-b", "a+b", "a_b", "a/b", "é", "e\u0301", "A", "a"]),
    st.datetimes().map(lambda moment: f"manual__{moment.isoformat()}+00:00"),
)
owners = st.builds(Owner, dag_id=ids, run_id=ids, task_id=ids, map_index=st.integers(-1, 3))


@given(owners, owners)
@example(
    Owner(dag_id="d", run_id="2026-01-02T03:04:05+00:00", task_id="t"),
    Owner(dag_id="d", run_id="2026-01-02T03-04-05_00-00", task_id="t"),
)
@example(Owner(dag_id="d", run_id="a:b", task_id="t"), Owner(dag_id="d", run_id="a-b", task_id="t"))
def test_distinct_tasks_have_distinct_directories(one: Owner, other: Owner) -> None:
    same = one.is_same_task(other)
    assert (default_output_uri(BASE, one) == default_output_uri(BASE, other)) == same


@given(owners)
def test_directory_is_safe_and_inside_the_base(owner: Owner) -> None:
    uri = default_output_uri(f"{BASE}/", owner)
    assert uri.startswith(f"{BASE}/")
    parts = uri.removeprefix(f"{BASE}/").split("/")
    assert len(parts) == 3 + (owner.map_index >= 0)
    for part in parts:
        assert part.strip("."), "neither empty nor a way out"
        assert part.isascii()
        assert not set(part) & set(" \\?#%*:@\n\0")
        assert len(part) <= 200


@given(owners)
def test_directory_is_the_same_for_all_tries(owner: Owner) -> None:
    later = owner.model_copy(update={"try_number": 7})
    assert default_output_uri(BASE, later) == default_output_uri(BASE, owner)


@pytest.mark.parametrize(
    ("run_id", "part"),
    [
        ("manual__2026-01-02T03:04:05.678901+00:00", "manual__2026-01-02T03-04-05.678901_00-00"),
        ("scheduled__2026-01-02T03:04:05+00:00", "scheduled__2026-01-02T03-04-05_00-00"),
        ("nightly-7", "nightly-7"),
    ],
)
def test_usual_run_ids_stay_readable(run_id: str, part: str) -> None:
    owner = Owner(dag_id="shop.daily", run_id=run_id, task_id="group.boat", map_index=12)
    assert default_output_uri(BASE, owner) == f"{BASE}/shop.daily/{part}/group.boat/12"


@pytest.mark.parametrize("run_id", ["../../etc", "..", "ü" * 250, "a/b\\c:d+e f", "x" * 250])
def test_odd_run_ids_work_on_a_file_system(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_id: str
) -> None:
    base = LocalPlace(tmp_path / "base")
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(output_uri=base.uri))
    (image,) = run_try(generate(), run_id=run_id).xcoms["return_value"]["images"]
    (name,) = [name for name in base.names() if name.endswith(".png")]
    assert image["uri"] == f"{base.uri}/{name}"
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    assert run_try(generate(), run_id=run_id, try_number=2).xcoms["return_value"]["reused"] is True
    assert posts(emulator) == 1


@pytest.mark.parametrize("field", ["key", "metadata", "extra_params"])
@pytest.mark.parametrize("form", [list, tuple, json.dumps])
def test_values_nested_too_deep_to_be_stored_are_refused_before_payment(
    emulator: Emulator, local: LocalPlace, field: str, form: Any
) -> None:
    """Pydantic supports 255 levels, newer Pythons any number: the paid result could not be stored."""
    value: Any = []
    for _ in range(400):
        value = [value] if form is json.dumps else form([value])
    value = form(value) if field != "extra_params" else {"deep": value}
    with pytest.raises(InvalidRequest, match="cannot be written as JSON"):
        run_try(generate(output_uri=local.uri, **{field: value}))
    assert (posts(emulator), local.names()) == (0, [])
