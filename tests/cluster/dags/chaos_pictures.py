"""200 pictures in the four ways that the provider supports, each with a unique prompt, ``<task> <number>``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from deepshi_provider.operators.images import DeepshiGenerateImageOperator, DeepshiGenerateImagesOperator

#: Number of pictures for each task.
SINGLE, BATCH = 40, 60

COMMON: dict[str, Any] = {
    "model": "deepshi-banana-pro",
    "width": 64,
    "height": 48,
    # Several kills may hit the same picture.
    "max_resends": 3,
    "retries": 10,
    "retry_delay": timedelta(seconds=1),
}


def prompts(task_id: str, count: int) -> list[str]:
    return [f"{task_id} {number}" for number in range(count)]


with DAG("chaos", schedule=None):
    for task_id, deferrable in (("blocking", False), ("deferred", True)):
        DeepshiGenerateImageOperator.partial(task_id=task_id, deferrable=deferrable, **COMMON).expand(
            prompt=prompts(task_id, SINGLE)
        )
    for task_id, deferrable in (("batch_blocking", False), ("batch_deferred", True)):
        DeepshiGenerateImagesOperator(
            task_id=task_id,
            requests=[{"key": p.rpartition(" ")[2], "prompt": p} for p in prompts(task_id, BATCH)],
            max_concurrency=3,
            deferrable=deferrable,
            **COMMON,
        )
