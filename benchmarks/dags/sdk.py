"""The vendor's documentation in a ``PythonOperator``."""

import os

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG

from benchmarks.ways import DEFAULTS, prompts, save


def with_the_sdk(prompt: str) -> str:
    """Make a picture as in the vendor's documentation."""
    from openai import OpenAI

    with OpenAI(base_url=f"{os.environ['BENCH_URL']}/v1", api_key="sk-bf-bench", max_retries=0) as client:
        answer = client.images.generate(model="bench", prompt=prompt)
    (image,) = answer.data or []
    return save("sdk", image.b64_json or "")


with DAG("sdk", schedule=None, default_args=DEFAULTS):
    PythonOperator.partial(task_id="picture", python_callable=with_the_sdk).expand(
        op_args=[[prompt] for prompt in prompts("sdk")]
    )
