"""A batch with rows from an upstream task."""

from airflow.sdk import DAG, Asset, task

from deepshi_provider.operators.images import DeepshiGenerateImagesOperator

with DAG("batch"):
    # [START batch]
    @task
    def rows() -> list[dict]:
        return [{"key": f"mug-{number}", "prompt": f"a mug with the number {number}"} for number in range(20)]

    DeepshiGenerateImagesOperator(
        task_id="render",
        requests=rows(),  # or requests_uri="s3://bucket/catalog.parquet"
        model="deepshi-banana-pro",
        width=512,
        height=512,
        output_uri="{{ conn.deepshi_default.extra_dejson.output_uri }}/mugs",  # the same in every run
        max_concurrency=16,
        max_cost_usd=5,
        retries=3,
        outlets=[Asset("mugs")],
    )
    # [END batch]
