"""A schedule without a natural end of spending: two pictures of $0.134 every ten seconds."""

from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG

from deepshi_provider.operators.images import DeepshiGenerateImageOperator

with DAG(
    "every_few_seconds",
    schedule=timedelta(seconds=10),
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=2,
):
    for number in range(2):
        DeepshiGenerateImageOperator(
            task_id=f"picture_{number}",
            deepshi_conn_id="deepshi_limited",
            prompt=f"{{{{ run_id }}}} {number}",
            model="nano-banana-pro",
            resolution="1K",
            preflight="off",
            deferrable=number % 2 == 1,
        )
