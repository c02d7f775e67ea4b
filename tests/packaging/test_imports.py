"""Modules that every Airflow process loads because this provider is installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.get_provider_info import get_provider_info
from tests.packaging.conftest import ROOT

INFO = get_provider_info()
#: Libraries that are slow to load and needed only by some tasks.
HEAVY = {"PIL", "boto3", "botocore", "duckdb", "matplotlib", "numpy", "openai", "pandas", "pyarrow"}
HEAVY |= {"multipart", "python_multipart", "s3fs", "uvicorn"}
MODULES = sorted(
    {name for part in ("operators", "hooks", "triggers") for item in INFO[part] for name in item["python-modules"]}
    | {item["class-name"].rpartition(".")[0] for item in INFO["task-decorators"]}
    | {name.rpartition(".")[0] for name in INFO.get("extra-links", [])}
    | set(re.findall(r'= "(deepshi_provider\.plugins\.[\w.]+):', (ROOT / "pyproject.toml").read_text()))
)


def loaded_by(program: str, before: str = "") -> set[str]:
    """Return the modules that a new process has loaded after the program but not after ``before``."""
    whole = (
        f"import sys, json\n{before}\nold = set(sys.modules)\n{program}\nprint(json.dumps([*set(sys.modules) - old]))"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", whole], env=env, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_discovery_loads_nothing() -> None:
    modules = loaded_by("from deepshi_provider.get_provider_info import get_provider_info; get_provider_info()")
    own = {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names}
    assert own == {"deepshi_provider", "deepshi_provider.get_provider_info"}


@pytest.mark.slow
@pytest.mark.packaging  # Airflow 3.1 does not show whether a plugin reads lineage
def test_a_task_that_writes_to_a_local_directory_loads_no_object_store(emulator: Emulator, tmp_path: Path) -> None:
    program = (
        "from deepshi_provider.operators.images import DeepshiGenerateImageOperator\n"
        f"operator = DeepshiGenerateImageOperator(task_id='t', prompt='a boat', output_uri={str(tmp_path)!r})\n"
        "assert run_try(operator).xcoms['return_value']['images']"
    )
    plugins = "from airflow.sdk.plugins_manager import get_hook_lineage_readers_plugins as load; load()"
    modules = loaded_by(program, before=f"{plugins}; from tests.support.tasks import run_try")
    assert "deepshi_provider.jobs.engine" in modules
    assert {module.partition(".")[0] for module in modules} & HEAVY == set()
    assert not any(module.startswith("airflow.providers.amazon") for module in modules)
    assert (emulator.stats()["images"], len(list(tmp_path.glob("*.png")))) == (1, 1)


@pytest.mark.slow
def test_what_dags_import_loads_nothing_heavy() -> None:
    modules = loaded_by("; ".join(f"import {name}" for name in MODULES), before="import airflow.sdk")
    assert set(MODULES) <= modules
    assert {module.partition(".")[0] for module in modules} & HEAVY == set()
    assert not any(module.startswith("deepshi_provider.emulator") for module in modules)
