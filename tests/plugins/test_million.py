"""A million task instances in PostgreSQL: the query plan, the answers, and the server's memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy.dialects import postgresql

from deepshi_provider.plugins.costs.access import DagRun, XComModel
from deepshi_provider.plugins.costs.sheets import Scope
from tests.plugins.server import PageServer, api_server
from tests.services.postgres import Postgres

pytestmark = [pytest.mark.load, pytest.mark.timeout(3600)]

log = logging.getLogger(__name__)

DAGS, DAYS, RUNS, TASKS = 20, 365, 20_000, 50
INSTANCES = RUNS * TASKS
COST = Decimal("0.0135")

#: XComs as an operator writes them.
SHEET = """
jsonb_build_object(
  'version', 1, 'ended', true, 'operation', 'generate', 'dag_id', r.dag_id, 'run_id', r.run_id, 'task_id', 'draw',
  'map_index', i, 'try_number', 1, 'deepshi_conn_id', 'deepshi_default',
  'key', null, 'metadata', null, 'cost_usd', '0.0135', 'untold', 0, 'saved_usd', '0',
  'unknown_outcomes', 0, 'may_have_cost_usd', '0', 'warnings', '[]'::jsonb, 'sources', '[]'::jsonb,
  'models', jsonb_build_array(jsonb_build_object(
    'model', 'model-' || i % 3, 'cost_usd', '0.0135', 'untold', 0, 'images', 1, 'reused', 0, 'saved_usd', '0',
    'unknown_outcomes', 0, 'may_have_cost_usd', '0')),
  'images', jsonb_build_array(jsonb_build_object(
    'uri', 's3://bucket/' || r.dag_id || '/' || r.run_id || '/' || i || '/image-0.png', 'media_type', 'image/png',
    'width', 1024, 'height', 768, 'key', null, 'cost_usd', '0.0135',
    'prompt', 'Studio photo of product ' || i || ' on a wooden table, in the light of the morning, seen from above')),
  'output_uri', 's3://bucket/' || r.dag_id || '/' || r.run_id || '/' || i, 'output_conn_id', 'aws_default',
  'manifest_uri', 's3://bucket/' || r.dag_id || '/' || r.run_id || '/' || i || '/_deepshi/manifest.json')
"""
FILL = f"""
SET session_replication_role = replica;
INSERT INTO dag_bundle (name, active) VALUES ('dags-folder', true) ON CONFLICT DO NOTHING;
INSERT INTO dag (dag_id, is_paused, is_stale, bundle_name, max_active_tasks, max_consecutive_failed_dag_runs,
                 has_task_concurrency_limits, timetable_type, partition_mapper_info, owners)
  SELECT 'dag_' || d, false, false, 'dags-folder', 16, 0, false, '', '[]', 'team' || d % 3
  FROM generate_series(0, {DAGS} - 1) d;
INSERT INTO dag_run (id, dag_id, run_id, run_type, state, run_after, start_date, end_date, clear_number)
  SELECT g, 'dag_' || g % {DAGS}, 'run_' || g, 'manual', 'success', at, at, at + interval '5 minutes', 0
  FROM (SELECT g, now() - interval '{DAYS} days' * ({RUNS} - g) / {RUNS} - interval '10 minutes' AS at
        FROM generate_series(1, {RUNS}) g) x;
INSERT INTO task_instance (id, task_id, dag_id, run_id, map_index, state, pool, pool_slots, try_number)
  SELECT gen_random_uuid(), 'draw', r.dag_id, r.run_id, i, 'success', 'default_pool', 1, 1
  FROM dag_run r, generate_series(0, {TASKS} - 1) i;
INSERT INTO xcom (dag_run_id, task_id, map_index, key, dag_id, run_id, value, timestamp)
  SELECT r.id, 'draw', i, 'deepshi_cost', r.dag_id, r.run_id, {SHEET}, r.end_date
  FROM dag_run r, generate_series(0, {TASKS} - 1) i ORDER BY r.id;
