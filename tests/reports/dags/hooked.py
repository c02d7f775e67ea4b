"""A run with an image task and plain tasks that buy pictures with a hook."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, task

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.operators.cost_report import DeepshiCostReportOperator
from deepshi_provider.operators.images import DeepshiGenerateImageOperator


def buy(prompt: str) -> None:
    request = GenerateRequest(model="deepshi-banana-pro", prompt=prompt, width=64, height=48)
    DeepshiHook().generate(request).close()


with DAG("hooked", schedule=None):

    @task(retries=1, retry_delay=timedelta(0))
    def script(animal: str) -> None:
        """Buy two pictures; each try buys them again."""
        buy(animal)
        buy(f"{animal} in the snow")

    boat = DeepshiGenerateImageOperator(task_id="boat", prompt="a red boat", width=64, height=48, preflight="off")
    everything = DeepshiCostReportOperator(task_id="everything")
    only_boat = DeepshiCostReportOperator(task_id="only_boat", task_ids="boat")
    only_script = DeepshiCostReportOperator(task_id="only_script", task_ids=["script"])
    script.expand(animal=["a fox", "an owl"]) >> boat >> everything >> only_boat >> only_script
