"""Add a history to the throw-away Airflow of ``make ui``: copies of its runs, spread over 60 days.

Traffic grows, weekends are quiet, and in one week requests fail after they were paid for. The costs of the copies are
invented; their pictures are those of the real runs.
"""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

DAYS = 60
#: Days ago between which requests failed.
_FAILED_WEEK = (24, 18)
_COPIED_XCOMS = ("deepshi_cost", "cost_usd")
_TIMES = ("_at", "_date", "run_after", "timestamp", "data_interval_start", "data_interval_end", "queued_dttm")

Row = dict[str, Any]


def add_history(database: Path, runs: Sequence[tuple[str, str]]) -> Decimal:
    """Copy runs into the past, and return the cost of the last 30 days, in USD.

    :param database: Airflow's, SQLite.
    :param runs: pairs of DAG id and run id, of runs that succeeded.
    """
    chance = random.Random(60)  # noqa: S311 -- the same past each time
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.row_factory = sqlite3.Row
        models = [_Model(connection, *run) for run in runs]
        spent = Decimal(0)
        for back in range(DAYS, 0, -1):
            for number in range(_runs_on(back, chance)):
                copied = chance.choice(models).copy(back, number, chance)
                spent += copied if back < 30 else 0
        return spent


def _runs_on(back: int, chance: random.Random) -> int:
    """Return the number of runs on a day: growing, and low on weekends."""
    day = datetime.now(timezone.utc) - timedelta(days=back)
    growth = 2 + 7 * (DAYS - back) / DAYS
    quiet = 0.25 if day.weekday() >= 5 else 1.0
    return max(0, round(growth * quiet * chance.uniform(0.7, 1.3)))


class _Model:
    """A real run, to copy."""

    def __init__(self, connection: sqlite3.Connection, dag_id: str, run_id: str) -> None:
        self._db = connection
        self._dag_id, self._run_id = dag_id, run_id
        (self._run,) = self._rows("dag_run")
        self._tasks = self._rows("task_instance")
        self._xcoms = [xcom for xcom in self._rows("xcom") if xcom["key"] in _COPIED_XCOMS]
        self._began = _time(self._run["start_date"])

    def copy(self, back: int, number: int, chance: random.Random) -> Decimal:
        """Add one run, some days back, and return what it has cost, in USD."""
        day = datetime.now(timezone.utc).replace(hour=6, minute=0, second=0, microsecond=0) - timedelta(days=back)
        begins = day + timedelta(minutes=number * 47 + chance.randrange(40))
        later = begins - self._began
        fails = _FAILED_WEEK[0] >= back >= _FAILED_WEEK[1] and chance.random() < 0.7
        run_id = f"scheduled__{begins.isoformat()}"
        state = {"state": "failed"} if fails else {}
        row = {**self._run, **state, "id": None, "run_id": run_id, "run_type": "scheduled"}
        dag_run_id = self._insert("dag_run", {**_moved(row, later), "logical_date": _text(begins)})
        costly = {(xcom["task_id"], xcom["map_index"]) for xcom in self._xcoms}
        for task in self._tasks:
            is_hit = fails and (task["task_id"], task["map_index"]) in costly
            changed = {"id": uuid.uuid4().hex, "run_id": run_id, **(state if is_hit else {})}
            self._insert("task_instance", {**_moved(task, later), **changed})
        spent = Decimal(0)
        for xcom in self._xcoms:
            copied: Row = {**_moved(xcom, later), "dag_run_id": dag_run_id, "run_id": run_id}
            if xcom["key"] == "deepshi_cost":
                sheet = json.loads(xcom["value"])
                copied["value"] = json.dumps(_sheet(sheet, run_id, fails=fails, chance=chance))
                spent += Decimal(sheet["cost_usd"] or 0)
            self._insert("xcom", copied)
        return spent

    def _rows(self, table: str) -> list[Row]:
        query = f"SELECT * FROM {table} WHERE dag_id = ? AND run_id = ?"  # noqa: S608 -- a name from above
        return [dict(row) for row in self._db.execute(query, (self._dag_id, self._run_id))]

    def _insert(self, table: str, row: Row) -> int | None:
        names, marks = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
        query = f"INSERT INTO {table} ({names}) VALUES ({marks})"  # noqa: S608 -- columns of the table itself
        return self._db.execute(query, list(row.values())).lastrowid


def _sheet(sheet: Row, run_id: str, *, fails: bool, chance: random.Random) -> Row:
    """Return the cost sheet of a copy; a copy that fails has paid for requests without an image."""
    sheet = {**sheet, "run_id": run_id}
    if not fails:
        return sheet
    lost = chance.random() < 0.3
    models = [
        {
            **model,
            "images": 0,
            "failed_usd": model["cost_usd"],
            "unknown_outcomes": int(lost),
            "may_have_cost_usd": model["cost_usd"] if lost else "0",
        }
        for model in sheet["models"]
    ]
    doubt = sum((Decimal(model["may_have_cost_usd"] or 0) for model in models), Decimal(0))
    unknown = sum(model["unknown_outcomes"] for model in models)
    return {**sheet, "images": [], "models": models, "unknown_outcomes": unknown, "may_have_cost_usd": f"{doubt:f}"}


def _moved(row: Row, later: timedelta) -> Row:
    """Return a row with all its times moved."""
    change: Callable[[Any], Any] = lambda value: _text(_time(value) + later) if value else value  # noqa: E731
    return {name: change(value) if name.endswith(_TIMES) else value for name, value in row.items()}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")
