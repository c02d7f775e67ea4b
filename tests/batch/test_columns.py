"""Carried columns reach the manifest unchanged and never affect what is bought."""

from __future__ import annotations

import json
import uuid
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import pandas
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from deepshi_provider.batch.manifest import MANIFEST_COLUMNS
from deepshi_provider.decorators.images import DeepshiImageDecoratedOperator
from deepshi_provider.emulator.testing import Emulator
from tests.batch.test_rows import parquet
from tests.support.batches import PRICE, batch, counts, deferred, ended, lines_of, manifests, result_of
from tests.support.counts import posts, taken
from tests.support.places import LocalPlace, Place
from tests.support.tasks import generate, run_try

SHOP = b"sku,category,name\n007,mugs,red mug\n1_2,mugs,blue mug\n2024-01-01,lamps,black lamp\n12:30,lamps,green lamp\n"
ASKED: dict[str, Any] = {"prompt": "Studio photo of a {name}", "key_column": "sku", "carry": "*"}


def rows(count: int = 3) -> list[dict[str, Any]]:
    return [{"sku": f"00{n}", "name": f"mug {n}", "price": Decimal(n) / 100, "in_stock": n > 1} for n in range(count)]


def carried(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in MANIFEST_COLUMNS}


def put(place: Place, name: str, data: bytes) -> str:
    if isinstance(place, LocalPlace):
        place.path.mkdir(exist_ok=True)
    place.write(name, data)
    return f"{place.uri}/{name}"


def test_a_product_table_needs_only_prompt_key_and_carry(emulator: Emulator, place: Place) -> None:
    uri = put(place, "shop.csv", SHOP)
    assert counts(result_of(batch(place, requests_uri=uri, **ASKED))) == (4, 0, 0, 0)
    lines = lines_of(place)
    assert [(line["key"], line["status"], carried(line)) for line in lines] == [
        ("007", "created", {"sku": "007", "category": "mugs", "name": "red mug"}),
        ("1_2", "created", {"sku": "1_2", "category": "mugs", "name": "blue mug"}),
        ("2024-01-01", "created", {"sku": "2024-01-01", "category": "lamps", "name": "black lamp"}),
        ("12:30", "created", {"sku": "12:30", "category": "lamps", "name": "green lamp"}),
    ]
    prompts = sorted(sent["fields"]["prompt"] for sent in emulator.requests())
    assert prompts == [f"Studio photo of a {name}" for name in ("black lamp", "blue mug", "green lamp", "red mug")]
    assert all(set(sent["fields"]) <= {"model", "prompt", "width", "height", "stream"} for sent in emulator.requests())


def test_only_columns_used_by_the_prompt_cause_a_purchase(emulator: Emulator, local: Place) -> None:
    result_of(batch(local, rows(5), **ASKED))
    later = rows(5)
    later[0]["price"], later[1]["name"] = Decimal("99.99"), "another mug"
    later = [{**row, "new column": "x"} for row in later]
    assert counts(result_of(batch(local, later, **ASKED), run_id="tuesday")) == (1, 4, 0, 0)
    assert (posts(emulator), taken(emulator)) == (6, 6 * PRICE)
    (new,) = [m for m in manifests(local) if b"new column" in local.read(m)]
    lines = [json.loads(line, parse_float=Decimal) for line in local.read(new).splitlines()]
    assert [(line["price"], line["new column"]) for line in lines][:2] == [
        (Decimal("99.99"), "x"),
        (Decimal("0.01"), "x"),
    ]


@pytest.mark.parametrize("is_deferred", [False, True])
def test_carried_columns_keep_their_types(emulator: Emulator, local: Place, is_deferred: bool) -> None:
    row = {
        "sku": 7,
        "name": "mug",
        "price": Decimal("19.90000000000000000001"),
        "weight": 0.1,
        "in_stock": True,
        "added": date(2026, 1, 2),
        "seen": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone.utc),
        "tags": ["a", {"b": [1, None]}],
        "nothing": None,
        "not a number": float("nan"),
        "not a time": pandas.NaT,
        "🚗": "car",
        "text": "007\x00",
    }
    operator = batch(local, [row, {"sku": 8, "name": "cup", "late": 2**70}], deferrable=is_deferred, **ASKED)
    if is_deferred:
        deferred(operator)
    else:
        result_of(operator)
    first, second = lines_of(local)
    assert carried(first) == {
        "sku": 7,
        "name": "mug",
        "price": Decimal("19.90000000000000000001"),
        "weight": Decimal("0.1"),
        "in_stock": True,
        "added": "2026-01-02",
        "seen": "2026-01-02T03:04:05.000678Z",
        "tags": ["a", {"b": [1, None]}],
        "nothing": None,
        "not a number": None,
        "not a time": None,
        "🚗": "car",
        "text": "007\x00",
        "late": None,
    }
    assert list(first) == list(second), "every line has all columns"
    assert (second["late"], second["price"]) == (2**70, None)


