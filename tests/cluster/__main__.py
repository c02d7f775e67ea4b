"""``make cluster``: a whole cluster on this machine, the example DAGs on it, and what they cost.

It runs until Ctrl-C; with ``--once`` it ends after the examples. It costs nothing, because Deepshi is the emulator.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sqlite3
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from decimal import Decimal
from pathlib import Path
from typing import Any

from deepshi_provider.emulator.testing import Emulator
from tests.cluster.books import comparison, costs_in_xcom
from tests.services.airflow_cluster import AirflowCluster
from tests.services.airflow_settings import USERS
from tests.services.debian import MissingProgram
from tests.services.postgres import Postgres
from tests.services.redis import Redis
from tests.services.seaweedfs import SeaweedFS
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "dags_examples"
#: Products of the shop in ``warehouse_etl``: SKU, category, name.
PRODUCTS = [("cup-1", "cup", "red cup"), ("cup-2", "cup", "blue cup"), ("rug-1", "rug", "woollen rug")]
#: Timeout in seconds for all examples together.
DEADLINE = 600


def main() -> None:
    """Start everything, run the examples, wait for Ctrl-C, and stop everything."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as with Ctrl-C
    succeeded = False
    try:
        with ExitStack() as stack:
            print("Starting PostgreSQL, Redis, an S3 server, the emulator and Airflow …", flush=True)
            airflow, deepshi = _start(stack, options)
            _print_addresses(airflow)
            succeeded = _run_examples(airflow, deepshi)
            while not options.once:
                for name in airflow.start_what_ended():
                    print(f"{name} had ended, and was started again", flush=True)
                time.sleep(1)
    except KeyboardInterrupt:
        print("\nAll ended.")
    except MissingProgram as missing:
        sys.exit(str(missing))
    sys.exit(not succeeded)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make cluster", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the examples; the exit status tells how")
    parser.add_argument("--workers", type=int, default=2, help="Celery workers (2)")
    parser.add_argument("--slots", type=int, default=4, help="tasks that a worker runs at once (4)")
    parser.add_argument("--triggerers", type=int, default=2, help="triggerers (2)")
    return parser.parse_args()


def _start(stack: ExitStack, options: argparse.Namespace) -> tuple[AirflowCluster, Emulator]:
    home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deepshi-cluster-")))
    postgres, redis = Postgres(), Redis(home / "redis")  # what is missing shows before anything is started
    stack.enter_context(postgres)
    stack.enter_context(redis)
    s3 = stack.enter_context(SeaweedFS(home / "s3"))
    deepshi = stack.enter_context(Emulator(latency=1, tls=True))
    connection = deepshi.connection_json(output_uri="s3://images/deepshi", output_conn_id="s3")
    cluster = AirflowCluster(
        home / "airflow",
        EXAMPLES,
        postgres=postgres,
        redis=redis,
        env={
            "AIRFLOW_CONN_DEEPSHI_DEFAULT": connection,
            "AIRFLOW_CONN_S3": s3.airflow_connection_json(),
            "PYTHONPATH": str(ROOT),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",  # until all of the cluster is up
            # The examples have no retries, and on a busy machine their processes may start slowly.
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "120",
            **_databases(home),
        },
        workers=options.workers,
        slots=options.slots,
        triggerers=options.triggerers,
    )
    airflow = stack.enter_context(cluster)
    print(f"Images are on {s3.endpoint_url} (key {s3.access_key}, secret {s3.secret_key}), bucket images.")
    return airflow, deepshi


def _databases(home: Path) -> dict[str, str]:
    """Return the connections of the example that reads a shop's table and fills a warehouse."""
    with closing(sqlite3.connect(home / "shop.db")) as database, database:
        database.execute("CREATE TABLE products (sku TEXT, category TEXT, name TEXT)")
        database.executemany("INSERT INTO products VALUES (?, ?, ?)", PRODUCTS)
    return {
        "AIRFLOW_CONN_SHOP": json.dumps({"conn_type": "sqlite", "host": str(home / "shop.db")}),
        "AIRFLOW_CONN_WAREHOUSE": json.dumps({"conn_type": "generic", "host": str(home / "warehouse.duckdb")}),
    }


def _print_addresses(airflow: AirflowCluster) -> None:
    print(f"Running: {', '.join(process.name for process in airflow.processes)}.")
    print(f"Airflow is at {airflow.base_url}, login admin, password {USERS['admin']}.", flush=True)


def _run_examples(airflow: AirflowCluster, deepshi: Emulator) -> bool:
    """Run all DAGs; return whether they succeeded and reported exactly what the server charged."""
    for path in EXAMPLES.glob("*.py"):
        for dag_id in re.findall(r"(\w+)_dag(?: = |:$)", path.read_text(encoding="utf-8"), re.MULTILINE):
            airflow.wait_for_dag(dag_id, timeout=120)
    dags = airflow.get("/dags", limit=100)["dags"]
    print(f"Running the examples: {', '.join(dag['dag_id'] for dag in dags)} …", flush=True)
    for dag in dags:
        airflow.unpause(dag["dag_id"])
        if dag["timetable_summary"] is None:  # the others run by themselves: by the clock, or when an asset is updated
            airflow.trigger(dag["dag_id"])

    def ended() -> list[dict[str, Any]] | None:
        airflow.start_what_ended()
        runs: list[dict[str, Any]] = airflow.get("/dags/~/dagRuns", limit=100)["dag_runs"]
        over = all(run["state"] in ("success", "failed") for run in runs)
        # A failed DAG triggers no other.
        complete = {run["dag_id"] for run in runs} == {dag["dag_id"] for dag in dags}
        return runs if over and (complete or any(run["state"] == "failed" for run in runs)) else None

    runs = wait_for("the end of the examples", DEADLINE, ended, every=1)
    costs = {
        (run["dag_id"], run["dag_run_id"]): costs_in_xcom(airflow, run["dag_id"], run["dag_run_id"]) for run in runs
    }
    print(f"\n{'DAG':28}{'state':10}{'seconds':>8}{'cost':>14}")
    for run in sorted(runs, key=lambda run: str(run["start_date"])):
        cost = costs[run["dag_id"], run["dag_run_id"]]
        print(f"{run['dag_id']:28}{run['state']:10}{run['duration']:8.1f}{f'${cost:.6f}':>14}")
    stats = deepshi.stats()
    reported, taken = sum(costs.values(), Decimal(0)), Decimal(stats["cost_usd"])
    print(f"\n{stats['images']} pictures. {comparison(reported, taken)}", flush=True)
    for run in runs:
        if run["state"] == "failed":
            _print_failures(airflow, run)
    return reported == taken and all(run["state"] == "success" for run in runs)


def _print_failures(airflow: AirflowCluster, run: dict[str, Any]) -> None:
    """Show the end of the log of each task that failed."""
    dag_id, run_id = run["dag_id"], run["dag_run_id"]
    for task in airflow.task_instances(dag_id, run_id):
        if task["state"] == "failed":
            log = airflow.task_log(dag_id, run_id, task["task_id"], task["try_number"], task["map_index"])
            print(f"\n{dag_id}.{task['task_id']} failed:\n" + "\n".join(log.splitlines()[-10:]), flush=True)


if __name__ == "__main__":
    main()
