"""The review operator in environments that it does not support."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

#: Airflow's module checks this version.
OLD = "import airflow; airflow.__version__ = '3.0.6'"
WITHOUT = "import sys; sys.modules['airflow.providers.standard.operators.hitl'] = None"


@pytest.mark.parametrize("before", [OLD, WITHOUT], ids=["Airflow 3.0", "an old standard provider"])
def test_the_error_names_the_missing_requirement(before: str) -> None:
    program = f"{before}\nimport deepshi_provider.operators.review"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "DeepshiReviewOperator needs Airflow 3.1 or newer" in done.stderr.splitlines()[-1]
