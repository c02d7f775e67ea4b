"""A run with all kinds of costs: a mapped task with one index charged twice, an edit, a batch, a report."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from deepshi_provider.operators.cost_report import DeepshiCostReportOperator
from deepshi_provider.operators.images import (
    DeepshiEditImageOperator,
    DeepshiGenerateImageOperator,
    DeepshiGenerateImagesOperator,
)

SMALL: dict[str, Any] = {"width": 64, "height": 48, "preflight": "off"}
LARGE = {"key": "large", "prompt": "large", "model": "nano-banana-2", "resolution": "1K", "width": "", "height": ""}
AGAIN: dict[str, Any] = {"retries": 1, "retry_delay": timedelta(0)}


def costly(dag_id: str, *, deferrable: bool, fails: bool = False, max_cost_usd: str | None = None) -> None:
    """Create the DAG, with the report as its last task."""
    with DAG(dag_id, schedule=None):
        boats = DeepshiGenerateImageOperator.partial(task_id="boats", deferrable=deferrable, **AGAIN, **SMALL).expand(
            prompt=["a red boat", "a spoilt boat", "a lost boat"]
        )
        blue = DeepshiEditImageOperator(
            task_id="blue",
            images="{{ ti.xcom_pull(task_ids='boats', map_indexes=0) }}",
            prompt="make it blue",
            model="deepshi-image-1",
            deferrable=deferrable,
            **SMALL,
        )
        catalog = DeepshiGenerateImagesOperator(
            task_id="catalog",
            trigger_rule="all_done",
            requests=[*({"key": f"row-{number}", "prompt": f"row {number}"} for number in range(12)), LARGE],
            max_run_cost_usd="{{ 10 }}",
            deferrable=deferrable,
            **SMALL,
        )

        @task.deepshi_image(**SMALL)
        def animal(name: str) -> str:
            return f"a {name}"

        @task.skip_if(lambda _: True)
        @task
        def other() -> None:
            """A task without images."""

        refused = DeepshiGenerateImageOperator(
            task_id="refused", prompt="a refused boat", trigger_rule="all_done", **SMALL
        )
        never = DeepshiGenerateImageOperator(task_id="never", prompt="never", **SMALL)
        report = DeepshiCostReportOperator(
            task_id="report",
            fail_on_failed_tasks=fails,
            max_cost_usd=max_cost_usd,
            warn_cost_usd="0.000001",
        )
        animals = animal.expand(name=["fox", "owl"])
        boats >> blue >> catalog >> animals >> other() >> refused >> never >> report
        [boats, blue, catalog, animals, refused] >> report


costly("costly", deferrable=False)
costly("too_costly", deferrable=True, fails=True, max_cost_usd="0.01")
