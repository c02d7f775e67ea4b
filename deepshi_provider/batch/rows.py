"""Rows of a batch: from a list or a file on any object store, checked before anything is paid.

A row has the fields of a request, ``extra_params`` as a dictionary, ``images`` (then it is an edit) and ``key``. Rows
stream: a file of a million of them takes no more memory than one of ten.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from deepshi_provider.api.requests import EditRequest, GenerateRequest, build
from deepshi_provider.api.texts import did_you_mean, parsed, shown_uri
from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.journal.entries import path_part

#: Columns that a row may have.
COLUMNS = frozenset(EditRequest.model_fields) - {"stream"} | {"key", "extra_params"}

_PARQUET_MAGIC = b"PAR1"
_LONGEST_LINE = 4 * 2**20  # characters


def read_file(uri: str, file: BinaryIO) -> Iterator[dict[str, Any]]:
    """Return the rows of an open JSONL, CSV or Parquet file, by the ending of its name.

    :raises InvalidRequest: the file is not what its name says; the message names the line.
    """
    ending = uri.rpartition(".")[2].lower()
    uri = shown_uri(uri)
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
    :raises InvalidRequest: a row cannot be a request; the message names it, from 1.
    """
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise InvalidRequest(f"Row {number} is not a dictionary but {type(row).__name__}")
        try:
            yield check_row(row, defaults, stream)
        except InvalidRequest as err:
            raise InvalidRequest(f"Row {number}: {err.message}") from None


def request_of(fields: Mapping[str, Any]) -> GenerateRequest:
    """Return the request of a checked row."""
    return build(EditRequest if fields.get("images") else GenerateRequest, fields)


def check_row(row: Mapping[str, Any], defaults: Mapping[str, Any], stream: bool | None) -> tuple[str, dict[str, Any]]:
    """Return key and complete request fields of one row; see :func:`check_rows`.

    :raises InvalidRequest: the row cannot be a request.
    """
    check_names(row)
    given = {name: value for name, value in row.items() if not _is_missing(value)}
    extra = _extra_params(given.pop("extra_params", None) or {})
    key = given.pop("key", None)
    if isinstance(given.get("images"), str) and given["images"].lstrip().startswith("["):
        given["images"] = _value(given["images"], list, "images is not a JSON list")
    request = _request(defaults, {**extra, **given})
    fields = request.model_dump(exclude_none=True) | {"stream": request.n == 1 if stream is None else stream}
    name = _hash(request) if key is None else str(key)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("key holds half of a character") from None
    return name, fields


def check_names(row: Mapping[Any, Any]) -> None:
    """Make sure that all names of a row are known: an unknown one may be a typing error, and is paid for.

    :raises InvalidRequest: the message names what may have been meant.
    """
    unknown = sorted(row.keys() - COLUMNS, key=repr)
    if not unknown:
        return
    meant = "".join(dict.fromkeys(did_you_mean(name, COLUMNS) for name in unknown))
    raise InvalidRequest(
        f"unknown column {', '.join(repr(name)[:100] for name in unknown[:5])}; put fields of the model into "
        f"extra_params.{meant} The columns are {', '.join(sorted(COLUMNS))}. Leave business columns out, and join them "
        "to the manifest by key"
    )


def _is_missing(value: Any) -> bool:
    """Return whether a cell is empty; in pandas' tables that is NaN."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _request(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> GenerateRequest:
    fields = {**defaults, **given}
    if not fields.get("images", True):
        del fields["images"]
    kind = EditRequest if "images" in fields else GenerateRequest
    return build(kind, {"model": kind.default_model, **fields})


def _extra_params(value: Any) -> Mapping[str, Any]:
    extra = _value(value, dict, "extra_params is not a JSON object") if isinstance(value, str) else value
    if not isinstance(extra, Mapping):
        raise InvalidRequest(f"extra_params must be a dictionary, got {type(extra).__name__}")
    if twice := sorted(extra.keys() & (COLUMNS | {"stream"})):
        raise InvalidRequest(f"extra_params names fields that are columns of their own: {', '.join(twice)}")
    return extra


def row_name(key: str) -> str:
    """Return what a row's images are called: its key, if it is safe in a path."""
    return path_part(key)


def _value(text: str, kind: type, problem: str) -> Any:
    try:
        value = parsed(text)
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise InvalidRequest(problem)
    return value


def _hash(request: GenerateRequest) -> str:
    """Return a key for a row that has none: the same wherever the row stands, and however its answer travels."""
    asked = [request.picture_fields(), request.images if isinstance(request, EditRequest) else []]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _lines(uri: str, file: BinaryIO, newline: str) -> Iterator[str]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)
    try:
        while line := text.readline(_LONGEST_LINE):
            yield line
    except UnicodeDecodeError:
        raise InvalidRequest(f"{uri} is not a text file in UTF-8") from None
    finally:
        if not file.closed:
            text.detach()  # whoever opened the file closes it


def _read_jsonl(uri: str, file: BinaryIO) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(uri, file, "\n"), start=1):
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
    reader = csv.DictReader(_lines(uri, file, ""), strict=True)
    try:
        columns = reader.fieldnames or []
        if not set(columns) & COLUMNS:
            raise InvalidRequest(
                f"{uri} is not CSV with a header: none of its columns is known, {columns[:5]}. The columns are "
                f"{', '.join(sorted(COLUMNS))}"
            )
        if len(set(columns)) < len(columns):
            raise InvalidRequest(f"{uri}: two columns have the same name")
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
