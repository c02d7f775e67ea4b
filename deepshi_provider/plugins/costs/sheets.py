"""Queries for the cost sheets in Airflow's database.

Every query uses an index: ``idx_xcom_key`` over the XComs' keys, or, for known DAG runs, the primary key, which begins
with the run. The sheets are returned as text and parsed by ``msgspec``, which skips unneeded fields; neither the
database nor SQLAlchemy parses JSON.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import DateTime, Select, Text, cast, func, or_, select, true, type_coerce
from sqlalchemy.orm import Session

from deepshi_provider.costs.sheet import XCOM_KEY
from deepshi_provider.plugins.costs.access import DagRun, XComModel

#: Maximum number of sheets per answer. If there are more, the answer is marked as incomplete.
MOST_SHEETS = 2_000_000

_ROWS_AT_ONCE = 2_000
#: Search for the newest sheets: number of runs in the first query, which doubles each time, and number of queries.
_FIRST_RUNS = 20
_MOST_STEPS = 8
_XCOM = XComModel.__table__.c


@dataclass(frozen=True, kw_only=True)
class Scope:
    """The sheets of one run, or of a period.

    :param dag_ids: the requested DAGs that the reader may read; ``None`` means all, for sums that are filtered later.
    :param start: first day, UTC; not used for a run.
    :param end: last day, UTC, inclusive.
    :param run: DAG id and run id.
    :param key: key of the XComs.
    :param word: letters that the sheet's text contains, ignoring case.
    """

    dag_ids: Set[str] | None
    start: date
    end: date
    run: tuple[str, str] | None = None
    task_id: str | None = None
    map_index: int | None = None
    word: str | None = None
    key: str = XCOM_KEY

    def narrow(self, *columns: Any) -> Select[Any]:
        """Return a query for columns of the XComs in this scope.

        Some conditions are expressions instead of columns, to keep databases from using a worse index: the one over
        keys for the few rows of a run, or the one over all XComs of some DAGs.
        """
        if self.run:
            dag_id, run_id = self.run
            found = select(DagRun.id).where(
                DagRun.dag_id == dag_id, DagRun.run_id == run_id, self._readable(DagRun.dag_id)
            )
            return self.narrow_to_run(_XCOM.dag_run_id == found.scalar_subquery(), *columns)
        return self._narrow(_XCOM.key == self.key, *columns).where(self._readable(_XCOM.dag_id + ""), *self._in_time())

    def narrow_to_run(self, is_of_run: Any, *columns: Any) -> Select[Any]:
        """Return a query for columns of the XComs of runs, which a condition on their row ids selects."""
        return self._narrow(is_of_run, *columns).where(_XCOM.key + "" == self.key)

    def _narrow(self, first: Any, *columns: Any) -> Select[Any]:
        query = select(*columns).where(first)
        if self.task_id is not None:
            query = query.where(_XCOM.task_id + "" == self.task_id)
        if self.map_index is not None:
            query = query.where(_XCOM.map_index == self.map_index)
        if self.word:
            query = query.where(func.lower(cast(_XCOM.value, Text)).contains(self.word.lower(), autoescape=True))
        return query

    def newest_runs(self, count: int, before: int | None) -> Select[Any]:
        """Return a query for the row ids of the newest runs that may have sheets in this period, below an id."""
        query = select(DagRun.id).where(
            self._readable(DagRun.dag_id), or_(DagRun.end_date.is_(None), DagRun.end_date >= _midnight(self.start))
        )
        if before is not None:
            query = query.where(DagRun.id < before)
        return query.order_by(DagRun.id.desc()).limit(count)

    def newest_of(self, runs: Sequence[int], *columns: Any) -> Select[Any]:
        """Return a query for columns of the XComs of some runs in this period, those of the newest run first."""
        query = self.narrow_to_run(_XCOM.dag_run_id.in_(runs), *columns).where(*self._in_time())
        return query.order_by(_XCOM.dag_run_id.desc())

    def _in_time(self) -> tuple[Any, Any]:
        return _XCOM.timestamp >= _midnight(self.start), _XCOM.timestamp < _midnight(self.end + timedelta(days=1))

    def _readable(self, column: Any) -> Any:
        return true() if self.dag_ids is None else column.in_(self.dag_ids)


class SheetRow(NamedTuple):
    """The type of the database's rows, one per sheet; ``text`` is JSON."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    timestamp: datetime
    text: str


