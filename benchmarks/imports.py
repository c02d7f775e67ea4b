"""Import time of the operators beyond Airflow's own, and parse time of 50 tasks; prints one JSON object."""

from __future__ import annotations

import json
import time

started = time.perf_counter()
from airflow.sdk import DAG, BaseHook, BaseOperator  # noqa: E402, F401 -- what a DAG without a provider imports

begun = time.perf_counter()
from deepshi_provider.operators.images import DeepshiGenerateImageOperator  # noqa: E402

imported = time.perf_counter()
with DAG("bench"):
    for number in range(50):
        DeepshiGenerateImageOperator(task_id=f"picture_{number}", prompt="a boat on {{ ds }}", width=64, height=48)
parsed = time.perf_counter()

print(
    json.dumps(
        {
            "airflow_ms": 1000 * (begun - started),
            "import_ms": 1000 * (imported - begun),
            "parse_ms": 1000 * (parsed - imported),
        }
    )
)
