"""Runs DAGs in this process, with ``dag.test()``, in the database of ``AIRFLOW_HOME``.

Arguments: ids of DAGs; ``id=variable`` runs one with the Deepshi connection in this environment variable.
"""

from __future__ import annotations

import os
import sys

from airflow.cli.cli_parser import get_parser
from airflow.utils.db import initdb

#: Precedes the log of a run; the id of its DAG follows.
MARK = "===== the run of "


def call(*command: str) -> None:
    """Run one of Airflow's commands."""
    arguments = get_parser().parse_args(command)
    try:
        arguments.func(arguments)
    except SystemExit as end:  # a failed run; the database has the details
        sys.stderr.write(f"{command} ended: {end}\n")


if __name__ == "__main__":
    initdb()
    call("dags", "reserialize")
    for argument in sys.argv[1:]:
        dag_id, _, variable = argument.partition("=")
        if variable:
            os.environ["AIRFLOW_CONN_DEEPSHI_DEFAULT"] = os.environ[variable]
        sys.stdout.flush()
        os.write(1, f"\n{MARK}{dag_id}\n".encode())
        call("dags", "test", dag_id)
        sys.stderr.flush()
