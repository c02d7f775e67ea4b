"""How long the page "Deepshi costs" takes to add up 100,000 cost sheets: ``python -m benchmarks.costs_page``.

The database is SQLite, as ``airflow db migrate`` makes it; each sheet has a neighbour under another key.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

SHEETS = 100_000
DAYS = 90
LAST = datetime(2026, 6, 30, 12)  # noqa: DTZ001 -- SQLite keeps no zone
DAGS = 20


def main() -> None:
    """Print the seconds that each question takes, the best of three."""
    with tempfile.TemporaryDirectory(prefix="deepshi-benchmark-") as home:
        database = Path(home) / "airflow.db"
        # Airflow reads them when it is imported.
        os.environ["AIRFLOW_HOME"] = home
        os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{database}"
        subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
        _fill(database)
        _measure()


def _fill(database: Path) -> None:
    chance = random.Random(1)  # noqa: S311 -- the same in each run
    step = timedelta(days=DAYS) / SHEETS
    rows = []
    for number in range(SHEETS):
        cost = str(Decimal(chance.randrange(1, 9000)) / 100_000)
        where = (f"dag_{number % DAGS}", f"manual__{number // 10}", f"task_{number % 7}")
        value = json.dumps(_sheet("/".join(where), f"model-{chance.randrange(9)}", cost))
        written = (LAST - number * step).isoformat(" ")
        rows += [(number, where[2], key, *where[:2], value, written) for key in ("deepshi_cost", "return_value")]
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany(
            "INSERT INTO xcom (dag_run_id, task_id, map_index, key, dag_id, run_id, value, timestamp) "
            "VALUES (?, ?, -1, ?, ?, ?, ?, ?)",
            rows,
        )


def _sheet(folder: str, model: str, cost_usd: str) -> dict[str, object]:
    from deepshi_provider.costs.sheet import CostSheet, ModelCosts, SheetImage

    uri = f"s3://bucket/deepshi/{folder}"
    dag_id, run_id, task_id = folder.split("/")
    return CostSheet(
        ended=True,
        operation="generate",
        dag_id=dag_id,
        run_id=run_id,
        task_id=task_id,
        cost_usd=Decimal(cost_usd),
        models=[ModelCosts(model=model, cost_usd=Decimal(cost_usd), images=1)],
        images=[SheetImage(uri=f"{uri}/image-0.png", media_type="image/png", width=1024, height=768)],
        output_uri=uri,
        output_conn_id="aws_default",
        manifest_uri=f"{uri}/_deepshi/0123456789abcdef-1.manifest.json",
    ).as_xcom()


def _measure() -> None:
    from deepshi_provider.plugins.costs.access import create_session
    from deepshi_provider.plugins.costs.gallery import newest_pictures
    from deepshi_provider.plugins.costs.sheets import Scope, sheet_rows
    from deepshi_provider.plugins.costs.totals import Totals

    def scope(days: int) -> Scope:
        end: date = LAST.date()
        return Scope(dag_ids={f"dag_{number}" for number in range(DAGS)}, start=end - timedelta(days=days - 1), end=end)

    def sums(days: int) -> None:
        totals = Totals()
        with create_session() as session:
            totals.add_all(sheet_rows(session, scope(days)))
        totals.as_json()
        totals.days_as_json(scope(days).start, scope(days).end)

    def gallery(days: int) -> None:
        with create_session() as session:
            newest_pictures(
                session, scope(days), dag_id=None, model=None, limit=24, may_read_prompts=lambda dag_id: True
            )

    _time("sums of 30 days, a third of the sheets", lambda: sums(30))
    _time("sums of 90 days, all sheets", lambda: sums(DAYS + 1))
    _time("gallery", lambda: gallery(DAYS + 1))


def _time(what: str, work: Callable[[], None]) -> None:
    found = []
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    print(f"{what:40} {min(f[0] for f in found):.2f} s, {min(f[1] for f in found):.2f} s of CPU")


if __name__ == "__main__":
    main()
