"""Runs DAGs in this process, with ``dag.test()``, in the database of ``AIRFLOW_HOME``; argument: ids of DAGs."""

from __future__ import annotations

import sys

from airflow.cli.cli_parser import get_parser
from airflow.utils.db import initdb

if __name__ == "__main__":
    initdb()
    for command in (["dags", "reserialize"], *(["dags", "test", dag_id] for dag_id in sys.argv[1:])):
        arguments = get_parser().parse_args(command)
        try:
            arguments.func(arguments)
        except SystemExit as end:  # a run that failed; the database tells more
            sys.stderr.write(f"{command} ended: {end}\n")
