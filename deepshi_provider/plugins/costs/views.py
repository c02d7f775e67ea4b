"""Filters the lines of a book, and adds them up by day, DAG, task, model and run.

Money is exact text; the browser rounds it for display.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Literal

from deepshi_provider.plugins.costs.book import Book, Line, Sum, added

#: Maximum number of entries of each table; the rest is one entry.
MOST_ENTRIES = 20
#: Maximum number of parts of a bar; the rest is one part.
MOST_PARTS = 6

Stack = Literal["dag", "model"]
Sums = Mapping[Any, Sum]

#: The tables of the page, with the fields that distinguish their entries.
TABLES: dict[str, tuple[str, ...]] = {
    "dags": ("dag_id",),
    "tasks": ("dag_id", "task_id"),
    "models": ("model",),
    "runs": ("dag_id", "run_id"),
    "instances": ("dag_id", "run_id", "task_id", "map_index"),
    "days": ("day",),
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The filters; an empty one matches everything. Equal choices of one book have equal views.

    :param dag_ids: the DAGs that the reader may read and that have the requested tag and owner.
    """

    dag_ids: frozenset[str]
    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    map_index: int | None = None
    model: str | None = None
    conn_id: str | None = None
    group: str | None = None

    @property
    def filters(self) -> bool:
        """Whether there are conditions besides the DAGs."""
        return any(value is not None for name, value in vars(self).items() if name != "dag_ids")

    def takes(self, line: Line) -> bool:
        """Return whether a line of these DAGs matches."""
        return (
            self.dag_id in (None, line.dag_id)
            and self.task_id in (None, line.task_id)
            and self.run_id in (None, line.run_id)
            and self.model in (None, line.model)
            and self.conn_id in (None, line.conn_id)
            and self.group in (None, line.group)
            and self.map_index in (None, line.map_index)
        )


class View:
    """The filtered lines of a book.

    :param start: first day of the period.
    :param end: last day.
    :param first: first day of the preceding period; earlier lines are not used.
    """

    def __init__(self, book: Book, choice: Choice, start: date, end: date, first: date = date.min) -> None:
        self._book, self._choice = book, choice
        self.unreadable = sum(number for day, number in book.unreadable.items() if first <= day <= end)
        self._start, self._end = start, end
        self.of_model = choice.model is not None
        #: Lines that do not distinguish runs, unless the book is of one run.
        self.lines: dict[Line, Sum] = {}
        self.before = Sum()
        #: Number of lines of DAGs that the reader may not read.
        self.hidden = 0
        takes = choice.takes if choice.filters else None
        seen: set[tuple[str, str, str, str]] = set()
        for line, found in book.days.items():
            if not first <= line.day <= end:
                continue
            if line.dag_id not in choice.dag_ids:
                self.hidden += 1
                continue
            if line.day < start:
                if takes is None or takes(line):
                    self.before.add(found)
            else:
                seen.add((line.dag_id, line.model, line.conn_id, line.group))
                if takes is None or takes(line):
                    self.lines[line] = found
        self.all_dags, self.all_models, self.all_conn_ids, self.all_groups = (
            {names[place] for names in seen} for place in range(4)
        )
        self._smallest = added(self.lines.items(), lambda line: (line.dag_id, line.task_id, line.model))
        self._tables: dict[str, dict[str, Any]] = {}
        self.total = Sum()
        for found in self._smallest.values():
            self.total.add(found)

    def sums(self, table: str) -> Sums:
        """Return the sums of a table; a key holds the values of the table's fields."""
        source = {"days": self.lines.items(), "runs": self._run_lines(), "instances": self._run_lines()}
        found = added(source.get(table, self._smallest.items()), _KEYS[table])
        if table == "models" and ("",) in found and not _has_costs(found["",]):
            del found["",]  # what has not bought anything yet has no model
        return found

    def _run_lines(self) -> Iterator[tuple[Line, Sum]]:
        """Yield the filtered lines with their runs, which are many more."""
        choice, takes = self._choice, self._choice.takes if self._choice.filters else None
        for line, found in self._book.lines.items():
            is_in_period = self._start <= line.day <= self._end and line.dag_id in choice.dag_ids
            if is_in_period and (takes is None or takes(line)):
                yield line, found

    def as_json(self, tables: Iterable[str]) -> dict[str, Any]:
        """Return everything except the days."""
        runs = self._table("runs")
        return {
            "totals": {**self.written(self.total), "runs": len(runs["entries"]) + runs["others"]["count"]},
            "before": self.written(self.before),
            **{table: self._table(table) for table in tables},
            "choices": {
                "dags": sorted(self.all_dags),
                "models": sorted(self.all_models - {""}),
                "connections": sorted(self.all_conn_ids - {""}),
                "groups": sorted(self.all_groups - {""}),
            },
            "unreadable": self.unreadable,
            "truncated": self._book.truncated,
            "counted_at": self._book.counted_at,
        }

    def days_as_json(self, stack: Stack) -> dict[str, Any]:
        """Return every day of the period, also those without costs, with the parts of each bar.

        A part is what was paid for images; costs of attempts without an image are a separate part.
        """
        name_of = _NAMES[stack]
        parts = added(self.lines.items(), lambda line: (line.day, name_of(line)))
        by_day = added(parts.items(), lambda key: key[0])
        names = _largest(added(parts.items(), lambda key: key[1]), MOST_PARTS)
        days = []
        for number in range((self._end - self._start).days + 1):
            day = self._start + timedelta(days=number)
            found = by_day.get(day, Sum())
            paid = [parts.get((day, name), Sum()).for_images_usd for name in names]
            others = found.for_images_usd - sum(paid, Decimal(0))
            amounts = [f"{amount:f}" for amount in [*paid, others]]
            days.append({"day": day.isoformat(), **self.written(found), "parts": amounts})
        return {"days": days, "series": names}

    def written(self, found: Sum) -> dict[str, Any]:
        """Return a sum as JSON types."""
        doubt = found.may_have_cost_usd
        return {
            "cost_usd": f"{found.cost_usd:f}",
            "failed_usd": f"{found.failed_usd:f}",
            "images": found.images,
            "per_image_usd": per_image(found),
            "reused": found.reused,
            "saved_usd": f"{found.saved_usd:f}",
            "untold": found.untold,
            "unknown_outcomes": found.unknown_outcomes,
            "may_have_cost_usd": None if doubt is None else f"{doubt:f}",
            "up_to_usd": None if doubt is None else f"{found.cost_usd + doubt:f}",
            "task_instances": found.parts if self.of_model else found.instances,
            "running": found.running,
            "incomplete": found.incomplete,
        }

    def _table(self, table: str) -> dict[str, Any]:
        # Kept, unlike the sums: those of all runs take megabytes.
        if table not in self._tables:
            self._tables[table] = self._made_table(table)
        return self._tables[table]

    def _made_table(self, table: str) -> dict[str, Any]:
        """Return the most expensive entries, each with its names, and the sum of the rest."""
        sums = self.sums(table)
        shown = heapq.nsmallest(MOST_ENTRIES, sums.items(), key=most_expensive)
        keys = {key for key, _ in shown}
        others = Sum()
        for key, found in sums.items():
            if key not in keys:
                others.add(found)
        entries = [{**dict(zip(TABLES[table], key, strict=True)), **self.written(found)} for key, found in shown]
        return {"entries": entries, "others": {"count": len(sums) - len(shown), **self.written(others)}}


_NAMES: dict[Stack, Callable[[Line], str]] = {"dag": lambda line: line.dag_id, "model": lambda line: line.model}
#: To the key of a table: from a line for days, runs and instances, else from DAG, task and model.
_KEYS: dict[str, Callable[[Any], Hashable]] = {
    "dags": lambda key: key[:1],
    "tasks": lambda key: key[:2],
    "models": lambda key: key[2:],
    "days": lambda key: (key[0].isoformat(),),
    "runs": lambda line: line[1:3],
    "instances": lambda line: line[1:5],
}


def most_expensive(item: tuple[Any, Sum]) -> tuple[Decimal, Any]:
    """Return a sort key that puts the most expensive first, including possible costs."""
    key, found = item
    return -(found.cost_usd + (found.may_have_cost_usd or Decimal(0))), key


def per_image(found: Sum) -> str | None:
    """Return the average cost of an image, to 12 decimals, including failed requests."""
    return f"{(found.cost_usd / found.images).quantize(Decimal('1e-12')):f}" if found.images else None


def _has_costs(found: Sum) -> bool:
    """Return whether a sum has costs, or may have."""
    return bool(found.cost_usd or found.untold or found.unknown_outcomes or found.incomplete)


def _largest(sums: Sums, most: int) -> list[str]:
    paid = [item for item in sums.items() if item[1].for_images_usd]
    return [str(name) for name, _ in heapq.nsmallest(most, paid, key=most_expensive)]
