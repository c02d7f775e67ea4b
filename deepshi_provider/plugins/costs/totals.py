"""Sums over cost sheets, exact to the last digit."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from deepshi_provider.plugins.costs.sheets import MOST_SHEETS, SheetRow, day_of

#: Entries of each list; the others are one entry.
MOST_ENTRIES = 20
#: What cannot be a sheet is not added up; how many there are is shown.
UNREADABLE = (msgspec.DecodeError, TypeError)

_ZERO = Decimal(0)


class _Model(msgspec.Struct, gc=False):
    model: str
    cost_usd: Decimal | None
    images: int
    reused: int
    saved_usd: Decimal
    unknown_outcomes: int
    untold: int = 0
    may_have_cost_usd: Decimal | None = None


class _Sheet(msgspec.Struct, gc=False):
    """What sums need of a :class:`deepshi_provider.costs.sheet.CostSheet`."""

    ended: bool
    cost_usd: Decimal | None
    saved_usd: Decimal
    unknown_outcomes: int
    may_have_cost_usd: Decimal | None
    models: list[_Model]
    untold: int = 0


_DECODER = msgspec.json.Decoder(_Sheet)


@dataclass(slots=True)
class Sum:
    """What some task instances have cost together.

    :ivar cost_usd: as far as the API reported it.
    :ivar untold: paid requests whose cost it did not report.
    :ivar unknown_outcomes: requests that may have been paid for.
    :ivar may_have_cost_usd: what both may come to beside ``cost_usd``; ``None`` if that is not known.
    """

    cost_usd: Decimal = _ZERO
    images: int = 0
    untold: int = 0
    unknown_outcomes: int = 0
    may_have_cost_usd: Decimal | None = _ZERO

    def add(self, part: _Sheet | _Model | Sum, images: int) -> None:
        """Add one task instance, its part by one model, or the sum of several."""
        if part.cost_usd is not None:
            self.cost_usd += part.cost_usd
        self.images += images
        if part.untold or part.unknown_outcomes:
            self.untold += part.untold
            self.unknown_outcomes += part.unknown_outcomes
            if self.may_have_cost_usd is not None:
                more = part.may_have_cost_usd
                self.may_have_cost_usd = None if more is None else self.may_have_cost_usd + more


def _sums() -> defaultdict[Any, Sum]:
    return defaultdict(Sum)


@dataclass
class Totals:
    """Adds up sheets, and returns the sums as JSON types, money as text.

    :param dag_id: count this DAG only.
    :param model: count what was paid for this model only.
    """

    dag_id: str | None = None
    model: str | None = None
    days: defaultdict[date, Sum] = field(default_factory=_sums)
    tasks: defaultdict[tuple[str, str], Sum] = field(default_factory=_sums)
    models: defaultdict[str, Sum] = field(default_factory=_sums)
    runs: defaultdict[tuple[str, str], Sum] = field(default_factory=_sums)
    all_dags: set[str] = field(default_factory=set)
    all_models: set[str] = field(default_factory=set)
    task_instances: int = 0
    running: int = 0
    not_told: int = 0
    reused: int = 0
    saved_usd: Decimal = _ZERO
    unreadable: int = 0
    truncated: bool = False

    def add_all(self, rows: Iterable[SheetRow]) -> None:
        """Add sheets until there are too many."""
        for count, row in enumerate(rows):
            if count == MOST_SHEETS:
                self.truncated = True
                return
            try:
                sheet = _decode(row.text)
            except UNREADABLE:
                self.unreadable += 1
            else:
                self._add(row, sheet)

    def _add(self, row: SheetRow, sheet: _Sheet) -> None:
        dag_id, run_id, task_id, _, timestamp, _ = row
        self.all_dags.add(dag_id)
        for entry in sheet.models:
            self.all_models.add(entry.model)
        if self.dag_id and dag_id != self.dag_id:
            return
        if self.model:
            mine = [entry for entry in sheet.models if entry.model == self.model]
            if not mine:
                return
            sheet = _of_models(sheet, mine)
        self._count(dag_id, run_id, task_id, day_of(timestamp), sheet)

    def _count(self, dag_id: str, run_id: str, task_id: str, day: date, sheet: _Sheet) -> None:
        images = 0
        for entry in sheet.models:
            self.models[entry.model].add(entry, entry.images)
            images += entry.images
            self.reused += entry.reused
        self.days[day].add(sheet, images)
        self.tasks[dag_id, task_id].add(sheet, images)
        self.runs[dag_id, run_id].add(sheet, images)
        self.task_instances += 1
        self.running += not sheet.ended
        self.not_told += sheet.untold > 0 or sheet.cost_usd is None
        self.saved_usd += sheet.saved_usd

    def as_json(self) -> dict[str, Any]:
        """Return all sums but the days."""
        # A task belongs to one DAG: so these are not counted sheet by sheet.
        dags: defaultdict[str, Sum] = defaultdict(Sum)
        everything = Sum()
        for (dag_id, _), entry in self.tasks.items():
            dags[dag_id].add(entry, entry.images)
            everything.add(entry, entry.images)
        return {
            "totals": {
                **_sums_of(everything),
                "task_instances": self.task_instances,
                "runs": len(self.runs),
                "running": self.running,
                "not_told": self.not_told,
                "reused": self.reused,
                "saved_usd": _text(self.saved_usd),
            },
            "dags": _most_expensive(dags, ("dag_id",)),
            "tasks": _most_expensive(self.tasks, ("dag_id", "task_id")),
            "models": _most_expensive(self.models, ("model",)),
            "runs": _most_expensive(self.runs, ("dag_id", "run_id")),
            "choices": {"dags": sorted(self.all_dags), "models": sorted(self.all_models)},
            "unreadable": self.unreadable,
            "truncated": self.truncated,
        }

    def days_as_json(self, start: date, end: date) -> list[dict[str, Any]]:
        """Return every day of a period, also those that cost nothing."""
        days = (start + timedelta(days=number) for number in range((end - start).days + 1))
        return [{"day": day.isoformat(), **_sums_of(self.days.get(day, Sum()))} for day in days]


def _decode(text: str) -> _Sheet:
    # Who sets an XCom through the REST API stores JSON inside a JSON text.
    return _DECODER.decode(msgspec.json.decode(text, type=str) if text.startswith('"') else text)


def _of_models(sheet: _Sheet, entries: list[_Model]) -> _Sheet:
    """Return the part of a sheet that some of its models make up."""
    part = Sum()
    for entry in entries:
        part.add(entry, entry.images)
    return _Sheet(
        ended=sheet.ended,
        cost_usd=None if all(entry.cost_usd is None for entry in entries) else part.cost_usd,
        untold=part.untold,
        saved_usd=sum((entry.saved_usd for entry in entries), _ZERO),
        unknown_outcomes=part.unknown_outcomes,
        may_have_cost_usd=part.may_have_cost_usd,
        models=entries,
    )


def _most_expensive(sums: Mapping[Any, Sum], names: tuple[str, ...]) -> dict[str, Any]:
    """Return the most expensive entries, each with its key under ``names``, and the sum of the rest."""
    # Not sorted as a whole: there may be as many runs as sheets.
    most_expensive = heapq.nsmallest(MOST_ENTRIES, sums.items(), key=lambda item: (-item[1].cost_usd, item[0]))
    shown = {key for key, _ in most_expensive}
    others = Sum()
    for key, entry in sums.items():
        if key not in shown:
            others.add(entry, entry.images)
    return {
        "entries": [
            {**dict(zip(names, key if isinstance(key, tuple) else (key,), strict=True)), **_sums_of(entry)}
            for key, entry in most_expensive
        ],
        "others": {"count": len(sums) - len(most_expensive), **_sums_of(others)},
    }


def _sums_of(entry: Sum) -> dict[str, Any]:
    return {
        "cost_usd": _text(entry.cost_usd),
        "images": entry.images,
        "untold": entry.untold,
        "unknown_outcomes": entry.unknown_outcomes,
        "may_have_cost_usd": _text(entry.may_have_cost_usd),
        "up_to_usd": None if entry.may_have_cost_usd is None else _text(entry.cost_usd + entry.may_have_cost_usd),
    }


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else f"{amount:f}"
