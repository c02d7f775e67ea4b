"""Rows of a batch: from a list or a file on any object store, checked before anything is paid.

A row has the fields of a request, ``extra_params`` as a dictionary, ``images`` (then it is an edit) and ``key``. Rows
stream: a file of a million of them takes no more memory than one of ten.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from deepshi_provider.api.requests import EditRequest, GenerateRequest, build
from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.manifest import path_part

#: Columns that a row may have.
COLUMNS = frozenset(EditRequest.model_fields) - {"stream"} | {"key", "extra_params"}

_PARQUET_MAGIC = b"PAR1"
_LONGEST_LINE = 4 * 2**20  # characters


def read_file(uri: str, file: BinaryIO) -> Iterator[dict[str, Any]]:
    """Return the rows of an open JSONL, CSV or Parquet file, by the ending of its name.

    :raises InvalidRequest: the file is not what its name says; the message tells the line.
    """
    ending = uri.rpartition(".")[2].lower()
    if ending in ("jsonl", "ndjson"):
        return _read_jsonl(uri, file)
    if ending == "csv":
        return _read_csv(uri, file)
    if ending in ("parquet", "pq"):
        return _read_parquet(uri, file)
    raise InvalidRequest(f"requests_uri {uri} must end in .jsonl, .csv or .parquet")


def check_rows(
    rows: Iterable[Any], defaults: Mapping[str, Any], stream: bool | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return key and complete request fields of each row.

    :param defaults: fields that rows need not name.
    :param stream: ask for Server-Sent Events; ``None`` does so for rows of one picture.
    :raises InvalidRequest: a row cannot be a request; the message tells which one, from 1.
    """
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise InvalidRequest(f"Row {number} is not a dictionary but {type(row).__name__}")
        try:
            yield _check(row, defaults, stream)
        except InvalidRequest as err:
            raise InvalidRequest(f"Row {number}: {err.message}") from None


def request_of(fields: Mapping[str, Any]) -> GenerateRequest:
    """Return the request of a checked row."""
    return build(EditRequest if fields.get("images") else GenerateRequest, fields)


def _check(row: Mapping[str, Any], defaults: Mapping[str, Any], stream: bool | None) -> tuple[str, dict[str, Any]]:
    if unknown := sorted(str(column) for column in row.keys() - COLUMNS):
        raise InvalidRequest(f"unknown column {', '.join(unknown)}; put fields of the model into extra_params")
    given = {name: value for name, value in row.items() if value is not None and value != ""}
    extra = given.pop("extra_params", None) or {}
    if isinstance(extra, str):
        extra = _json_object(extra)
    key = given.pop("key", None)
    if "images" in given and isinstance(given["images"], str) and given["images"].startswith("["):
        given["images"] = json.loads(given["images"])
    request = request_of({**defaults, **extra, **given})
    fields = request.model_dump(exclude_none=True) | {"stream": request.n == 1 if stream is None else stream}
    return str(key) if key is not None else _hash(fields), fields


def row_name(key: str) -> str:
    """Return what a row's images are called: its key, if it is safe in a path."""
    return path_part(key)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest("extra_params is not a JSON object")
    return value


def _hash(fields: Mapping[str, Any]) -> str:
    """Return a key for a row that has none: the same wherever the row stands."""
    text = json.dumps(fields, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _lines(uri: str, file: BinaryIO) -> Iterator[str]:
    reader = codecs.getreader("utf-8-sig")(file)
    try:
        while line := reader.readline(_LONGEST_LINE):
            yield line
    except UnicodeDecodeError:
        raise InvalidRequest(f"{uri} is not a text file in UTF-8") from None


def _read_jsonl(uri: str, file: BinaryIO) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(uri, file), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InvalidRequest(f"{uri} is not JSONL: line {number} is not a JSON object")
        yield row


def _read_csv(uri: str, file: BinaryIO) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(_lines(uri, file), strict=True)
    try:
        columns = reader.fieldnames or []
        if "prompt" not in columns and not set(columns) & COLUMNS:
            raise InvalidRequest(f"{uri} is not CSV with a header: none of its columns is known, {columns[:5]}")
        for row in reader:
            if None in row or None in row.values():
                raise InvalidRequest(f"{uri}, line {reader.line_num}: not as many fields as the header has columns")
            yield row
    except csv.Error as err:
        raise InvalidRequest(f"{uri} is not CSV, line {reader.line_num}: {err}") from None


def _read_parquet(uri: str, file: BinaryIO) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as err:
        raise InvalidRequest("Parquet needs the extra 'parquet' of airflow-provider-deepshi") from err
    magic = file.read(4)
    file.seek(0)
    if magic != _PARQUET_MAGIC:
        raise InvalidRequest(f"{uri} is not a Parquet file")
    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1000):
            yield from batch.to_pylist()
    except pyarrow.ArrowException as err:
        raise InvalidRequest(f"{uri} is not a Parquet file: {err}") from err
