"""The settings of a test Airflow, whose names are the same in Airflow 3.1, 3.2 and 3.3."""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

USERS = {"admin": "admin", "user": "user", "viewer": "viewer"}
"""User name to password; each user's role has the user's name."""

#: What docs/production.md recommends: tasks are forked from the scheduler, or a Celery worker, and what is imported
#: there need not be imported again by each task, which takes longer than the rest of most tasks.
_PRELOADING = """
import importlib
import sys

if {"scheduler", "worker"} & set(sys.argv):
    for name in (
        "airflow.dag_processing.dagbag",
        "airflow.sdk.execution_time.task_runner",
        "anyio._backends._asyncio",
        "deepshi_provider.hooks.deepshi",
        "deepshi_provider.jobs.engine",
        "deepshi_provider.operators.images",
    ):
        importlib.import_module(name)
"""
#: Other modules that tasks of the tests use.
PRELOADED = ("airflow.providers.amazon.aws.fs.s3", "aiobotocore.session", "s3fs", "deepshi_provider.triggers.images")
_PRELOADING_MORE = """
if {{"scheduler", "worker"}} & set(sys.argv):
    for name in {modules!r}:
        importlib.import_module(name)
"""
#: In the triggerer a full run of the garbage collector stops the loop for 0.2 s and more, by the million objects that
#: Airflow and botocore keep. Without these objects, what is measured is what triggers do.
_FREEZING = """
import gc
import os
import sys

if "triggerer" in sys.argv:
    os.register_at_fork(after_in_child=gc.freeze)
"""


def environment(home: Path, dags_folder: Path, port: int, parallelism: int, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for every process of one Airflow.

    Airflow's variables of the calling process are left out, since they may be for another home.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW_", "_AIRFLOW"))}
    inherited["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), inherited["PATH"]])
    # Airflow's processes use HTTP to talk to each other, and their client obeys proxy variables.
    inherited["NO_PROXY"] = inherited["no_proxy"] = "127.0.0.1,localhost"
    return {
        **inherited,
        "AIRFLOW_HOME": str(home),
        **_components(home, dags_folder, port, parallelism),
        **_secrets(),
        **_quick_reactions(),
        **extra,
    }


def write_passwords(home: Path) -> None:
    """Write the simple auth manager's password file, which must exist before the start."""
    _passwords_file(home).write_text(json.dumps(USERS), encoding="utf-8")


def write_local_settings(home: Path, preloaded: Sequence[str] | None) -> None:
    """Write the module that Airflow's processes import when they start.

    :param preloaded: modules to preload besides those that docs/production.md recommends; ``None`` preloads nothing.
    """
    folder = home / "config"
    folder.mkdir(parents=True, exist_ok=True)
    text = _FREEZING if preloaded is None else _FREEZING + _PRELOADING + _PRELOADING_MORE.format(modules=preloaded)
    (folder / "airflow_local_settings.py").write_text(text, encoding="utf-8")


def _passwords_file(home: Path) -> Path:
    return home / "passwords.json"


def _components(home: Path, dags_folder: Path, port: int, parallelism: int) -> dict[str, str]:
    """Return the settings of executor, paths, port and parallelism."""
    url = f"http://127.0.0.1:{port}"
    return {
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": str(parallelism),
        # The default of 16 per DAG would limit `parallelism`.
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "256",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{u}:{u}" for u in USERS),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(_passwords_file(home)),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__TRIGGERER__CAPACITY": "1000",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


def _secrets() -> dict[str, str]:
    """Return keys of the lengths that Airflow requires; all processes must use the same ones."""
    return {
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    }


def _quick_reactions() -> dict[str, str]:
    """Intervals in seconds, short enough for tests."""
    seconds = {
        # With the default 5, a deferred task whose trigger fires within seconds fails now and
        # then: "executor reported success, but the state attribute is queued".
        "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,
        # 15 s without a heartbeat, as by default (3 times 5 s), end a task.
        "WORKERS__MAX_FAILED_HEARTBEATS": 15,
        # The scheduler notices after this time if a worker died with its task.
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 15,
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": 2,
        # Another triggerer takes over from one that is silent for 5 s.
        "TRIGGERER__JOB_HEARTBEAT_SEC": 1,
        "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": 5,
        "SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": 1,
        # New and changed files are seen by the refresh; the rest need not be parsed again.
        "DAG_PROCESSOR__REFRESH_INTERVAL": 1,
        "DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": 1,
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 600,
    }
    return {f"AIRFLOW__{name}": str(value) for name, value in seconds.items()}
