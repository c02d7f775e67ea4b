"""Templates over columns: a column's text is inserted unchanged, and no content of a row is ever executed."""

from __future__ import annotations

from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepshi_provider.batch.columns import Columns
from deepshi_provider.batch.rows import check_rows
from deepshi_provider.batch.templates import columns_of, filled
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import InvalidRequest
from tests.support.batches import batch, counts, ended, result_of
from tests.support.calls import image_file
from tests.support.counts import posts
from tests.support.places import LocalPlace
from tests.support.tasks import EDITS

DEFAULTS = {"model": "deepshi-banana-pro"}
ALL = Columns(carry="*")


def fields_of(row: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    ((_, fields, _),) = check_rows([row], {**DEFAULTS, **defaults}, None, ALL)
    return fields


def refused(row: Any, **defaults: Any) -> str:
    with pytest.raises(InvalidRequest) as raised:
        list(check_rows([{"name": "fine", "prompt": "fine"}, row], {**DEFAULTS, **defaults}, None, ALL))
    return raised.value.message


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Studio photo of a {name}, {colour} background", "Studio photo of a cup, red background"),
        ("{name}{name}", "cupcup"),
        ("{{name}} is {name}", "{name} is cup"),
        ("{{{name}}}", "{cup}"),
        ("}}{{", "}{"),
        ("{two words} {a.b} {0} {🚗} {x!r} {y:>10}", "spaces dots zero car bang colon"),
        ("{price} {count} {yes} {day} {at}", "1.50 7 True 2026-01-02 2026-01-02T03:04:05+00:00"),
        ("no column at all", "no column at all"),
    ],
)
def test_a_column_is_found_by_its_full_name(template: str, text: str) -> None:
    row = {"name": "cup", "colour": "red", "two words": "spaces", "a.b": "dots", "0": "zero", "🚗": "car"}
    row |= {"x!r": "bang", "y:>10": "colon"}
    types = {"price": Decimal("1.50"), "count": 7, "yes": True, "day": date(2026, 1, 2)}
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    assert filled(template, {**row, **types, "at": at}) == text


HOSTILE = [
    "{name}",
    "{{name}}",
    "{secret.__class__}",
    "{",
    "}",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "{0}",
    "%s %(name)s $name ${name}",
    "x" * 2**20,
    "line\nbreak\x00nul",
    "🚗 ‮right to left",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12])
def test_the_content_of_a_cell_is_plain_text(text: str) -> None:
    assert fields_of({"name": text, "secret": "s"}, prompt="a {name}!")["prompt"] == f"a {text}!"
    assert fields_of({"prompt": text, "secret": "s"})["prompt"] == text, "a row's own prompt is no template"


@given(st.text(alphabet="{}ab.[]!: \x00🚗", max_size=20), st.text(alphabet="{}ab", min_size=1, max_size=8))
def test_a_template_is_refused_or_contains_exactly_its_cells(template: str, cell: str) -> None:
    row = dict.fromkeys(("a", "b", "ab"), cell)
    try:
        made = filled(template, row)
    except InvalidRequest:
        return
    columns = columns_of(template)
    assert columns <= row.keys()
    plain = template.replace("{{", "\x01").replace("}}", "\x02")
    if not columns and "{" not in plain:
        assert made == plain.replace("\x01", "{").replace("\x02", "}")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1))
def test_doubled_braces_make_any_text_literal(text: str) -> None:
    assert filled(text.replace("{", "{{").replace("}", "}}"), {}) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{name.__class__}",
            "Row 2: prompt: there is no column 'name.__class__' for the template. A template takes {column} alone",
        ),
        ("{name[0]}", "Row 2: prompt: there is no column 'name[0]'"),
        ("{name!r}", "Row 2: prompt: there is no column 'name!r'"),
        ("{name:>100000000}", "Row 2: prompt: there is no column 'name:>100000000'"),
        ("{0}", "Row 2: prompt: there is no column '0'"),
        ("{nmae}", "Row 2: prompt: there is no column 'nmae' for the template. Did you mean name?"),
        ("{ name }", "Row 2: prompt: there is no column ' name ' for the template. Did you mean name?"),
        ("{empty}", "Row 2: prompt: the column 'empty' is empty, and the template needs it"),
        ("{null} {name}", "Row 2: prompt: the column 'null' is empty, and the template needs it"),
        ("{nan}", "Row 2: prompt: the column 'nan' is empty, and the template needs it"),
        ("{list}", "Row 2: prompt: the column 'list' is list, not text; the template needs text"),
        ("{bytes}", "Row 2: prompt: the column 'bytes' is bytes, not text; the template needs text"),
    ],
)
def test_a_row_that_a_template_cannot_read_is_named(template: str, message: str) -> None:
    row = {"name": "cup", "empty": "", "null": None, "nan": float("nan"), "list": ["a"], "bytes": b"a"}
    assert refused(row, prompt=template).startswith(message)


