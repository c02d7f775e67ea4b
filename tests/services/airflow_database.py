"""Airflow's SQLite database, changed to behave like PostgreSQL for triggers."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path


def new_home(home: Path) -> Path:
    """Copy an empty, migrated database to a new ``AIRFLOW_HOME``; return the home."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "airflow.db").write_bytes(_migrated())
    return home


@functools.cache
def _migrated() -> bytes:
    """Return an empty database, made once for all tests, since that takes ten seconds of processor time."""
    if shared := os.environ.get("DEEPSHI_TESTS_HOME"):
        return _migrated_in(Path(shared))
    with tempfile.TemporaryDirectory() as own:
        return _migrated_in(Path(own))


def _migrated_in(folder: Path) -> bytes:
    """Return the database in a folder, which the first of several processes makes."""
    with (folder / "migrated.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        database = folder / "migrated" / "airflow.db"
        if not database.exists():
            home = Path(tempfile.mkdtemp(dir=folder))
            kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
            migrate({**kept, "AIRFLOW_HOME": str(home)}, home / "migrate.log", timeout=600)
            home.rename(database.parent)
        return database.read_bytes()


def create(database_path: Path) -> None:
    """Make an empty database, whose table of triggers never reuses an id."""
    new_home(database_path.parent)
    with contextlib.closing(sqlite3.connect(database_path)) as database, database:
        _never_use_trigger_ids_again(database)


def migrate(env: Mapping[str, str], log_path: Path, timeout: float) -> None:
    """Run ``airflow db migrate``, on any database."""
    with log_path.open("wb") as log:
        done = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"airflow db migrate failed:\n{log_path.read_text()}")


def _never_use_trigger_ids_again(database: sqlite3.Connection) -> None:
    """Replace the table of triggers, which is still empty, by one with AUTOINCREMENT.

    Without it, SQLite reuses the id of a deleted trigger for the next one
    (https://sqlite.org/autoinc.html). A task that is cleared and immediately deferred again would get
    its old trigger's id, and the triggerer, which compares ids, would never start the new trigger or
    cancel the old one. Production databases do not reuse ids.
    """
    rows = database.execute("SELECT sql FROM sqlite_master WHERE tbl_name = 'trigger' AND sql > ''")
    (table, *indexes) = [str(sql) for (sql,) in rows]
    counting = table.replace("id INTEGER NOT NULL", "id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT", 1).replace(
        "CONSTRAINT trigger_pkey PRIMARY KEY (id)", "CHECK (id > 0)", 1
    )
    database.execute('DROP TABLE "trigger"')
    for sql in (counting, *indexes):
        database.execute(sql)
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'").fetchone():
        raise RuntimeError(f"the table of triggers looks different: {table}")
