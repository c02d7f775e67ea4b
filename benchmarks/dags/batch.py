"""A batch in one task, with more or less requests at once."""

from airflow.sdk import DAG

from benchmarks.ways import DEFAULTS, PROMPTS
from deepshi_provider.operators.images import DeepshiGenerateImagesOperator

ROWS = [{"key": f"row-{number}", "prompt": prompt} for number, prompt in enumerate(PROMPTS)]

for at_once in (8, 64, 200):
    with DAG(f"batch_{at_once}", schedule=None, default_args=DEFAULTS):
        DeepshiGenerateImagesOperator(task_id="pictures", requests=ROWS, model="bench", max_concurrency=at_once)
