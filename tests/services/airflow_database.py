"""Airflow's SQLite database, made to behave as PostgreSQL where triggers need it."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def create(database_path: Path, env: Mapping[str, str], log_path: Path, timeout: float) -> None:
    """Run ``airflow db migrate`` and give the table of triggers ids that are never used again.

    :param env: Airflow's environment, with this database in it.
    :param timeout: Seconds.
    """
    migrate(env, log_path, timeout)
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
    """Build the table of triggers, which is still empty, again with AUTOINCREMENT.

    Without it SQLite gives the id of a deleted trigger to the next one
    (https://sqlite.org/autoinc.html). A task that is cleared and deferred again at once then gets
    its old trigger's id, and the triggerer, which compares ids, never starts the new trigger and
    never cancels the old one. Databases for production count on.
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