def test_failed_and_unstarted_rows_keep_their_columns(emulator: Emulator, local: Place) -> None:
    emulator.fault("status", status=400, prompt="mug 0", code="PROMPT_TOO_LONG")
    ended(batch(local, rows(3), max_concurrency=1, max_cost_usd=PRICE, **ASKED))
    lines = lines_of(local)
    assert [line["status"] for line in lines] == ["failed", "created", "skipped"]
    assert [line["name"] for line in lines] == ["mug 0", "mug 1", "mug 2"]


def test_a_carry_list_carries_only_its_columns_and_unknown_ones_are_errors(emulator: Emulator, local: Place) -> None:
    asked = {**ASKED, "carry": ["price"]}
    _, err = ended(batch(local, rows(), **asked))
    assert "unknown column 'in_stock'" in str(err)
    assert "carry" in str(err)
    assert posts(emulator) == 0
    table = [*rows(), {"sku": "a", "name": "lamp", "late": 1}]
    assert counts(result_of(batch(local, table, **{**asked, "carry": "['price', 'in_stock', 'late']"}))) == (4, 0, 0, 0)
    assert carried(lines_of(local)[2]) == {"price": Decimal("0.02"), "in_stock": True, "late": None}


def test_a_carried_column_that_no_row_has_is_found_before_anything_is_paid(emulator: Emulator, local: Place) -> None:
    asked = {**ASKED, "carry": ["name", "nmae"]}
    few = [{"sku": row["sku"], "name": row["name"]} for row in rows()]
    for operator in (
        batch(local, few, **asked),
        batch(local, requests_uri=put(local, "shop.csv", b"sku,name\n007,mug\n"), **asked),
        decorated(local, few, **asked),
        decorated(local, few[0], **asked),
    ):
        _, err = ended(operator)
        assert isinstance(err, AirflowFailException)
        assert "carry: no row has a column 'nmae'. Did you mean name?" in str(err)
    assert posts(emulator) == 0
    assert result_of(batch(local, [], **asked))["rows"] == 0, "a day without rows is no error"


HOSTILE: list[tuple[list[Any], dict[str, Any], str]] = [
    ([{"sku": "a", "name": "n", "category": "c"}], {"carry": None}, "in carry, or use carry='*'"),
    *[([{"sku": "a", "name": "n", name: 1}], {}, f"the column {name!r} cannot be carried") for name in
      ("cost_usd", "status", "Status", "uri", "error", "may_have_cost_usd", "attempts", "revised_prompt", "warnings")],
    ([{"sku": "a", "name": "n", "key": 1}], {}, "there is a column 'key' in addition to key_column 'sku'"),
    ([{"sku": "a", "name": "n"}], {"carry": ["prompt"]}, "the column 'prompt' cannot be carried"),
    ([{"sku": "a", "name": "n", "": 0}], {}, "a column without a name cannot be carried"),
    ([{"sku": "a", "name": "n", 3: 0}], {}, "the column 3 cannot be carried: its name is not text"),
    ([{"sku": "a", "name": "n", "\ud800": 0}], {}, "its name has an unpaired surrogate"),
    ([{"sku": "a", "name": "n", "x": "\ud800"}], {}, "the column 'x' cannot be carried: it has an unpaired surrogate"),
    ([{"sku": "a", "name": "n", "x": object()}], {}, "the column 'x' cannot be carried: it is object"),
    ([{"sku": "a", "name": "n", "x": 1}, {"sku": "b", "name": "n", "X": 1}], {}, "the same to databases"),
    ([{"sku": "a", "name": "n", **{f"c{n}": n for n in range(1001)}}], {}, "more than 1,000 columns are carried"),
    ([{"name": "n"}], {}, "Row 1: key_column 'sku' is missing"),
    ([{"sku": None, "name": "n"}], {}, "Row 1: key_column 'sku' is empty"),
    ([{"sku": ["a"], "name": "n"}], {}, "sku is list, which cannot be a key"),
    ([{"sku": float("inf"), "name": "n"}], {}, "sku is NoneType, which cannot be a key"),
    ([{"sku": "a", "name": "n"}, {"sku": "a", "name": "m"}], {}, "Rows 1 and 2 have the same key 'a'"),
    ([{"sku": "a", "name": "n"}], {"carry": [1]}, "carry: column names are needed, got 1"),
    ([{"sku": "a", "name": "n"}], {"carry": {"a": 1}}, "carry: a list is needed, got dict"),
    ([{"sku": "a", "name": "n"}, {"sku": "b"}], {}, "Row 2: prompt: there is no column 'name' for the template"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "fields", "message"), HOSTILE, ids=[message for _, _, message in HOSTILE])
def test_columns_that_cannot_be_carried_are_found_before_anything_is_paid(
    emulator: Emulator, local: Place, table: Any, fields: dict[str, Any], message: str
) -> None:
    ti, err = ended(batch(local, table, **{**ASKED, **fields}, retries=3))
    assert isinstance(err, AirflowFailException)
    assert message in str(err)
    assert (ti.xcoms, posts(emulator), local.names()) == ({"cost_usd": 0.0}, 0, [])


