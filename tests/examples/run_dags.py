"""Run the DAGs of the modules in the arguments with ``dag.test()``, and print their states."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pendulum


def load(path: Path) -> dict[str, Any]:
    from airflow.sdk import DAG

    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return {dag.dag_id: dag for dag in vars(module).values() if isinstance(dag, DAG)}


def main() -> None:
    folder = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    states = []
    dags: dict[str, Any] = {}
    for path in sorted(folder.glob("*.py")):
        dags |= load(path)
    for number, dag_id in enumerate(sys.argv[1:]):
        run = dags[dag_id].test(logical_date=pendulum.datetime(2026, 1, 1 + number, tz="UTC"))
        states.append({"dag_id": dag_id, "run_id": run.run_id, "state": str(run.state)})
    print(json.dumps(states))  # noqa: T201


if __name__ == "__main__":
    main()
