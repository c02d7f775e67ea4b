"""The page with MariaDB as Airflow's database, whose dialect is MySQL's."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection

from deepshi_provider.plugins.costs.access import XComModel
from deepshi_provider.plugins.costs.sheets import Scope
from tests.plugins.server import PageServer, api_server
from tests.plugins.site import PREFIX, sheet
from tests.services.mariadb import MariaDB

pytestmark = [pytest.mark.load, pytest.mark.timeout(1200)]  # its driver is not installed for other tests

RUNS, TASKS, OTHERS = 60, 20, 30
COST = Decimal("0.0135")
DAG = """
INSERT INTO dag (dag_id, is_paused, is_stale, bundle_name, max_active_tasks, max_consecutive_failed_dag_runs,
                 has_task_concurrency_limits, timetable_type, partition_mapper_info, owners)
VALUES (%s, false, false, 'dags-folder', 16, 0, false, '', '[]', %s)
"""
RUN = """
INSERT INTO dag_run (id, dag_id, run_id, run_type, state, run_after, start_date, end_date, clear_number)
VALUES (%s, %s, %s, 'manual', 'success', %s, %s, %s, 0)
"""
XCOM = """
INSERT INTO xcom (dag_run_id, task_id, map_index, `key`, dag_id, run_id, value, timestamp)
VALUES (%s, 'draw', %s, %s, %s, %s, %s, %s)
"""


def run_id(number: int) -> str:
    return f"manual__{number:02}+00:00"


def noon(days_ago: int) -> datetime:
    return datetime.now(timezone.utc).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=days_ago)


def fill(database: Connection) -> None:
    """Write a run per day to two DAGs in turn, with a sheet per task instance, and other XComs beside it."""
    run = database.exec_driver_sql
    run("SET FOREIGN_KEY_CHECKS = 0")
    run("INSERT IGNORE INTO dag_bundle (name, active) VALUES ('dags-folder', true)")
    for dag_id, owner in (("shop", "ada, bob"), ("Shop", "eve")):
        run(DAG, (dag_id, owner))
    run("INSERT INTO dag_tag (name, dag_id) VALUES ('Photos', 'shop')")
    for number in range(RUNS):
        dag_id, ended = ("shop", "Shop")[number % 2], noon(number)
        identity = (dag_id, run_id(number))
        run(RUN, (RUNS - number, *identity, ended, ended, ended))
        rows = [
            (RUNS - number, index, "deepshi_cost", *identity, json.dumps(written(number, index)), ended)
            for index in range(TASKS)
        ]
        rows += [
            (RUNS - number, index, f"other_{k}", *identity, "1", ended) for index in range(TASKS) for k in range(OTHERS)
        ]
        run(XCOM, rows)
    run("ANALYZE TABLE xcom, dag_run")


def written(number: int, index: int) -> dict[str, Any]:
    place = f"s3://bucket/{number}/{index}"
    made = sheet(f"{place}/image-0.png", output_uri=place, cost_usd=str(COST))
    made["images"][0]["prompt"] = f'ein 100%_schönes "Bild" \\ Nr {index} ☕'
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    home = tmp_path_factory.mktemp("mariadb")
    with MariaDB() as mariadb, api_server(mariadb.url, home, is_new=True) as started:
        engine = create_engine(mariadb.url)
        with engine.begin() as database:
            fill(database)
        engine.dispose()
        yield started


def plan(server: PageServer, query: Any) -> dict[str, str]:
    """Return the index that the database uses for each table of a query."""
    dialect = mysql.dialect()
    text = str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True})).replace("%", "%%")
    engine = create_engine(server.url)
    with closing(engine.raw_connection()) as database, closing(database.cursor()) as cursor:
        cursor.execute(f"EXPLAIN {text}")
        names = [column[0] for column in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    engine.dispose()
    return {row["table"]: row["key"] for row in found}


def test_queries_use_an_index(server: PageServer) -> None:
    columns = (XComModel.__table__.c.value,)
    today = datetime.now(timezone.utc).date()
    period = Scope(dag_ids={"shop"}, start=today - timedelta(days=29), end=today)
    assert plan(server, period.narrow(*columns)) == {"xcom": "idx_xcom_key"}
    run = Scope(dag_ids={"shop"}, start=date.min, end=date.min, run=("shop", run_id(0)))
    assert plan(server, run.narrow(*columns))["xcom"] == "PRIMARY"
    assert plan(server, period.newest_of([1, 2], *columns)) == {"xcom": "PRIMARY"}


def test_sums_are_exact_on_each_day(server: PageServer) -> None:
    found, _ = server.get("/data", anew=True)
    assert (found["totals"]["cost_usd"], found["totals"]["runs"]) == (f"{30 * TASKS * COST:f}", 30)
    assert [day["cost_usd"] for day in found["days"]] == [f"{TASKS * COST:f}"] * 30
    assert found["before"]["cost_usd"] == f"{30 * TASKS * COST:f}"
    assert {entry["dag_id"]: entry["images"] for entry in found["dags"]["entries"]} == {
        "shop": 15 * TASKS,
        "Shop": 15 * TASKS,
    }
    assert (found["choices"]["tags"], found["choices"]["owners"]) == (["Photos"], ["ada", "bob", "eve"])
    month, _ = server.get("/month")
    assert Decimal(month["spent_usd"]) == datetime.now(timezone.utc).day * TASKS * COST


@pytest.mark.parametrize(
    ("filters", "instances"),
    [
        ({"dag_id": "shop"}, 15 * TASKS),
        ({"dag_id": "SHOP"}, 0),
        ({"tag": "Photos"}, 15 * TASKS),
        ({"owner": "bob"}, 15 * TASKS),
        ({"task_id": "draw"}, 30 * TASKS),
        ({"dag_id": "shop", "run_id": run_id(0)}, TASKS),
        ({"dag_id": "Shop", "run_id": run_id(0)}, 0),
        ({"dag_id": "shop", "run_id": run_id(0), "task_id": "draw", "map_index": 3}, 1),
        ({"text": "NR 7 "}, 30),
        ({"text": '100%_schönes "BILD"'}, 30 * TASKS),
        ({"text": "\\ Nr 7 ☕"}, 30),
        ({"text": "100_schönes"}, 0),
        ({"model": "m"}, 30 * TASKS),
    ],
)
def test_filters_find_what_they_name(server: PageServer, filters: dict[str, Any], instances: int) -> None:
    found, _ = server.get("/data", **filters)
    assert found["totals"]["task_instances"] == instances
    assert Decimal(found["totals"]["cost_usd"]) == instances * COST
    pictures, _ = server.get("/gallery", limit=24, **filters)
    assert len(pictures["pictures"]) == min(24, instances)
    times = [picture["time"] for picture in pictures["pictures"]]
    assert times == sorted(times, reverse=True)


def test_a_picture_and_a_table_are_read(server: PageServer) -> None:
    task = {"dag_id": "shop", "run_id": run_id(0), "task_id": "draw", "map_index": 7, "number": 0}
    found, _ = server.get("/picture", **task)
    assert found["prompt"] == 'ein 100%_schönes "Bild" \\ Nr 7 ☕'
    answer = server.client.get(f"{PREFIX}/costs.csv", params={"table": "days"}).raise_for_status()
    lines = list(csv.DictReader(answer.text.splitlines()))
    assert (len(lines), sum(Decimal(line["cost_usd"]) for line in lines)) == (30, 30 * TASKS * COST)
