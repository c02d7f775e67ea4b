"""Every way to use ``@task.deepshi_image``."""

from __future__ import annotations

from typing import Any

from airflow.sdk import dag, task

SMALL: dict[str, Any] = {"width": 64, "height": 48}


@dag(schedule=None)
def decorated() -> None:
    """One task for each way."""

    @task.deepshi_image(**SMALL)
    def prompt(thing: str = "cup") -> str:
        return f"a {thing}"

    @task.deepshi_image(**SMALL, retries=0)
    def fields() -> dict[str, Any]:
        return {"prompt": "a jug", "width": 80, "extra_params": {"style": "flat"}}

    @task.deepshi_image(**SMALL, max_concurrency=2)
    def rows() -> list[dict[str, Any]]:
        return [{"key": key, "prompt": f"the letter {key}"} for key in "ab"]

    @task.deepshi_image(**SMALL, deferrable=True)
    def later() -> list[dict[str, Any]]:
        return [{"key": key, "prompt": f"the letter {key}"} for key in "cd"]

    @task.deepshi_image(model="deepshi-image-1", **SMALL)
    def edit(image: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": "make it blue", "images": image}

    @task.deepshi_image(**SMALL)
    def of_context(params: Any = None) -> str:
        return f"{len(params)} params"

    @task
    def costs(jug: Any, cups: Any) -> float:
        return float(jug["cost_usd"] + sum(cup["cost_usd"] for cup in cups[:]))

    cup = prompt("mug")
    edit(cup)
    rows()
    later()
    of_context()
    costs(fields(), prompt.override(task_id="mapped").expand(thing=["cat", "dog"]))


decorated_dag = decorated()