@pytest.mark.parametrize("template", ["{", "}", "{}", "a {name", "a name}", "{a{name}}", "{{name}", "{name}}", "{{{"])
def test_an_invalid_template_is_refused_with_a_hint_on_braces(template: str) -> None:
    message = refused({"name": "cup"}, prompt=template)
    assert message.startswith("Row 1: prompt: the template has ")
    assert message.endswith("Write {{ and }} for braces")


def test_any_field_may_be_a_template() -> None:
    row = {
        "m": "flux-2-pro",
        "w": "64",
        "h": 48,
        "ratio": "16:9",
        "seed_of": 7,
        "file": "in",
        "style": "flat",
        "x": 1.5,
    }
    fields = fields_of(
        row,
        prompt="p",
        model="{m}",
        width="{w}",
        height="{h}",
        aspect_ratio="{ratio}",
        seed="{seed_of}",
        images=["s3://bucket/{file}.png"],
        style={"name": "{style}", "strength": ["{x}", "x{x}"]},
    )
    assert {**fields, "stream": True} == {
        "model": "flux-2-pro",
        "prompt": "p",
        "n": 1,
        "width": 64,
        "height": 48,
        "aspect_ratio": "16:9",
        "seed": 7,
        "images": ["s3://bucket/in.png"],
        "style": {"name": "flat", "strength": [1.5, "x1.5"]},
        "stream": True,
    }


@pytest.mark.parametrize("cell", ["NaN", "null", " None "])
def test_a_field_is_not_left_out_because_its_template_gives_no_value(cell: str) -> None:
    with pytest.raises(InvalidRequest, match="Row 1: width: the template gives"):
        fields_of({"w": cell}, prompt="p", width="{w}")


def test_a_field_set_by_the_row_wins_over_the_template() -> None:
    row = {"prompt": "its own", "name": "cup"}
    assert fields_of(row, prompt="a {name}")["prompt"] == "its own"
    assert fields_of({"prompt": "", "name": "cup"}, prompt="a {name}")["prompt"] == "a cup", "an empty cell is no value"


def test_a_template_that_reads_its_own_column_wraps_it() -> None:
    assert fields_of({"prompt": "a cup"}, prompt="{prompt}, watercolour")["prompt"] == "a cup, watercolour"
    assert "there is no column 'prompt'" in refused({"name": "cup"}, prompt="{prompt}, watercolour")


def test_columns_used_by_templates_need_not_be_carried() -> None:
    ((_, fields, carried),) = check_rows([{"name": "cup"}], {**DEFAULTS, "prompt": "a {name}"}, None)
    assert (fields["prompt"], carried) == ("a cup", {})


@pytest.mark.parametrize("images", ["{url}", ["{url}"], ' ["{url}"] ', "{folder}/{name}.png"])
def test_each_row_names_its_own_input_image(emulator: Emulator, local: LocalPlace, tmp_path: Path, images: Any) -> None:
    """Also as the only text of ``images``, which could be the JSON of a result."""
    rows = []
    for name in ("red", "blue"):
        path = tmp_path / f"{name}.png"
        path.write_bytes(image_file("png"))
        rows.append({"key": name, "folder": tmp_path.as_uri(), "name": name, "url": path.as_uri()})
    operator = batch(local, rows, prompt="make it green", images=images, model="deepshi-image-1", carry="*")
    assert counts(result_of(operator)) == (2, 0, 0, 0)
    assert [request["path"] for request in emulator.requests()] == [EDITS, EDITS]
    assert operator.input_uris() == []


@pytest.mark.parametrize(
    "fallback",
    [{"prompt": "Plain {name}"}, {"model": "{m}"}, {"prompt": "a } sign"}, {"style": {"name": "{name}"}}],
)
def test_a_fallback_with_columns_is_refused_before_paying(
    emulator: Emulator, local: LocalPlace, fallback: dict[str, Any]
) -> None:
    """It is the same for all rows: one product would get the picture of another."""
    if "style" in fallback:
        fallback = {"extra_params": fallback}
    rows = [{"key": "007", "name": "red mug", "m": "flux-2-pro"}]
    operator = batch(local, rows, prompt="a {name}", fallbacks=[{"model": "flux-2-pro", **fallback}], carry="*")
    ti, err = ended(operator)
    assert "fallbacks is the same for all rows" in str(err)
    assert (posts(emulator), local.names(), ti.xcoms["cost_usd"]) == (0, [], 0.0)


def test_fallbacks_of_a_batch_may_be_rendered_text(emulator: Emulator, local: LocalPlace) -> None:
    fallbacks = '[{"model": "flux-2-pro", "extra_params": {"style": "flat"}}]'
    assert counts(result_of(batch(local, [{"prompt": "a mug"}], fallbacks=fallbacks))) == (1, 0, 0, 0)
