"""DAGs for the page: pictures of all three kinds, a DAG with restricted access, and one without pictures."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.operators.images import (
    DeepshiEditImageOperator,
    DeepshiGenerateImageOperator,
    DeepshiGenerateImagesOperator,
)

SIZE: dict[str, Any] = {"width": 96, "height": 64}

with DAG("pictures", schedule=None, tags=["shop"], default_args={"owner": "ada"}):
    drawn = DeepshiGenerateImageOperator.partial(
        task_id="draw", model="deepshi-banana-pro", retries=5, retry_delay=timedelta(0), **SIZE
    ).expand(prompt=["a red boat", "a lost boat", "<script>alert(1)</script>"])
    edited = DeepshiEditImageOperator(
        task_id="edit", model="deepshi-image-1", images=drawn.output, prompt="javascript:alert(2)", **SIZE
    )
    edited >> DeepshiGenerateImagesOperator(
        task_id="batch",
        model="seedream-4.5",
        image_size="1024x1024",
        prompt="the letter {key}",
        requests=[{"key": key} for key in "ABC"],
    )

with DAG("secret_pictures", schedule=None):
    DeepshiGenerateImageOperator(
        task_id="draw",
        model="deepshi-banana-pro",
        prompt="a secret boat",
        key="boat/7",
        metadata={"table": "boats"},
        aspect_ratio="1:1",  # ignored by the model, so there is a warning
        preflight="warn",
        **SIZE,
    )

with DAG("hooked", schedule=None):

    @task
    def ask() -> None:
        with DeepshiHook().generate(GenerateRequest(model="deepshi-banana-pro", prompt="by hook", **SIZE)):
            pass

    ask()

with DAG("strange", schedule=None):
    EmptyOperator(task_id="nothing")
