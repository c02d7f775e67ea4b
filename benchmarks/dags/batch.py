"""A batch in one task, with different numbers of concurrent requests."""

from airflow.sdk import DAG

from benchmarks.ways import DEFAULTS, prompts
from deepshi_provider.operators.images import DeepshiGenerateImagesOperator


def rows(way: str) -> list[dict[str, str]]:
    """Return the rows of a batch."""
    return [{"key": f"row-{number}", "prompt": prompt} for number, prompt in enumerate(prompts(way))]


for at_once in (8, 64, 200):
    with DAG(f"batch_{at_once}", schedule=None, default_args=DEFAULTS) as dag:
        DeepshiGenerateImagesOperator(
            task_id="pictures", requests=rows(dag.dag_id), model="bench", max_concurrency=at_once
        )
