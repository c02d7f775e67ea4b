"""An agent that draws, with a limit on what it can spend.

Airflow's ``HookToolset`` gives the model one method of the hook. ``max_cost_usd`` is pinned, so the model neither sees
nor changes it. Needs ``deepshi_default`` with ``output_uri`` in its extra, apache-airflow-providers-common-ai 1.0 or
newer, and its connection ``pydanticai_default``.
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.ai.operators.agent import AgentOperator
from airflow.providers.common.ai.toolsets.hook import HookToolset
from airflow.sdk import DAG

from deepshi_provider.hooks.deepshi import DeepshiHook

# [START agent]
with DAG(
    "agent",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["deepshi", "example"],
) as agent_dag:
    AgentOperator(
        task_id="illustrator",
        llm_conn_id="pydanticai_default",
        prompt="Illustrate the fable of the fox and the crane with two pictures; answer with their URIs.",
        toolsets=[HookToolset(DeepshiHook(), allowed_methods=["draw"], pinned_arguments={"max_cost_usd": 0.10})],
    )
# [END agent]
