"""Settings of a DAG that runs every day without anyone looking."""

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from deepshi_provider.operators.images import DeepshiGenerateImageOperator

# [START production]
with DAG(
    "nightly_posters",
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={
        "retries": 3,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": True,
        "pool": "deepshi",
    },
):
    DeepshiGenerateImageOperator.partial(
        task_id="poster",
        model="nano-banana-pro",
        aspect_ratio="3:4",
        resolution="2K",
        deferrable=True,
        generation_timeout=900,
    ).expand(prompt=["a poster about the sea", "a poster about the hills"])
# [END production]
