"""A generation that waits in the triggerer."""

from airflow.sdk import DAG

from deepshi_provider.operators.images import DeepshiGenerateImageOperator

with DAG("deferrable"):
    # [START deferrable]
    DeepshiGenerateImageOperator(
        task_id="large",
        prompt="a harbour at dawn, from the air",
        model="nano-banana-pro",
        aspect_ratio="16:9",
        resolution="4K",
        deferrable=True,
    )
    # [END deferrable]