"""


def plan(server: PageServer, query: Any) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's
    text = str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    with closing(psycopg2.connect(server.url.replace("+psycopg2", ""))) as database, database.cursor() as cursor:
        cursor.execute(f"EXPLAIN {text}")
        return "\n".join(row[0] for row in cursor.fetchall())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("million")


@pytest.fixture(scope="module")
def million(home: Path) -> Iterator[PageServer]:
    with Postgres() as postgres, api_server(f"postgresql+psycopg2://{postgres.address}", home, is_new=True) as server:
        with closing(psycopg2.connect(f"postgresql://{postgres.address}")) as database:
            database.autocommit = True
            with database.cursor() as cursor:
                cursor.execute(FILL)
                cursor.execute("VACUUM ANALYZE")
        yield server


def test_the_query_for_sheets_uses_an_index(million: PageServer) -> None:
    columns = (XComModel.__table__.c.value,)
    today = datetime.now(timezone.utc).date()
    period = Scope(dag_ids={"dag_1"}, start=today - timedelta(days=29), end=today)
    found = plan(million, period.narrow(*columns))
    assert "idx_xcom_key" in found or "Parallel Seq Scan on xcom" in found, found  # every XCom is a sheet here
    run = Scope(dag_ids={"dag_1"}, start=date.min, end=date.min, run=("dag_1", "run_1"))
    found = plan(million, run.narrow(*columns))
    assert "xcom_pkey" in found, found
    assert "Seq Scan" not in found, found
    found = plan(million, period.newest_of([RUNS, RUNS - 1], *columns))
    assert "xcom_pkey" in found, found
    assert "Seq Scan" not in found, found
    found = plan(million, period.newest_runs(20, None))
    assert DagRun.__tablename__ in found


def test_answers_are_exact_and_the_server_stays_small(million: PageServer) -> None:
    million.get("/data", start="2020-01-01", end="2020-01-02")
    before = million.memory()  # it counted when the database was empty
    figures: dict[str, float] = {}
    found, figures["count, 30 days"] = million.get("/data", anew=True)
    days = sum(Decimal(day["cost_usd"]) for day in found["days"])
    assert found["totals"]["task_instances"] > INSTANCES // DAYS * 28
    assert Decimal(found["totals"]["cost_usd"]) == days == found["totals"]["task_instances"] * COST
    for name, path, query in (
        ("first screen", "/data", {}),
        ("gallery", "/gallery", {}),
        ("month", "/month", {}),
        ("by model", "/data", {"stack": "model"}),
        ("one DAG", "/data", {"dag_id": "dag_1"}),
        ("one DAG's pictures", "/gallery", {"dag_id": "dag_1"}),
        ("one owner", "/data", {"owner": "team1"}),
        ("one task", "/data", {"dag_id": "dag_1", "task_id": "draw"}),
        ("one run", "/data", {"dag_id": "dag_1", "run_id": f"run_{RUNS - DAGS + 1}"}),
        ("one run's pictures", "/gallery", {"dag_id": "dag_1", "run_id": f"run_{RUNS - DAGS + 1}"}),
    ):
        _, figures[name] = million.get(path, **query)
    (_, figures["one picture"]) = million.get(
        "/picture", dag_id="dag_1", run_id=f"run_{RUNS - DAGS + 1}", task_id="draw", map_index=7, number=0
    )
    recent = million.memory() - before
    year, figures["365 days, counted now"] = million.get("/data", start=first_of(365), anew=True)
    check_year(year)
    for name, query in years():
        _, figures[name] = million.get("/data", **query)
    more = million.memory() - before
    report(figures)
    log.info("memory of the API server: +%.1f MB, with a year +%.1f MB", recent / 2**20, more / 2**20)
    assert recent < 50 * 2**20
    assert more < 50 * 2**20


def test_the_first_screen_after_a_start_is_counted_already(million: PageServer, home: Path) -> None:
    expected, _ = million.get("/data")
    with api_server(million.url, home) as started:
        begun = time.time()
        figures: dict[str, float] = {}
        found, figures["first screen after a start"] = started.get("/data")
        year_expected, figures["365 days, while they are counted ahead"] = started.get("/data", start=first_of(365))
        check_year(year_expected)
        year_begun = time.time()
        for name, query in years():
            year, figures[name] = started.get("/data", **query)
            assert year["counted_at"] < year_begun, name
        _, figures["first screen, with a year"] = started.get("/data")
    report(figures)
    assert found["totals"] == expected["totals"]
    assert found["counted_at"] < begun


def first_of(days: int) -> str:
    return str(datetime.now(timezone.utc).date() - timedelta(days=days - 1))


def years() -> list[tuple[str, dict[str, str]]]:
    """Return views that the count of a year answers."""
    year = {"start": first_of(365)}
    return [
        ("365 days", year),
        ("365 days, by model", {**year, "stack": "model"}),
        ("90 days", {"start": first_of(90)}),
        ("7 days", {"start": first_of(7)}),
        ("365 days, one DAG", {**year, "dag_id": "dag_1"}),
        ("365 days, one owner", {**year, "owner": "team1"}),
    ]


def check_year(found: dict[str, Any]) -> None:
    """Check sums of all task instances: the runs of the first hours are of the day before the period."""
    totals, before = found["totals"], found["before"]
    assert totals["task_instances"] + before["task_instances"] == INSTANCES
    assert Decimal(totals["cost_usd"]) + Decimal(before["cost_usd"]) == INSTANCES * COST
    assert sum(Decimal(day["cost_usd"]) for day in found["days"]) == totals["task_instances"] * COST
    assert totals["runs"] == totals["task_instances"] // TASKS
    assert not found["truncated"]


def report(figures: dict[str, float]) -> None:
    for name, seconds in figures.items():
        log.info("%s: %.0f ms", name, 1000 * seconds)