# The cast keeps the JSON as text. Airflow's own type for times would take a third of the time of a large answer.
_COLUMNS = (
    _XCOM.dag_id,
    _XCOM.run_id,
    _XCOM.task_id,
    _XCOM.map_index,
    type_coerce(_XCOM.timestamp, DateTime).label("timestamp"),
    cast(_XCOM.value, Text).label("text"),
)


def sheet_rows(session: Session, scope: Scope) -> Iterator[SheetRow]:
    """Yield the sheets of a scope in arbitrary order; memory does not grow with their number."""
    query = scope.narrow(*_COLUMNS).limit(MOST_SHEETS + 1).execution_options(yield_per=_ROWS_AT_ONCE)
    # Without the session, whose objects would take as much time as the database.
    yield from typing.cast("Iterator[SheetRow]", session.connection().execute(query))


def newest_rows(session: Session, scope: Scope) -> Iterator[SheetRow]:
    """Yield the sheets of a scope, those of the newest runs first; for a period, of at most some thousands of runs.

    Sorting by the sheets' own time would need all sheets of the period, since there is no index for it.
    """
    if scope.run:
        yield from _by_time(session, scope.narrow(*_COLUMNS))
        return
    before: int | None = None
    for step in range(_MOST_STEPS):
        count = _FIRST_RUNS * 2**step
        runs = list(session.scalars(scope.newest_runs(count, before)))
        if runs:
            yield from _by_time(session, scope.newest_of(runs, *_COLUMNS))
        if len(runs) < count:
            return
        before = runs[-1]


def _by_time(session: Session, query: Select[Any]) -> Iterator[SheetRow]:
    """Yield the rows of a query, sorted within each batch in memory, the newest first."""
    found = session.connection().execute(query.execution_options(yield_per=_ROWS_AT_ONCE))
    for rows in found.partitions():
        some = typing.cast("list[SheetRow]", rows)
        yield from sorted(
            some, key=lambda row: (-utc(row.timestamp).timestamp(), row.dag_id, row.task_id, row.map_index)
        )


def last_rows(session: Session, scope: Scope, limit: int) -> list[SheetRow]:
    """Return the latest XComs of a scope, the newest first; for a key with few XComs."""
    query = scope.narrow(*_COLUMNS).order_by(_XCOM.timestamp.desc()).limit(limit)
    return typing.cast("list[SheetRow]", list(session.connection().execute(query)))


def one_row(
    session: Session, dag_ids: Set[str], dag_id: str, run_id: str, task_id: str, map_index: int, key: str = XCOM_KEY
) -> SheetRow | None:
    """Return one task instance's sheet, or another of its XComs; ``None`` if there is none."""
    scope = Scope(dag_ids=dag_ids, start=date.min, end=date.min, run=(dag_id, run_id), key=key)
    query = scope.narrow(*_COLUMNS).where(_XCOM.task_id == task_id, _XCOM.map_index == map_index)
    return typing.cast("SheetRow | None", session.connection().execute(query).first())


def json_of(text: str) -> str:
    """Return the JSON in an XCom's text: an XCom that is set through the REST API is JSON inside a JSON string.

    :raises msgspec.DecodeError: the text is not JSON.
    """
    return msgspec.json.decode(text, type=str) if text.startswith('"') else text


def utc(timestamp: datetime) -> datetime:
    """Return a database's time as UTC: SQLite returns no time zone, PostgreSQL that of its session."""
    return timestamp.astimezone(timezone.utc) if timestamp.tzinfo else timestamp.replace(tzinfo=timezone.utc)


def day_of(timestamp: datetime) -> date:
    """Return the day of a database's time, UTC."""
    return (timestamp if timestamp.tzinfo is None else utc(timestamp)).date()


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=timezone.utc)
