"""Writes a manifest from the table of a batch's rows, and reads it, whatever its format."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from deepshi_provider.batch.manifest import EMPTY_LINE, asked, write_jsonl
from deepshi_provider.batch.parquet import write_parquet
from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.jobs.job import BatchJob

#: By format.
MEDIA_TYPES = {"jsonl": "application/jsonl", "parquet": "application/vnd.apache.parquet"}
#: Columns in asset events.
_SHOWN = ("key", "model", "warnings")


def write_manifest(job: BatchJob, rows: RowTable, file: BinaryIO) -> None:
    """Write the outcome of each row, in the job's format."""

    def skipped(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {**EMPTY_LINE, **asked(fields, with_prompt=job.manifest_prompts)}

    if job.manifest_format == "parquet":
        write_parquet(functools.partial(rows.lines, skipped), rows.cell_types(), file)
    else:
        write_jsonl(rows.lines(skipped), file)


def images_in(name: str, file: BinaryIO) -> list[dict[str, Any]]:
    """Return ``{"uri", "key", "model", "warnings"}`` of each image of the rows that did not fail.

    :param name: the file's name; its ending is its format.
    """
    lines = stored_lines(name, file, _SHOWN)
    return [{"uri": uri, **{name: line[name] for name in _SHOWN}} for line in lines for uri in line["uris"]]


def stored_lines(name: str, file: BinaryIO, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the lines of the rows that did not fail; see :func:`all_lines`."""
    return (line for line in all_lines(name, file, columns) if line["status"] != "failed")


def all_lines(name: str, file: BinaryIO, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the lines of all rows, with ``uris``, ``status`` and the given columns.

    :param name: the file's name; its ending is its format.
    """
    return _of_parquet(file, columns) if name.endswith(".parquet") else map(json.loads, file)


def _of_parquet(file: BinaryIO, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(file).iter_batches(columns=["uris", "status", *columns]):
        yield from batch.to_pylist()
