"""Keys, prompts and pictures of all tests here are not in logs or database. Runs last."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.triggers.in_airflow.world import API_KEY, SECRET_WORD, World

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

#: Matches what may be 1 kB of base64: long text without blanks, with upper and lower case and digits.
BASE64 = re.compile(r"[A-Za-z0-9+/]{1000,}={0,2}")


def dumped(world: World) -> Iterator[tuple[str, str]]:
    """Return the name and text of each log, and of each statement of the database dump."""
    for path in world.airflow.all_log_files():
        yield str(path), path.read_text(errors="replace")
    with closing(sqlite3.connect(f"file:{world.airflow.database_path}?mode=ro", uri=True)) as database:
        for statement in database.iterdump():
            yield statement[:60], statement


def test_neither_database_nor_logs_contain_the_key_or_a_picture(world: World) -> None:
    run = world.start_slowly("deferred")
    run.wait_until_paid()
    places = list(dumped(world))
    assert any(name.startswith('INSERT INTO "trigger"') for name, _ in places)
    assert len([name for name, _ in places if name.endswith(".log")]) > 5
    for name, text in places:
        assert API_KEY not in text, name
        assert not BASE64.search(text), name
    run.mark("failed")


def test_prompts_are_neither_in_trigger_arguments_nor_in_logs(world: World) -> None:
    run = world.start_slowly("deferred")
    run.wait_until_paid()
    with closing(sqlite3.connect(world.airflow.database_path)) as database:
        ((arguments,),) = database.execute('SELECT kwargs FROM "trigger"').fetchall()
        kept = database.execute("SELECT next_kwargs FROM task_instance WHERE next_kwargs IS NOT NULL").fetchall()
    named = json.loads(arguments)  # under "__var" before Airflow 3.2
    assert set(named.get("__var", named)) == {"job_uri", "storage_conn_id", "deepshi_conn_id", "deadline"}
    assert SECRET_WORD not in f"{arguments} {kept}"
    # The scheduler logs each run with its conf, where these tests put their prompts.
    for path in world.airflow.all_log_files():
        if path.name == "scheduler.log":
            continue
        assert SECRET_WORD not in path.read_text(errors="replace"), path
    run.mark("failed")
