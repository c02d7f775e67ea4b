"""``@task.deepshi_image``: a function returns a prompt, fields, or rows to draw.

Shows the three kinds of return values, and mapping over a list with ``.expand``. Needs the connection
``deepshi_default`` with ``output_uri`` in its extra.
"""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.sdk import dag, task


# [START taskflow]
@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False, tags=["deepshi", "example"])
def taskflow() -> None:
    """Draw what functions return, and add up the cost."""

    @task.deepshi_image(width=512, height=512)
    def animal(name: str) -> str:
        return f"a watercolour of a {name}"

    @task.deepshi_image
    def poster(subject: str) -> Any:
        return {"prompt": f"a poster about {subject}", "model": "seedream-4.5", "image_size": "1024x1024"}

    @task.deepshi_image(width=256, height=256, max_concurrency=4)
    def alphabet() -> Any:
        return [{"key": letter, "prompt": f"the letter {letter}, carved in wood"} for letter in "ABC"]

    @task
    def total(animals: list[dict[str, Any]], others: list[dict[str, Any]]) -> float:
        return float(sum(result["cost_usd"] for result in [*animals[:], *others]))

    total(animal.expand(name=["fox", "owl"]), [poster("the sea"), alphabet()])


# [END taskflow]

taskflow_dag = taskflow()
