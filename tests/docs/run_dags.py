"""Run all DAGs of Airflow's folder with ``dag.test()``, and print their states as JSON."""

from __future__ import annotations

import json

from airflow.dag_processing.dagbag import DagBag


def main() -> None:
    bag = DagBag()
    assert not bag.import_errors, bag.import_errors
    states = {dag_id: str(bag.dags[dag_id].test().state) for dag_id in sorted(bag.dags)}
    print(json.dumps(states))  # noqa: T201


if __name__ == "__main__":
    main()
