"""Image tasks that update assets."""

from __future__ import annotations

from airflow.sdk import DAG, Asset, AssetAlias

from deepshi_provider.operators.images import DeepshiGenerateImageOperator, DeepshiGenerateImagesOperator

ROWS = [{"key": f"cup {number}", "prompt": f"a cup with the number {number}"} for number in range(3)]
OUTLETS = [Asset("pictures"), AssetAlias("each-picture")]

with DAG("outlets", schedule=None) as outlets_dag:
    DeepshiGenerateImagesOperator(task_id="blocking", requests=ROWS, width=64, height=48, outlets=OUTLETS)
    DeepshiGenerateImagesOperator(
        task_id="deferred", requests=ROWS, width=64, height=48, outlets=OUTLETS, deferrable=True
    )
    DeepshiGenerateImageOperator(task_id="single", prompt="a boat", width=64, height=48, outlets=OUTLETS)
