"""A run with a budget, and a report at its end."""

import logging

from airflow.sdk import DAG

from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.operators.cost_report import DeepshiCostReportOperator
from deepshi_provider.operators.images import DeepshiGenerateImageOperator

log = logging.getLogger(__name__)


# [START callback]
def alert(context):
    error = context["exception"]
    if isinstance(error, DeepshiError):
        costs = f"${error.cost_usd}, perhaps ${error.may_have_cost_usd} more"
        log.error("%s, charged: %s, %s", type(error).__name__, error.charged, costs)


# [END callback]

# [START report]
with DAG("costs", default_args={"max_run_cost_usd": 2, "on_failure_callback": alert}):
    posters = DeepshiGenerateImageOperator.partial(task_id="posters", width=512, height=512).expand(
        prompt=["a poster about the sea", "a poster about the moon"],
    )
    posters >> DeepshiCostReportOperator(task_id="report", warn_cost_usd=1, max_cost_usd=5)
# [END report]
