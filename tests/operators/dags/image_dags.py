"""DAGs for ``test_dags.py``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from deepshi_provider.operators.images import DeepshiEditImageOperator, DeepshiGenerateImageOperator

SMALL: dict[str, Any] = {"width": 64, "height": 48}
AT_ONCE = timedelta(0)

with DAG("mapped", schedule=None, params={"format": "jpeg"}):
    DeepshiGenerateImageOperator.partial(
        task_id="boats", output_format="{{ params.format }}", seed="{{ ti.map_index }}", **SMALL
    ).expand(prompt=["one boat", "two boats", "a boat of {{ params.format }}"])

with DAG("mapped_over_xcom", schedule=None):

    @task
    def prompts() -> list[str]:
        return ["{{ not a template }}", "b"]

    @task
    def sizes() -> list[dict[str, Any]]:
        return [{"width": "64"}, {"width": 65}]

    DeepshiGenerateImageOperator.partial(task_id="boats", **SMALL).expand(prompt=prompts())
    DeepshiGenerateImageOperator.partial(task_id="sized", prompt="sized", height=48).expand_kwargs(sizes())

with DAG("chain", schedule=None, params={"width": 64}):
    made = DeepshiGenerateImageOperator(
        task_id="made", prompt="a pair of boats", model="flux-2-pro", n=2, width="{{ params.width }}", height="48"
    )
    blue = DeepshiEditImageOperator(
        task_id="blue", images=made.output, prompt="make it blue", model="deepshi-image-1", **SMALL
    )
    again = DeepshiEditImageOperator(
        task_id="again",
        images="{{ ti.xcom_pull(task_ids='blue') }}",
        prompt="make it red",
        model="deepshi-image-1",
        **SMALL,
    )

    @task
    def total(one: Any, other: Any) -> dict[str, Any]:
        return {"cost_usd": one["cost_usd"] + other["cost_usd"], "uris": [image["uri"] for image in other["images"]]}

    made >> blue >> again
    total(made.output, blue.output)

with DAG("native", schedule=None, render_template_as_native_obj=True, params={"width": 64, "none": None}):
    first = DeepshiGenerateImageOperator(
        task_id="first", prompt="1984", width="{{ params.width }}", height="{{ 40 + 8 }}", seed="{{ params.none }}"
    )
    (
        DeepshiEditImageOperator(
            task_id="second",
            images="{{ ti.xcom_pull(task_ids='first')['images'] }}",
            prompt="native",
            model="deepshi-image-1",
            **SMALL,
        )
        << first
    )

with DAG("retried", schedule=None, default_args={"retries": 2, "retry_delay": AT_ONCE, "preflight": "off", "seed": 7}):
    DeepshiGenerateImageOperator(task_id="spoilt", prompt="a spoilt boat", **SMALL)
    DeepshiGenerateImageOperator(task_id="lost", prompt="a lost boat", **SMALL)
    DeepshiGenerateImageOperator(task_id="refused", prompt="a refused boat", **SMALL)
    DeepshiGenerateImageOperator(task_id="never", prompt="a boat sent once", max_resends=0, **SMALL)
    DeepshiGenerateImageOperator(task_id="wrong", prompt="a boat", width="{{ 'wide' }}", height=48)
