"""Generate four pictures, let a person choose, and edit the chosen ones.

While the task ``review`` waits, it holds no worker. Answer it under "Required Actions" in Airflow's UI. Needs the
connection ``deepshi_default`` with ``output_uri`` in its extra.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from deepshi_provider.operators.images import DeepshiEditImageOperator, DeepshiGenerateImageOperator
from deepshi_provider.operators.review import DeepshiReviewOperator

# [START review]
with DAG(
    "review",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["deepshi", "example"],
) as review_dag:
    drafts = DeepshiGenerateImageOperator(
        task_id="drafts",
        prompt="a paper boat on a pond, poster for a toy shop",
        model="nano-banana-2",
        aspect_ratio="4:3",
        resolution="1K",
        n=4,
    )
    review = DeepshiReviewOperator(
        task_id="review",
        images=drafts.output,
        subject="Which drafts go to the shop?",
        response_timeout=timedelta(days=2),
        defaults="Reject",  # no picture continues unseen
    )
    DeepshiEditImageOperator(
        task_id="poster", images=review.output, prompt="combine them into one poster", model="deepshi-image-1"
    )
# [END review]
