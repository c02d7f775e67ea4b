"""Four pictures, a review and downstream tasks, with files and S3, in time and too late."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import Any

from airflow.sdk import DAG, Asset, task

from deepshi_provider.operators.images import (
    DeepshiEditImageOperator,
    DeepshiGenerateImageOperator,
    DeepshiGenerateImagesOperator,
)
from deepshi_provider.operators.review import DeepshiReviewOperator

#: Airflow fails a review whose time is over before the scheduler has seen its process end, which may take seconds.
SOON = timedelta(seconds=15)
ADMIN = {"id": "admin", "name": "admin"}
FOUR: dict[str, Any] = {"model": "nano-banana-2", "aspect_ratio": "1:1", "n": 4}
#: A prompt that must neither be read as Markdown nor end its table.
STRANGE = "a `boat` | ![x](https://example.com/x.png) <img src=x onerror=alert(1)>\n# [red](javascript:alert(2)) ``` |"

for place, conn_id in (("file", "deepshi_default"), ("s3", "deepshi_s3"), ("s3_of_environment", "deepshi_s3_env")):
    common: dict[str, Any] = {"deepshi_conn_id": conn_id}
    with DAG(f"review_{place}", schedule=None):
        drawn = DeepshiGenerateImageOperator(
            task_id="draw", prompt="a red boat {{ run_id }}", key="boat/7", **FOUR, **common
        )
        review = DeepshiReviewOperator(
            task_id="review", images=drawn.output, body="**For the shop.**", assigned_users=[ADMIN], **common
        )
        DeepshiEditImageOperator(task_id="edit", images=review.output, prompt="at night {{ run_id }}", **common)

for default, (place, conn_id) in product(
    ("Approve", "Reject", None), (("file", "deepshi_default"), ("s3", "deepshi_s3"))
):
    common = {"deepshi_conn_id": conn_id}
    with DAG(f"late_{default}_{place}", schedule=None):
        drawn = DeepshiGenerateImageOperator(task_id="draw", prompt="a boat {{ run_id }}", **FOUR, **common)
        review = DeepshiReviewOperator(
            task_id="review", images=drawn.output, defaults=default, response_timeout=SOON, **common
        )
        DeepshiEditImageOperator(task_id="edit", images=review.output, prompt="at night {{ run_id }}", **common)

for default in ("Approve", "Reject"):
    with DAG(f"shop_{default}", schedule=None):
        drawn = DeepshiGenerateImageOperator(task_id="draw", prompt="a boat {{ run_id }}", **FOUR)
        DeepshiReviewOperator(
            task_id="review",
            images=drawn.output,
            defaults=default,
            response_timeout=SOON,
            outlets=[Asset(f"shop_{default}")],
        )

with DAG("review_batch", schedule=None):
    prompts = [STRANGE, "a cup", "a mug"]
    batch = DeepshiGenerateImagesOperator(
        task_id="batch",
        requests=[{"key": f"row-{n}", "prompt": prompt} for n, prompt in enumerate(prompts)],
        model="deepshi-banana-pro",
        width=96,
        height=64,
    )
    review = DeepshiReviewOperator(task_id="review", images=batch.output)

    @task
    def load(chosen: Any) -> list[str]:
        return [image["uri"] for image in chosen["images"]]

    load(review.output)

with DAG("review_each", schedule=None):
    each = DeepshiGenerateImageOperator.partial(task_id="draw", model="deepshi-banana-pro", width=96, height=64).expand(
        prompt=["a green boat", "a blue boat"]
    )
    DeepshiReviewOperator.partial(task_id="review").expand(images=each.output)

with DAG("review_of_nothing", schedule=None):

    @task
    def nothing() -> list[str]:
        return []

    DeepshiReviewOperator(task_id="review", images=nothing())
