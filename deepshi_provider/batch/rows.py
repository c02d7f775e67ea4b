"""Checks the rows of a batch before anything is paid for.

A row has the fields of a request, ``extra_params`` as a dictionary, ``images`` (for an edit), ``key``, and the business
columns that :class:`~deepshi_provider.batch.columns.Columns` allows. Their contents are not trusted. Rows are
streamed: a million of them take no more memory than ten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from deepshi_provider.api.requests import EditRequest, GenerateRequest, build, extra_fields
from deepshi_provider.api.texts import is_blank, parsed
from deepshi_provider.batch.cells import is_missing
from deepshi_provider.batch.columns import COLUMNS, Columns
from deepshi_provider.batch.templates import columns_of, filled
from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.journal.entries import path_part

#: For rows that have only request fields.
PLAIN = Columns()


class CheckedRow(NamedTuple):
    """A valid row.

    :param fields: all fields of its request.
    :param carried: carried cells for the manifest, by column.
    """

    key: str
    fields: dict[str, Any]
    carried: dict[str, Any]


def check_rows(
    rows: Iterable[Any], defaults: Mapping[str, Any], stream: bool | None, columns: Columns = PLAIN
) -> Iterator[CheckedRow]:
    """Return the key, all request fields and the carried cells of each row.

    :param defaults: default values of fields; text values are templates over the row's columns. A template that reads
        the column of its own field replaces that column.
    :param stream: request Server-Sent Events; ``None`` does so only for rows of a single image.
    :param columns: the meaning of the other columns.
    :raises InvalidRequest: a row is not a valid request; the message has its number, from 1. Or no row has a column
        that is to be carried.
    """
    seen: set[Any] = set()
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise InvalidRequest(f"Row {number} is not a dictionary but {type(row).__name__}")
        new = row.keys() - seen
        seen |= new
        try:
            if new:
                columns.warn_of_typing_errors(new, used_columns(defaults))
            yield check_row(row, defaults, stream, columns)
        except InvalidRequest as err:
            raise InvalidRequest(f"Row {number}: {err.message}") from None
    if seen:
        columns.check_carry(seen)


def request_of(fields: Mapping[str, Any]) -> GenerateRequest:
    """Return the request of a checked row."""
    return build(EditRequest if fields.get("images") else GenerateRequest, fields)


def check_row(
    row: Mapping[str, Any], defaults: Mapping[str, Any], stream: bool | None, columns: Columns = PLAIN
) -> CheckedRow:
    """Return one row, checked; see :func:`check_rows`.

    :raises InvalidRequest: the row is not a valid request.
    """
    columns.check_names(row, used_columns(defaults))
    given = {name: row[name] for name in COLUMNS & row.keys() - {"key"} if not _is_empty(row[name])}
    extra = extra_fields(given.pop("extra_params", None) or {})
    # Arrow gives all rows of a column of dictionaries the same names, with nulls.
    extra = {name: value for name, value in extra.items() if not _is_empty(value)}
    if isinstance(given.get("images"), str) and given["images"].lstrip().startswith("["):
        given["images"] = _value(given["images"], list, "images is not a JSON list")
    if isinstance(given.get("images"), list | tuple) and not given["images"]:
        if "images" not in defaults:
            raise InvalidRequest("images is an empty list; a row without images has an empty cell")
        del given["images"]
    request = _request({**extra, **given, **_filled_defaults(defaults, {*extra, *given}, row)})
    fields = request.model_dump(exclude_none=True) | {"stream": request.n == 1 if stream is None else stream}
    key = columns.key_of(row)
    name = _hash(request) if key is None else key
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("key has an unpaired surrogate") from None
    return CheckedRow(name, fields, columns.carried(row))


def used_columns(defaults: Mapping[str, Any]) -> frozenset[str]:
    """Return the columns that templates read.

    :raises InvalidRequest: a text is not a valid template; the message names its field.
    """
    used: frozenset[str] = frozenset()
    for name, value in defaults.items():
        try:
            used |= columns_of(value)
        except InvalidRequest as err:
            raise InvalidRequest(f"{name}: {err.message}") from None
    return used


def _filled_defaults(defaults: Mapping[str, Any], given: set[str], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults that apply to a row: of fields that it lacks, and templates that read its own columns."""
    fields = {}
    for name, value in defaults.items():
        if name in given and name not in columns_of(value):
            continue
        try:
            fields[name] = filled(value, row)
            if is_blank(fields[name]) and not is_blank(value):
                raise InvalidRequest(f"the template gives {fields[name]!r}, which is no value")
        except InvalidRequest as err:
            raise InvalidRequest(f"{name}: {err.message}") from None
    return fields


def _is_empty(cell: Any) -> bool:
    """Return whether the cell of a request's field is empty, also as text such as ``NaN`` in a CSV file."""
    return is_missing(cell) or is_blank(cell)


def _request(fields: dict[str, Any]) -> GenerateRequest:
    kind = EditRequest if "images" in fields else GenerateRequest
    return build(kind, {"model": kind.default_model, **fields})


def row_name(key: str) -> str:
    """Return the name of a row's images: its key, if that is safe in a path."""
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
    """Return a key for a row that has none; it depends neither on the row's position nor on ``stream``."""
    asked = [request.picture_fields(), request.images if isinstance(request, EditRequest) else []]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
