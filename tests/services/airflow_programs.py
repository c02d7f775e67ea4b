"""Runs programs with their own Airflow home, without any of Airflow's servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(home: Path, dags: Path, connection: str, *, log_level: str = "WARNING") -> dict[str, str]:
    """Return the environment of :func:`call`; ``connection`` is Deepshi's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
        "PYTHONPATH": str(ROOT),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": log_level,
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW_CONN_DEEPSHI_DEFAULT": connection,
    }


def call(*arguments: str, env: dict[str, str], cwd: Path = ROOT) -> str:
    """Run ``python -m <arguments>`` to its end, and return its output."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout
