"""A run with a budget, and a report at its end."""

from airflow.sdk import DAG

from deepshi_provider.operators.cost_report import DeepshiCostReportOperator
from deepshi_provider.operators.images import DeepshiGenerateImageOperator

# [START report]
with DAG("costs", default_args={"max_run_cost_usd": 2}):
    posters = DeepshiGenerateImageOperator.partial(task_id="posters", width=512, height=512).expand(
        prompt=["a poster about the sea", "a poster about the moon"],
    )
    posters >> DeepshiCostReportOperator(task_id="report", warn_cost_usd=1, max_cost_usd=5)
# [END report]
