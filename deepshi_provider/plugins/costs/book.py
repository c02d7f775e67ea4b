"""Adds up cost sheets, exactly, into lines: one for each day, run, task and model."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from deepshi_provider.costs.money import MOST_DIGITS
from deepshi_provider.plugins.costs.sheets import MOST_SHEETS, SheetRow, day_of, json_of

#: Errors of invalid sheets, which are counted but not added up.
UNREADABLE = (msgspec.DecodeError, TypeError)

#: A long count lets other threads of the API server run: so many rows take about two milliseconds.
_ROWS_AT_ONCE = 100
_PAUSE_S = 0.0001

_ZERO = Decimal(0)
#: USD.
_TOO_MUCH = Decimal(10) ** MOST_DIGITS
_T = TypeVar("_T")


class ModelPart(msgspec.Struct, gc=False):
    """The fields of a :class:`deepshi_provider.costs.sheet.ModelCosts` that sums need."""

    model: str
    cost_usd: Decimal | None
    images: int
    reused: int
    saved_usd: Decimal
    unknown_outcomes: int
    untold: int = 0
    may_have_cost_usd: Decimal | None = None
    failed_usd: Decimal = _ZERO


class _Shown(msgspec.Struct, gc=False):
    prompt: str | None = None


class Sheet(msgspec.Struct, gc=False):
    """The fields of a :class:`deepshi_provider.costs.sheet.CostSheet` that sums need."""

    ended: bool
    cost_usd: Decimal | None
    saved_usd: Decimal
    unknown_outcomes: int
    may_have_cost_usd: Decimal | None
    models: list[ModelPart]
    untold: int = 0
    images: list[_Shown] = []
    deepshi_conn_id: str | None = None
    budget_group: str | None = None


_DECODER = msgspec.json.Decoder(Sheet)


def decode(text: str) -> Sheet:
    """Return the sheet in an XCom's text.

    :raises: one of :data:`UNREADABLE`.
    """
    sheet = _DECODER.decode(json_of(text))
    for part in (*sheet.models, _whole(sheet)):
        check_amounts(part.cost_usd, part.saved_usd, part.may_have_cost_usd, part.failed_usd)
    return sheet


def check_amounts(*amounts: Decimal | None) -> None:
    """Check that sums can hold amounts in USD; anyone who may write XComs may have written them.

    :raises TypeError: one is negative, absurd or not a number.
    """
    try:
        are_valid = all(amount is None or 0 <= amount < _TOO_MUCH for amount in amounts)
    except InvalidOperation:  # a comparison with NaN
        are_valid = False
    if not are_valid:
        raise TypeError("Amounts in USD are needed")


class Sum(msgspec.Struct, gc=False):
    """The total cost of some task instances.

    :ivar cost_usd: as far as the API reported it.
    :ivar failed_usd: the part of it paid for attempts without an image.
    :ivar images: number of images bought.
    :ivar reused: number of images that other task instances had bought.
    :ivar untold: paid requests whose cost the API did not report.
    :ivar unknown_outcomes: requests that may have been paid for.
    :ivar may_have_cost_usd: the possible cost of both, in addition to ``cost_usd``; ``None`` if unknown.
    :ivar instances: number of task instances, each counted once, for its first model.
    :ivar parts: number of task instances, each counted for each of its models.
    :ivar running: number of task instances that have not ended, counted like ``instances``; likewise ``incomplete``,
        those with unreported costs.
    """

    cost_usd: Decimal = _ZERO
    failed_usd: Decimal = _ZERO
    images: int = 0
    reused: int = 0
    saved_usd: Decimal = _ZERO
    untold: int = 0
    unknown_outcomes: int = 0
    may_have_cost_usd: Decimal | None = _ZERO
    instances: int = 0
    parts: int = 0
    running: int = 0
    incomplete: int = 0

    @property
    def for_images_usd(self) -> Decimal:
        """What was paid for images that were received."""
        return self.cost_usd - self.failed_usd

    def take(self, part: ModelPart) -> None:
        """Add the cost of a task instance for one model."""
        if part.cost_usd is not None:
            self.cost_usd += part.cost_usd
        if part.failed_usd:
            self.failed_usd += part.failed_usd
        self.images += part.images
        if part.reused:
            self.reused += part.reused
            self.saved_usd += part.saved_usd
        if part.untold or part.unknown_outcomes:
            self.untold += part.untold
            self.unknown_outcomes += part.unknown_outcomes
            self._doubt(part.may_have_cost_usd)
        self.parts += 1

    def add(self, other: Sum) -> None:
        """Add another sum."""
        self.cost_usd += other.cost_usd
        if other.failed_usd:
            self.failed_usd += other.failed_usd
        self.images += other.images
        self.instances += other.instances
        self.parts += other.parts
        if other.reused:
            self.reused += other.reused
            self.saved_usd += other.saved_usd
        if other.untold or other.unknown_outcomes:
            self.untold += other.untold
            self.unknown_outcomes += other.unknown_outcomes
            self._doubt(other.may_have_cost_usd)
        self.running += other.running
        self.incomplete += other.incomplete

    def _doubt(self, more: Decimal | None) -> None:
        if self.may_have_cost_usd is not None:
            self.may_have_cost_usd = None if more is None else self.may_have_cost_usd + more


class Line(NamedTuple):
    """Key; ``map_index`` is ``None`` if task instances are not distinguished; ``run_id`` is empty if runs are not.

    ``conn_id`` is the Deepshi connection, or empty if several paid or the sheet does not name it.
    """

    day: date
    dag_id: str
    run_id: str
    task_id: str
    map_index: int | None
    conn_id: str
    group: str
    model: str


@dataclass
class Book:
    """The lines of a period, or of one run.

    :ivar by_instance: whether lines distinguish task instances.
    :ivar days: sums of the lines without distinguishing runs, from which all tables but that of runs are added up; the
        same as ``lines`` if task instances are distinguished.
    :ivar runs_from: lines of earlier days do not distinguish runs; they are only compared with.
    :ivar unreadable: number of invalid sheets by day.
    :ivar counted_at: unix seconds at which counting began; later sheets are not included.
    :ivar seconds: how long counting took.
    :ivar views: what readers have made of it, so that the same page is not added up twice.
    """

    by_instance: bool = False
    lines: dict[Line, Sum] = field(default_factory=dict)
    days: dict[Line, Sum] = field(default_factory=dict)
    runs_from: date = date.min
    unreadable: Counter[date] = field(default_factory=Counter)
    truncated: bool = False
    counted_at: float = field(default_factory=time.time)
    seconds: float = 0.0
    views: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    _shared: dict[Any, Any] = field(default_factory=dict, repr=False)

    def count(self, rows: Iterable[SheetRow], is_wanted: Callable[[SheetRow, Sheet], bool] | None = None) -> Book:
        """Add sheets, up to the maximum number; return the book."""
        begun = time.monotonic()
        for number, row in enumerate(rows):
            if number == MOST_SHEETS:
                self.truncated = True
                break
            if number % _ROWS_AT_ONCE == _ROWS_AT_ONCE - 1:
                time.sleep(_PAUSE_S)
            try:
                sheet = decode(row.text)
            except UNREADABLE:
                self.unreadable[day_of(row.timestamp)] += 1
            else:
                if is_wanted is None or is_wanted(row, sheet):
                    self._enter(row, sheet)
        for found in self.lines.values():  # many runs cost the same
            found.cost_usd = self._shared.setdefault(str(found.cost_usd), found.cost_usd)
        self._shared.clear()
        self.days = self.lines if self.by_instance else added(self.lines.items(), _without_run)
        self.seconds = time.monotonic() - begun
        return self

    def _enter(self, row: SheetRow, sheet: Sheet) -> None:
        dag_id, run_id, task_id, map_index, timestamp, _ = row
        day = self._same(day_of(timestamp))
        where = (
            day,
            self._same(dag_id),
            self._same(run_id) if day >= self.runs_from else "",
            self._same(task_id),
            map_index if self.by_instance else None,
            self._same(sheet.deepshi_conn_id or ""),
            self._same(sheet.budget_group or ""),
        )
        for number, part in enumerate(sheet.models or [_whole(sheet)]):
            line = Line(*where, self._same(part.model))
            found = self.lines.get(line)
            if found is None:
                found = self.lines[line] = Sum()
            found.take(part)
            if number == 0:
                found.instances += 1
                found.running += not sheet.ended
                found.incomplete += sheet.untold > 0 or sheet.cost_usd is None

    def _same(self, value: _T) -> _T:
        """Return one object per value, which all lines share."""
        return cast("_T", self._shared.setdefault(value, value))


def added(lines: Iterable[tuple[Any, Sum]], key_of: Callable[[Any], Any]) -> dict[Any, Sum]:
    """Return the sums of the lines with the same key; that of one line is the line's own, so none must be changed."""
    sums: dict[Any, Sum] = {}
    own = set()
    for line, found in lines:
        key = key_of(line)
        so_far = sums.get(key)
        if so_far is None:
            sums[key] = found
            continue
        if key not in own:
            own.add(key)
            first, so_far = so_far, Sum()
            so_far.add(first)
            sums[key] = so_far
        so_far.add(found)
    return sums


def _without_run(line: Line) -> Line:
    day, dag_id, _, task_id, map_index, conn_id, group, model = line
    return Line(day, dag_id, "", task_id, map_index, conn_id, group, model)


def _whole(sheet: Sheet) -> ModelPart:
    """Return a sheet without models, such as one whose store could not be read, as the part of an unnamed model."""
    return ModelPart(
        model="",
        cost_usd=sheet.cost_usd,
        images=0,
        reused=0,
        saved_usd=sheet.saved_usd,
        unknown_outcomes=sheet.unknown_outcomes,
        untold=sheet.untold,
        may_have_cost_usd=sheet.may_have_cost_usd,
    )
