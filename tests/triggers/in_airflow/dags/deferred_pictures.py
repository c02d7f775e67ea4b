"""A typical DAG with one image task. Prompt and directory come from the run's conf."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from deepshi_provider.operators.images import DeepshiGenerateImageOperator

#: Arguments of all pictures here; the run's conf may override the connection's ``output_uri``.
COMMON: dict[str, Any] = {
    "model": "deepshi-banana-pro",
    "width": 64,
    "height": 48,
    "output_uri": "{{ dag_run.conf.get('output_uri') }}",
    "output_conn_id": "{{ dag_run.conf.get('output_conn_id') }}",
    "retry_delay": timedelta(seconds=0),
}


def picture_dag(dag_id: str, **policies: Any) -> None:
    with DAG(dag_id, schedule=None):
        DeepshiGenerateImageOperator(task_id="image", prompt="{{ dag_run.conf['prompt'] }}", **COMMON, **policies)


picture_dag("deferred", deferrable=True)
picture_dag("deferred_never_twice", deferrable=True, max_resends=0)
picture_dag("deferred_short", deferrable=True, generation_timeout=15, retries=3)
picture_dag("blocking", deferrable=False, retries=1)
picture_dag("blocking_never_twice", deferrable=False, retries=1, max_resends=0)

with DAG("twins", schedule=None, render_template_as_native_obj=True):
    for name in ("blocking", "deferred"):
        DeepshiGenerateImageOperator(
            task_id=name,
            prompt="{{ dag_run.conf['prompt'] }}",
            model="flux-2-pro",
            n=2,
            width=96,
            height=64,
            seed=7,
            output_format="jpeg",
            deferrable=name == "deferred",
        )

with DAG("long_prompt", schedule=None):
    DeepshiGenerateImageOperator(
        task_id="image",
        prompt="{{ (dag_run.conf['prompt'] * 2000)[:32000] }}",
        model="nano-banana-2",
        n=4,
        preflight="off",
        deferrable=True,
    )

with DAG("many", schedule=None, max_active_tasks=256):

    @task(show_return_value_in_logs=False)
    def prompts(dag_run: Any = None) -> list[str]:
        return [f"{dag_run.conf['prompt']} {number}" for number in range(dag_run.conf["count"])]

    DeepshiGenerateImageOperator.partial(
        task_id="image",
        model="deepshi-banana-pro",
        width=64,
        height=48,
        output_uri="{{ (dag_run.conf['output_uri'] ~ '/' ~ ti.map_index) if 'output_uri' in dag_run.conf else '' }}",
        output_conn_id="{{ dag_run.conf.get('output_conn_id') }}",
        deferrable=True,
    ).expand(prompt=prompts())
