"""This provider's mapped operator, blocking."""

from airflow.sdk import DAG

from benchmarks.ways import DEFAULTS, prompts
from deepshi_provider.operators.images import DeepshiGenerateImageOperator

with DAG("mapped_blocking", schedule=None, default_args=DEFAULTS):
    DeepshiGenerateImageOperator.partial(task_id="picture", model="bench", deferrable=False).expand(
        prompt=prompts("mapped_blocking")
    )
