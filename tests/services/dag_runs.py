"""One process for all tests that run DAGs with ``dag.test()``.

In each process, Airflow takes about 15 seconds of processor time before the first task runs: it imports itself and
builds all versions of its execution API.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from typing_extensions import Self

from tests.services.airflow_database import new_home
from tests.services.airflow_programs import ROOT, environment
from tests.support.run_dags import Job


class Finished(NamedTuple):
    """``dag_id``, ``run_id`` and ``state`` of each run, and their output."""

    states: list[dict[str, str]]
    log: str


class DagRuns:
    """Runs DAGs in one process and one database, so ids of DAGs must differ between its callers.

    :ivar database: Airflow's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.database = new_home(folder / "airflow") / "airflow.db"
        env = environment(self.database.parent, folder / "no-dags", "", log_level="INFO")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.run_dags"],
            env=env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def run(
        self,
        dags_folder: Path,
        dags: Sequence[str] = (),
        *,
        variables: Mapping[str, str],
        commands: Sequence[list[str]] = (),
        cwd: Path = ROOT,
    ) -> Finished:
        """Run DAGs of a folder, one after the other; :class:`tests.support.run_dags.Job` has the parameters."""
        assert self._process.stdin
        assert self._process.stdout
        log = self._folder / f"{len(list(self._folder.glob('*.log')))}.log"
        job = Job(
            folder=str(dags_folder),
            dags=list(dags),
            commands=list(commands),
            environment=dict(variables),
            cwd=str(cwd),
            log=str(log),
        )
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        text = log.read_text() if log.exists() else ""
        assert answer.startswith("["), answer + text[-5000:]
        return Finished(json.loads(answer), text)
