"""A chain of edits: each takes the result of the one before, and the last one combines several pictures.

Shows an edit of an edit, an edit with several input images, streaming forced off, waiting in the triggerer
(``deferrable=True``), and a cost report at the end. Needs the connection ``deepshi_default`` with ``output_uri`` in its
extra.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG

from deepshi_provider.operators.cost_report import DeepshiCostReportOperator
from deepshi_provider.operators.images import DeepshiEditImageOperator, DeepshiGenerateImageOperator

# [START edit_chain]
with DAG(
    "edit_chain",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    params={"deferrable": False},
    tags=["deepshi", "example"],
) as edit_chain_dag:
    house = DeepshiGenerateImageOperator(
        task_id="house", prompt="a small house by the sea", model="nano-banana-2", aspect_ratio="16:9", resolution="1K"
    )
    at_night = DeepshiEditImageOperator(
        task_id="at_night",
        images=house.output,
        prompt="the same house at night",
        model="deepshi-image-1",
        deferrable=True,
    )
    in_winter = DeepshiEditImageOperator(
        task_id="in_winter",
        images=at_night.output,
        prompt="the same, in deep snow",
        model="deepshi-image-1",
        stream=False,
    )
    triptych = DeepshiEditImageOperator(
        task_id="triptych",
        images=[house.output, at_night.output, in_winter.output],
        prompt="the three pictures side by side, as a poster",
        model="seedream-4.5",
        image_size="auto_2K",
    )
    triptych >> DeepshiCostReportOperator(task_id="report", warn_cost_usd=1)
# [END edit_chain]
