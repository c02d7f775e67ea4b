"""Runs DAGs in this process, with ``dag.test()``, in the database of ``AIRFLOW_HOME``, and prints their states as JSON.

Arguments: ids of DAGs in Airflow's folder, or none to run all; ``id=variable`` runs one with the Deepshi connection in
this environment variable.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from typing import Any

#: Precedes the log of a run; the id of its DAG follows.
MARK = "===== the run of "


def dag_bag() -> Any:
    """Return Airflow's DAGs and import errors; the class has moved in 3.2."""
    name = "airflow.dag_processing.dagbag" if find_spec("airflow.dag_processing.dagbag") else "airflow.models.dagbag"
    return importlib.import_module(name).DagBag()


def main() -> None:
    bag = dag_bag()
    assert not bag.import_errors, bag.import_errors
    states = []
    for number, argument in enumerate(sys.argv[1:] or sorted(bag.dags)):
        dag_id, _, variable = argument.partition("=")
        if variable:
            os.environ["AIRFLOW_CONN_DEEPSHI_DEFAULT"] = os.environ[variable]
        os.write(1, f"\n{MARK}{dag_id}\n".encode())
        run = bag.dags[dag_id].test(logical_date=datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(days=number))
        sys.stderr.flush()
        states.append({"dag_id": dag_id, "run_id": run.run_id, "state": str(run.state)})
    print(json.dumps(states))  # noqa: T201


if __name__ == "__main__":
    main()