def test_keys_of_any_type_become_text(emulator: Emulator, local: Place) -> None:
    keys = [
        "007",
        "1_2",
        "2024-01-01",
        "12:30",
        "nul\x00",
        "null",
        "NaN",
        7,
        True,
        Decimal("1.10"),
        date(2026, 1, 2),
        1e22,
    ]
    result_of(batch(local, [{"sku": key, "name": f"mug {n}"} for n, key in enumerate(keys)], **ASKED))
    assert [line["key"] for line in lines_of(local)] == list(map(str, keys))
    assert [line["sku"] for line in lines_of(local)][:8] == keys[:8]


def test_a_header_of_business_columns_is_a_header(emulator: Emulator, local: Place) -> None:
    uri = put(local, "shop.csv", b"id,title\n1,a mug\n")
    _, err = ended(batch(local, requests_uri=uri, prompt="the same for all", carry="*"))
    assert "none of its columns is known" in str(err), "each row would be the same picture"
    assert counts(result_of(batch(local, requests_uri=uri, prompt="a {title}", carry=["id"]))) == (1, 0, 0, 0)
    assert posts(emulator) == 1


def test_parquet_columns_are_carried_with_their_types(emulator: Emulator, place: Place) -> None:
    table = [{"sku": 7, "name": "mug", "price": Decimal("1.50"), "added": date(2026, 1, 2), "tags": ["a"]}]
    result_of(batch(place, requests_uri=put(place, "shop.parquet", parquet(table)), **ASKED))
    assert carried(lines_of(place)[0]) == {**table[0], "added": "2026-01-02"}


def test_braces_of_a_prompt_pass_jinja_and_the_template(emulator: Emulator, local: Place) -> None:
    prompt = "{% raw %}{{{% endraw %} {{ run_id }} {name}"
    result_of(batch(local, rows(1), **{**ASKED, "prompt": prompt}), run_id="monday")
    (sent,) = emulator.requests()
    assert sent["fields"]["prompt"] == "{ monday mug 0"


def decorated(place: Place, asked: Any, **fields: Any) -> DeepshiImageDecoratedOperator:
    arguments = {"task_id": "drawn", "width": 64, "height": 48, "output_uri": place.uri, "preflight": "off", **ASKED}
    return DeepshiImageDecoratedOperator(python_callable=lambda: asked, **{**arguments, **fields})


def test_a_decorated_function_returns_rows_with_business_columns(emulator: Emulator, local: Place) -> None:
    assert counts(result_of(decorated(local, rows(2)))) == (2, 0, 0, 0)
    assert [(line["key"], line["price"]) for line in lines_of(local)] == [("000", 0), ("001", Decimal("0.01"))]
    assert posts(emulator) == 2


def test_a_decorated_function_returns_one_row_with_business_columns(emulator: Emulator, local: Place) -> None:
    row = {"sku": "007", "name": "mug", "price": Decimal("1.5"), "added": date(2026, 1, 2)}
    value = run_try(decorated(local, row, metadata={"more": 1})).xcoms["return_value"]
    assert (value["key"], value["metadata"]) == ("007", {"more": 1, **row, "price": 1.5, "added": "2026-01-02"})
    (sent,) = emulator.requests()
    assert sent["fields"]["prompt"] == "Studio photo of a mug"
    assert "price" not in sent["fields"]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (Decimal("1.10"), "1.10"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, tzinfo=timezone.utc), "2026-01-02 03:00:00+00:00"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (pandas.Series([7])[0], 7),
    ],
)
def test_the_key_of_one_row_has_any_type_that_those_of_a_batch_have(
    emulator: Emulator, local: Place, key: Any, text: Any
) -> None:
    value = run_try(decorated(local, {"sku": key, "name": "mug"})).xcoms["return_value"]
    assert (value["key"], posts(emulator)) == (text, 1)
    assert result_of(batch(local, [{"sku": key, "name": "mug"}], **ASKED))["created"] == 1
    assert lines_of(local)[0]["key"] == str(text)


def test_labels_may_hold_what_databases_return(emulator: Emulator, local: Place) -> None:
    metadata = {"price": Decimal("1.5"), "added": date(2026, 1, 2), "sizes": [Decimal(2)]}
    value = run_try(generate(output_uri=local.uri, key=Decimal("19.90"), metadata=metadata)).xcoms["return_value"]
    assert (value["key"], value["metadata"]) == ("19.90", {"price": 1.5, "added": "2026-01-02", "sizes": [2.0]})


def test_a_carried_column_named_like_a_field_is_warned_about_once(
    emulator: Emulator, local: Place, caplog: pytest.LogCaptureFixture
) -> None:
    asked = [{"sku": str(n), "name": "mug", "widht": 512, "price": 1} for n in range(3)]
    result_of(batch(local, asked, **ASKED))
    assert [record.getMessage() for record in caplog.records if "is copied to the manifest" in record.getMessage()] == [
        (
            "The column 'widht' is copied to the manifest and is not sent. "
            "Did you mean width? If not, list the columns in carry"
        )
    ]
    assert [line["widht"] for line in lines_of(local)] == [512, 512, 512]
