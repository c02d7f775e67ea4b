"""Rows come from lists and files, and each is checked before anything is paid."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from deepshi_provider.batch.arrow import table_rows
from deepshi_provider.batch.manifest import write_jsonl
from deepshi_provider.batch.requests_file import read_file
from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.batch.rows import check_rows
from deepshi_provider.exceptions import InvalidRequest

DEFAULTS = {"model": "deepshi-banana-pro"}


def checked(*rows: Any, **defaults: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(key, fields) for key, fields, _ in check_rows(rows, {**DEFAULTS, **defaults}, None)]


def key_of(row: dict[str, Any], stream: bool | None = None, **defaults: Any) -> str:
    ((key, _, _),) = check_rows([row], {**DEFAULTS, **defaults}, stream)
    return key


def read(name: str, data: bytes) -> list[dict[str, Any]]:
    return list(read_file(name, io.BytesIO(data)))


def parquet(rows: Sequence[Any]) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def twice() -> bytes:
    """A Parquet file with two columns of one name, as a join can produce."""
    file = io.BytesIO()
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["prompt", "prompt"])
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


def test_a_row_takes_the_defaults_of_fields_it_does_not_set() -> None:
    ((key, fields),) = checked({"key": 7, "prompt": "a cup", "width": "64"}, width=32, height=48)
    assert key == "7"
    assert fields == {
        "model": "deepshi-banana-pro",
        "prompt": "a cup",
        "n": 1,
        "width": 64,
        "height": 48,
        "stream": True,
    }


@pytest.mark.parametrize("empty", [None, "", float("nan"), " ", "NaN", "nan", "null", "None"])
def test_an_empty_cell_is_a_missing_value(empty: Any) -> None:
    """Parquet has nulls, CSV has empty strings or what its writer uses for them, and pandas has NaN."""
    row = {"prompt": empty, "seed": empty, "images": empty, "width": empty}
    ((key, fields),) = checked(row, prompt="a default", width=64)
    assert (len(key), fields["prompt"], fields["width"], "seed" in fields) == (16, "a default", 64, False)


def test_the_key_of_a_row_without_one_depends_on_its_request() -> None:
    plain = key_of({"prompt": "a cup"})
    assert re.fullmatch("[0-9a-f]{16}", plain)
    assert key_of({"prompt": "a cup"}, stream=False) == plain, "how the answer travels does not count"
    assert key_of({"prompt": "a cup", "model": "deepshi-banana-pro"}) == plain, "nor where a field comes from"
    others = [
        key_of({"prompt": "a mug"}),
        key_of({"prompt": "a cup"}, width=64),
        key_of({"prompt": "a cup", "images": ["a.png"]}),
        key_of({"prompt": "a cup", "images": ["b.png"]}),
        key_of({"prompt": "a cup", "extra_params": {"style": "flat"}}),
    ]
    assert len({plain, *others}) == 6


def test_images_make_a_row_an_edit() -> None:
    rows = checked(
        {"key": "one", "prompt": "blue", "images": "s3://bucket/a.png"},
        {"key": "many", "prompt": "blue", "images": '["a.png", "b.png"]'},
        {"key": "list", "prompt": "blue", "images": ["a.png"]},
    )
    assert [fields["images"] for _, fields in rows] == [["s3://bucket/a.png"], ["a.png", "b.png"], ["a.png"]]


def test_an_empty_list_of_images_leaves_those_of_the_operator() -> None:
    rows = checked(
        {"key": "a", "images": []}, {"key": "b", "images": "[]"}, prompt="blue", images=["s3://bucket/a.png"]
    )
    assert [fields["images"] for _, fields in rows] == [["s3://bucket/a.png"]] * 2


def test_extra_params_are_an_object_or_its_text() -> None:
    rows = checked(
        {"key": "a", "prompt": "p", "extra_params": {"style": "flat"}},
        {"key": "b", "prompt": "p", "extra_params": '{"style": "flat"}'},
    )
    assert [fields["style"] for _, fields in rows] == ["flat", "flat"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a prompt", "Row 2 is not a dictionary but str"),
        ({}, "Row 2: The request was not sent: prompt is missing or empty"),
        ({"prompt": None}, "Row 2: The request was not sent: prompt is missing or empty"),
        ({"prompt": "None"}, "Row 2: The request was not sent: prompt is missing or empty"),
        ({"prompt": "p", "promt": "q"}, "Row 2: unknown column 'promt'; put fields of the model into extra_params"),
        ({"prompt": "p", 3: "q", "": 1}, "Row 2: unknown column '', 3; put fields"),
        ({"prompt": "p", "stream": True}, "Row 2: unknown column 'stream'"),
        ({"prompt": "p", "width": "wide"}, "Row 2: The request was not sent: width: "),
        ({"prompt": "p", "n": 9}, "Row 2: The request was not sent: n: "),
        ({"prompt": "p", "images": "[a.png"}, "Row 2: images is not a JSON list"),
        ({"prompt": "p", "images": []}, "Row 2: images is an empty list"),
        ({"prompt": "p", "images": "[]"}, "Row 2: images is an empty list"),
        ({"prompt": "p", "extra_params": "[1]"}, "Row 2: extra_params is not a JSON object"),
        ({"prompt": "p", "extra_params": "{"}, "Row 2: extra_params is not a JSON object"),
        ({"prompt": "p", "extra_params": 1}, "Row 2: extra_params must be a dictionary, got int"),
        (
            {"prompt": "p", "extra_params": {"n": 3}},
            "Row 2: extra_params names fields of their own: n",
        ),
        (
            {"prompt": "p \ud800"},
            "Row 2: The request was not sent: prompt: text with an unpaired surrogate",
        ),
        ({"prompt": "p", "key": "\udfff"}, "Row 2: key has an unpaired surrogate"),
    ],
)
def test_an_error_names_the_row_that_is_no_valid_request(row: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        checked({"key": "fine", "prompt": "a cup"}, row)
    assert raised.value.message.startswith(message)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("cup", "cup", "Rows 1 and 3 have the same key 'cup'; keys must differ"),
        (1, "1", "Rows 1 and 3 have the same key '1'; keys must differ"),
        (
            "a b",
            "a_b-c8687a08",
            "Rows 1 and 3 have the keys 'a b' and 'a_b-c8687a08', the same in a path; keys must differ",
        ),
    ],
)
def test_keys_must_differ(first: Any, second: Any, message: str) -> None:
    rows = [{"key": key, "prompt": "p"} for key in (first, "other", second)]
    with RowTable() as table, pytest.raises(InvalidRequest) as raised:
        table.fill(check_rows(rows, DEFAULTS, None))
    assert raised.value.message == message


def test_rows_come_back_from_the_table_in_their_order() -> None:
    rows = [(f"key {number % 7} {number}", {"prompt": "p", "number": number}) for number in range(1200)]
    with RowTable() as table:
        table.fill(rows)
        assert len(table) == 1200
        assert [(row.key, row.fields) for row in table] == rows
        assert [row.number for row in table] == list(range(1, 1201))
        assert len({row.name for row in table}) == 1200
        file = io.BytesIO()
        table.dump_rows(file)
    with RowTable() as copy:
        copy.load_rows(io.BytesIO(file.getvalue()))
        assert [(row.key, row.fields) for row in copy] == rows


def test_each_row_has_one_line_in_the_manifest() -> None:
    with RowTable() as table:
        table.fill([("a", {}), ("b", {}), ("c", {"model": "m"})])
        a, b, _ = table
        table.put(b, {"key": "b", "status": "created"})
        table.put(a, {"key": "a", "status": "failed"})
        table.put(a, {"key": "a", "status": "created"})
        file = io.BytesIO()
        write_jsonl(table.lines(lambda fields: {"key": None, "status": "skipped", **fields}), file)
    assert [json.loads(line) for line in file.getvalue().splitlines()] == [
        {"key": "a", "status": "created"},
        {"key": "b", "status": "created"},
        {"key": "c", "status": "skipped", "model": "m"},
    ]


ROWS = [{"key": "a", "prompt": 'a "quoted", cup'}, {"key": "b", "prompt": "two\nlines\u2028and a third, ß"}]


def as_jsonl() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def as_csv() -> bytes:
    return "key,prompt\r\n{}".format(
        "".join(f'{row["key"]},"{row["prompt"].replace(chr(34), chr(34) * 2)}"\r\n' for row in ROWS)
    ).encode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("s3://bucket/rows.jsonl", as_jsonl()),
        ("rows.ndjson", b"\xef\xbb\xbf" + as_jsonl().replace(b"\n", b"\r\n") + b"\r\n  \r\n"),
        ("rows.CSV", as_csv()),
        ("rows.csv", b"\xef\xbb\xbf" + as_csv()),
        ("rows.parquet", parquet(ROWS)),
        ("rows.pq", parquet(ROWS)),
    ],
)
def test_files_of_rows_are_read(name: str, data: bytes) -> None:
    assert read(name, data) == ROWS


def test_parquet_columns_keep_their_types() -> None:
    rows = [
        {"key": "a", "prompt": "p", "width": 64, "images": ["a.png", "b.png"], "extra_params": {"style": "flat"}},
        {"key": "b", "prompt": "q", "width": None, "images": None, "extra_params": None},
    ]
    ((_, a, _), (_, b, _)) = check_rows(read_file("rows.parquet", io.BytesIO(parquet(rows))), DEFAULTS, None)
    assert (a["width"], a["images"], a["style"]) == (64, ["a.png", "b.png"], "flat")
    assert b == {"model": "deepshi-banana-pro", "prompt": "q", "n": 1, "stream": True}


def test_a_null_in_extra_params_leaves_the_default() -> None:
    """Arrow gives all rows the names of all."""
    rows = [{"prompt": "p", "extra_params": {"style": "flat"}}, {"prompt": "p", "extra_params": {"mood": "dark"}}]
    ((_, a, _), (_, b, _)) = check_rows(
        read_file("rows.parquet", io.BytesIO(parquet(rows))), {**DEFAULTS, "style": "photo"}, None
    )
    assert (a["style"], a.get("mood"), b["style"], b["mood"]) == ("flat", None, "photo", "dark")
    ((_, fields),) = checked({"prompt": "p", "extra_params": {"style": "None"}}, style="photo")
    assert fields["style"] == "photo"


def test_timestamps_of_spark_keep_their_year() -> None:
    file, seen = io.BytesIO(), [*map(datetime.fromisoformat, ("9999-12-31", "1600-01-01"))]
    table = pyarrow.table({"prompt": ["p", "p"], "valid_to": pyarrow.array(seen, pyarrow.timestamp("us"))})
    pyarrow.parquet.write_table(table, file, use_deprecated_int96_timestamps=True)
    assert [row["valid_to"] for row in read("rows.parquet", file.getvalue())] == seen


def test_the_nameless_index_of_a_filtered_frame_is_no_column() -> None:
    file = io.BytesIO()
    pandas.DataFrame({"prompt": ["p", "q"], "stock": [1, 0]}, index=[3, 8]).to_parquet(file)
    assert "__index_level_0__" in pyarrow.parquet.read_schema(io.BytesIO(file.getvalue())).names
    assert [list(row) for row in read("rows.parquet", file.getvalue())] == [["prompt", "stock"]] * 2


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("rows.txt", as_jsonl(), "requests_uri rows.txt must end in .jsonl, .csv or .parquet"),
        ("rows", as_jsonl(), "requests_uri rows must end in .jsonl, .csv or .parquet"),
        ("rows.jsonl", as_csv(), "rows.jsonl is not JSONL: line 1 is not a JSON object"),
        ("rows.jsonl", as_jsonl() + b"[1]\n", "rows.jsonl is not JSONL: line 3 is not a JSON object"),
        ("rows.jsonl", json.dumps(ROWS, indent=1).encode(), "rows.jsonl is not JSONL: line 1 is not a JSON object"),
        ("rows.jsonl", b"[" * 100_000, "rows.jsonl is not JSONL: line 1 is not a JSON object"),
        ("rows.jsonl", parquet(ROWS), "rows.jsonl is not "),
        ("rows.jsonl", b"\x1f\x8b\x08\x00 zipped", "rows.jsonl is not a text file in UTF-8"),
        ("rows.csv", as_jsonl(), "rows.csv is not CSV with a header: none of its columns is known"),
        ("rows.csv", b"", "rows.csv is not CSV with a header: none of its columns is known, []"),
        ("rows.csv", parquet(ROWS), "rows.csv"),
        ("rows.csv", b"key,prompt\na\n", "rows.csv, line 2: the number of fields differs from the header's"),
        ("rows.csv", b"key,prompt\na,b,c\n", "rows.csv, line 2: the number of fields differs from the header's"),
        ("rows.csv", b'key,prompt\na,"b\n', "rows.csv is not CSV, line 1: "),
        ("rows.csv", b"key,prompt,prompt\na,b,c\n", "rows.csv: two columns have the same name, 'prompt'"),
        ("rows.jsonl", b'{"prompt": "a", "prompt": "b"}\n', "rows.jsonl, line 1: two columns have the same name"),
        ("rows.parquet", twice(), "rows.parquet: two columns have the same name, 'prompt'"),
        ("rows.parquet", as_jsonl(), "rows.parquet is not a Parquet file"),
        ("rows.parquet", b"", "rows.parquet is not a Parquet file"),
        ("rows.parquet", parquet(ROWS)[:-20], "rows.parquet is not a Parquet file: "),
    ],
)
def test_a_file_that_does_not_match_its_name_is_refused(name: str, data: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        list(check_rows(read(name, data), DEFAULTS, None))
    assert raised.value.message.startswith(message)


def test_a_parquet_file_of_one_row_group_is_read_in_pieces(tmp_path: Path) -> None:
    class Counted(io.BufferedReader):
        largest = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.largest = max(self.largest, -1 if size is None else size)
            return super().read(size)

    rows = [{"prompt": hashlib.shake_128(b"%d" % number).hexdigest(200)} for number in range(20_000)]
    path = tmp_path / "rows.parquet"
    path.write_bytes(parquet(rows))
    with Counted(io.FileIO(path)) as file:
        assert list(read_file("rows.parquet", file)) == rows
    assert 0 < file.largest <= 2**21 < path.stat().st_size / 2, "its only column is larger"


#: Cells that Python has no value for.
NO_VALUES = {
    "timestamp": pyarrow.array([None, 2**62], pyarrow.timestamp("us")),
    "seconds": pyarrow.array([None, -(2**50)], pyarrow.timestamp("s", "UTC")),
    "date": pyarrow.array([None, 2**30], pyarrow.date32()),
    "list": pyarrow.array([None, [2**62]], pyarrow.list_(pyarrow.timestamp("ms"))),
    "zone": pyarrow.array([None, 1], pyarrow.timestamp("us", "Mars/Phobos")),
}


@pytest.mark.parametrize("kind", NO_VALUES)
@pytest.mark.parametrize("is_file", [False, True])
def test_a_cell_without_a_value_in_python_is_named(kind: str, is_file: bool) -> None:
    table = pyarrow.table({"prompt": ["a", "b"], kind: NO_VALUES[kind]})
    if is_file:
        if table.schema.field(kind).type == pyarrow.timestamp("s", "UTC"):
            table = table.cast(pyarrow.schema([("prompt", pyarrow.string()), (kind, pyarrow.timestamp("ms", "UTC"))]))
        file = io.BytesIO()
        pyarrow.parquet.write_table(table, file)
        rows: Any = read_file("rows.parquet", file)
        file.seek(0)
    else:
        rows = table_rows(table)
    with pytest.raises(InvalidRequest) as raised:
        list(rows)
    assert raised.value.message.startswith(f"Row 2: the column {kind!r} has a value that Python does not support")


def test_the_row_of_such_a_cell_is_counted_over_all_pieces() -> None:
    kinds = pyarrow.array([0] * 2500 + [2**62], pyarrow.timestamp("us"))
    table = pyarrow.table({"late": kinds})
    with pytest.raises(InvalidRequest, match=r"^Row 2501: the column 'late'"):
        list(table_rows(pyarrow.Table.from_batches(table.to_batches(max_chunksize=1200))))


def test_an_endless_line_is_not_read_to_its_end() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self.given += len(buffer)
            buffer[:] = b"x" * len(buffer)
            return len(buffer)

    file = Endless()
    with pytest.raises(InvalidRequest, match="line 1 is not a JSON object"):
        list(read_file("rows.jsonl", io.BufferedReader(file)))
    assert file.given < 8 * 2**20
