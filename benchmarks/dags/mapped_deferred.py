"""This provider's mapped operator, deferred."""

from airflow.sdk import DAG

from benchmarks.ways import DEFAULTS, prompts
from deepshi_provider.operators.images import DeepshiGenerateImageOperator

with DAG("mapped_deferred", schedule=None, default_args=DEFAULTS):
    DeepshiGenerateImageOperator.partial(task_id="picture", model="bench", deferrable=True).expand(
        prompt=prompts("mapped_deferred")
    )
