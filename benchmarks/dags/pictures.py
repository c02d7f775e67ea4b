"""The ways of making many pictures with Airflow that :mod:`benchmarks.through_airflow` compares: a DAG for each.

What all share comes from the environment: ``BENCH_PROMPT`` (which tells the server how to answer), ``BENCH_PICTURES``
(a quarter of them is made by deferred mapped tasks, which take longest), and ``BENCH_MADE``, the directory below which
each DAG has its own. The ways without the provider do the least that leaves a picture there.
"""

from __future__ import annotations

import base64
import os
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG

from deepshi_provider.operators.images import DeepshiGenerateImageOperator, DeepshiGenerateImagesOperator

PROMPT = os.environ["BENCH_PROMPT"]
PROMPTS = [f"{PROMPT}, row {number}" for number in range(int(os.environ["BENCH_PICTURES"]))]
BATCH = [{"key": f"row-{number}", "prompt": prompt} for number, prompt in enumerate(PROMPTS)]
# A failure of Airflow's own, which happens on a loaded machine, must not end the whole measurement.
DEFAULTS = {"retries": 1, "retry_delay": timedelta(seconds=1)}


def mapped(*, deferrable: bool) -> list[str]:
    """Return the prompts of mapped tasks."""
    return PROMPTS[: len(PROMPTS) // 4] if deferrable else PROMPTS


def save(way: str, b64_json: str) -> str:
    """Write a picture into the DAG's directory, and return its path."""
    path = Path(os.environ["BENCH_MADE"], way, f"{uuid.uuid4()}.png")
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(base64.b64decode(b64_json))
    return str(path)


def with_the_sdk(prompt: str) -> str:
    """Make a picture as the vendor's documentation shows it."""
    from openai import OpenAI

    with OpenAI(base_url=f"{os.environ['BENCH_URL']}/v1", api_key="sk-bf-bench", max_retries=0) as client:
        answer = client.images.generate(model="bench", prompt=prompt)
    (image,) = answer.data or []
    return save("sdk", image.b64_json or "")


def over_http(way: str, *, deferrable: bool) -> None:
    """Add the mapped operator of the http provider."""

    def saved(response: Any) -> str:
        return save(way, response.json()["data"][0]["b64_json"])

    HttpOperator.partial(
        task_id="picture",
        http_conn_id="bench_http",
        endpoint="v1/images/generations",
        headers={"Content-Type": "application/json"},
        response_filter=saved,
        deferrable=deferrable,
    ).expand(data=[f'{{"model": "bench", "prompt": "{prompt}"}}' for prompt in mapped(deferrable=deferrable)])


for at_once in (8, 64, 200):
    with DAG(f"batch_{at_once}", schedule=None, default_args=DEFAULTS):
        DeepshiGenerateImagesOperator(task_id="pictures", requests=BATCH, model="bench", max_concurrency=at_once)

for name, is_deferred in (("blocking", False), ("deferred", True)):
    with DAG(f"mapped_{name}", schedule=None, default_args=DEFAULTS):
        DeepshiGenerateImageOperator.partial(task_id="picture", model="bench", deferrable=is_deferred).expand(
            prompt=mapped(deferrable=is_deferred)
        )
    with DAG(f"http_{name}", schedule=None, default_args=DEFAULTS):
        over_http(f"http_{name}", deferrable=is_deferred)

with DAG("warm", schedule=None, default_args=DEFAULTS):
    PythonOperator(task_id="nothing", python_callable=os.getpid)

with DAG("sdk", schedule=None, default_args=DEFAULTS):
    PythonOperator.partial(task_id="picture", python_callable=with_the_sdk).expand(
        op_args=[[prompt] for prompt in PROMPTS]
    )
