"""A model checks each picture before the DAG continues, with Airflow's provider ``common.ai``.

The model gets the stored picture by its URI and the connection of its store. Needs ``deepshi_default`` with
``output_uri`` in its extra, apache-airflow-providers-common-ai 1.0 or newer, and its connection ``pydanticai_default``
to a model with image input.
"""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.providers.common.ai.operators.llm_file_analysis import LLMFileAnalysisOperator
from airflow.sdk import DAG, task
from pydantic import BaseModel

from deepshi_provider.operators.images import DeepshiGenerateImageOperator


class Verdict(BaseModel):
    """The model's verdict on a picture."""

    is_unusable: bool
    reason: str


# [START llm_check]
with DAG(
    "llm_check",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["deepshi", "example"],
) as llm_check_dag:
    draw = DeepshiGenerateImageOperator(
        task_id="draw", prompt="a red enamel mug on white, no text", model="deepshi-banana-pro", width=1024, height=768
    )
    look = LLMFileAnalysisOperator(
        task_id="look",
        llm_conn_id="pydanticai_default",
        prompt="Does the picture show anything but one red mug, or any writing? Then it is unusable.",
        file_path="{{ ti.xcom_pull('draw')['images'][0]['uri'] }}",
        file_conn_id="{{ conn.deepshi_default.extra_dejson.get('output_conn_id') or '' }}",
        multi_modal=True,
        max_file_size_bytes=20 * 2**20,
        output_type=Verdict,
        serialize_output=True,
    )

    @task
    def gate(verdict: dict[str, Any]) -> None:
        """Stop the DAG if the model rejects the picture."""
        if verdict["is_unusable"]:
            raise ValueError(verdict["reason"])

    draw >> look
    gate(look.output)
# [END llm_check]
