"""Runs DAGs with ``dag.test()`` in the database of ``AIRFLOW_HOME``; :mod:`tests.services.dag_runs` starts it.

Each line of its input is a job, :class:`Job` as JSON, and for each it prints a line: the states of the
runs as JSON, or ``null`` if the log ends with an error.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from typing import Any, TypedDict

#: Precedes the log of a run; the id of its DAG follows.
MARK = "===== the run of "


class Job(TypedDict):
    """The runs of some DAGs of one folder.

    ``dags``: their ids, or none for all; ``id=variable`` runs one with the Deepshi connection in this environment
    variable. ``commands``: arguments of ``airflow``, which run first. ``log``: file for the output.
    """

    folder: str
    dags: list[str]
    commands: list[list[str]]
    environment: dict[str, str]
    cwd: str
    log: str


def dag_bag(folder: str) -> Any:
    """Return a folder's DAGs and import errors; the class has moved in 3.2."""
    name = "airflow.dag_processing.dagbag" if find_spec("airflow.dag_processing.dagbag") else "airflow.models.dagbag"
    return importlib.import_module(name).DagBag(folder)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for line in sys.stdin:
        job: Job = json.loads(line)
        with _output_in(job["log"]), _environment(job["environment"] | _bundle(job["folder"])):
            os.chdir(job["cwd"])
            try:
                states = _run(job)
            except Exception:  # noqa: BLE001 - of any DAG; the next job must run
                traceback.print_exc()
                states = None
        print(json.dumps(states), file=answers, flush=True)


def _run(job: Job) -> list[dict[str, str]]:
    for command in job["commands"]:
        from airflow.cli.cli_parser import get_parser

        options = get_parser().parse_args(command)
        options.func(options)
    bag = dag_bag(job["folder"])
    assert not bag.import_errors, bag.import_errors
    states = []
    for number, argument in enumerate(job["dags"] or sorted(bag.dags)):
        dag_id, _, variable = argument.partition("=")
        if variable:
            os.environ["AIRFLOW_CONN_DEEPSHI_DEFAULT"] = os.environ[variable]
        os.write(1, f"\n{MARK}{dag_id}\n".encode())
        run = bag.dags[dag_id].test(logical_date=datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(days=number))
        sys.stderr.flush()
        states.append({"dag_id": dag_id, "run_id": run.run_id, "state": str(run.state)})
    return states


def _bundle(folder: str) -> dict[str, str]:
    """Return the setting that makes a folder the only bundle: ``dag.test()`` parses all files of a DAG's bundle."""
    bundle = {
        "name": folder,
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": folder},
    }
    return {"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle])}


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _output_in(log: str) -> Iterator[None]:
    """Write standard output and errors to a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for output in (1, 2):
        os.dup2(file, output)
    os.close(file)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    main()
