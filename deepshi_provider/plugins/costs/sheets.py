"""The cost sheets in Airflow's database: which rows a question is about, and how they are read.

Every query goes through an index: ``idx_xcom_key`` over the XComs' keys, or, for one DAG run, the primary key, which
begins with the run. The sheets come as text and are read by ``msgspec``, which skips what is not asked for; neither the
database nor SQLAlchemy parses JSON.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Set
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from typing import Any, NamedTuple

from sqlalchemy import DateTime, Select, Text, cast, select, type_coerce
from sqlalchemy.orm import Session

from deepshi_provider.costs.sheet import XCOM_KEY
from deepshi_provider.plugins.costs.access import DagRun, XComModel

#: Sheets that one answer reads at most. Beyond it, the answer is marked as incomplete.
MOST_SHEETS = 250_000

_ROWS_AT_ONCE = 5_000
_XCOM = XComModel.__table__.c


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Which sheets a question is about: those of one run, or those of a period.

    :param dag_ids: the DAGs that the user may read.
    :param start: first day, UTC; not used for a run.
    :param end: last day, UTC, included.
    :param run: DAG id and run id.
    :param key: of the XComs that are meant.
    """

    dag_ids: Set[str]
    start: date
    end: date
    run: tuple[str, str] | None = None
    key: str = XCOM_KEY

    def narrow(self, *columns: Any) -> Select[Any]:
        """Return a query for columns of the XComs in this scope.

        An expression where a column would do keeps databases from a worse index: that over all keys for a run's few
        rows, or that over all XComs of some DAGs.
        """
        if self.run:
            dag_id, run_id = self.run
            found = select(DagRun.id).where(
                DagRun.dag_id == dag_id, DagRun.run_id == run_id, DagRun.dag_id.in_(self.dag_ids & {dag_id})
            )
            return select(*columns).where(_XCOM.dag_run_id == found.scalar_subquery(), _XCOM.key + "" == self.key)
        return select(*columns).where(
            _XCOM.key == self.key,
            (_XCOM.dag_id + "").in_(self.dag_ids),
            _XCOM.timestamp >= _midnight(self.start),
            _XCOM.timestamp < _midnight(self.end + timedelta(days=1)),
        )


class SheetRow(NamedTuple):
    """One sheet as it lies in the database: the database's own rows, which have these names; ``text`` is JSON."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    timestamp: datetime
    text: str


# Cast, the JSON stays text. Airflow's own type of time takes a third of a large answer's time.
_COLUMNS = (
    _XCOM.dag_id,
    _XCOM.run_id,
    _XCOM.task_id,
    _XCOM.map_index,
    type_coerce(_XCOM.timestamp, DateTime).label("timestamp"),
    cast(_XCOM.value, Text).label("text"),
)


def sheet_rows(session: Session, scope: Scope, limit: int = MOST_SHEETS + 1) -> Iterator[SheetRow]:
    """Yield the sheets of a scope in no order; memory does not grow with their number."""
    query = scope.narrow(*_COLUMNS).limit(limit).execution_options(yield_per=_ROWS_AT_ONCE)
    # Not through the session, whose objects would take as long as the database.
    yield from typing.cast("Iterator[SheetRow]", session.connection().execute(query))


def newest_rows(session: Session, scope: Scope, limit: int) -> list[SheetRow]:
    """Return the sheets that were written last, the newest first."""
    order = (_XCOM.timestamp.desc(), _XCOM.dag_id, _XCOM.task_id, _XCOM.map_index)
    rows = session.connection().execute(scope.narrow(*_COLUMNS).order_by(*order).limit(limit))
    return typing.cast("list[SheetRow]", list(rows))


def one_row(
    session: Session, dag_ids: Set[str], dag_id: str, run_id: str, task_id: str, map_index: int, key: str = XCOM_KEY
) -> str | None:
    """Return the text of one task instance's sheet, or of another of its XComs, or ``None``."""
    scope = Scope(dag_ids=dag_ids, start=date.min, end=date.min, run=(dag_id, run_id), key=key)
    query = scope.narrow(cast(_XCOM.value, Text))
    text: str | None = session.scalar(query.where(_XCOM.task_id == task_id, _XCOM.map_index == map_index))
    return text


def utc(timestamp: datetime) -> datetime:
    """Return a database's time as UTC: SQLite gives no time zone, PostgreSQL that of its session."""
    return timestamp.astimezone(timezone.utc) if timestamp.tzinfo else timestamp.replace(tzinfo=timezone.utc)


def day_of(timestamp: datetime) -> date:
    """Return the day of a database's time, UTC."""
    return (timestamp if timestamp.tzinfo is None else utc(timestamp)).date()


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=timezone.utc)
