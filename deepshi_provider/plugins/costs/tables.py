"""The page's tables as CSV, for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from deepshi_provider.plugins.costs.views import TABLES, View, most_expensive
from deepshi_provider.reports.totals import no_formula

_SUMS = (
    "cost_usd",
    "failed_usd",
    "images",
    "per_image_usd",
    "reused",
    "saved_usd",
    "unknown_outcomes",
    "untold",
    "may_have_cost_usd",
    "up_to_usd",
    "task_instances",
)
_PICTURE = (
    "time",
    "dag_id",
    "run_id",
    "task_id",
    "map_index",
    "key",
    "prompt",
    "models",
    "width",
    "height",
    "cost_usd",
    "of",
    "reused",
    "uri",
)


def table_csv(view: View, table: str) -> Iterator[str]:
    """Yield a table with all its entries, the most expensive first; days in chronological order."""
    sums = view.sums(table)
    items = sorted(sums.items(), key=(lambda item: item[0]) if table == "days" else most_expensive)
    rows = ({**dict(zip(TABLES[table], key, strict=True)), **view.written(found)} for key, found in items)
    return _lines((*TABLES[table], *_SUMS), rows)


def pictures_csv(pictures: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each image of the gallery."""
    return _lines(_PICTURE, ({**picture, "models": " ".join(picture["models"])} for picture in pictures))


def _lines(columns: tuple[str, ...], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    yield _line(columns)
    for row in rows:
        yield _line(no_formula(row.get(column)) for column in columns)


def _line(cells: Iterable[Any]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)
    return text.getvalue()
