"""Who hears of what has been spent: mail, Slack, and any notifier of Airflow."""

import httpx
from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import DAG, BaseHook

from deepshi_provider.operators.images import DeepshiGenerateImageOperator
from deepshi_provider.operators.notifications import WithCosts, task_costs


# [START slack]
def tell_slack(context):
    webhook = BaseHook.get_connection("slack_webhook").password
    httpx.post(webhook, json={"text": task_costs(context).text}).raise_for_status()


# [END slack]

# [START mail]
mail = SmtpNotifier(
    from_email="airflow@example.com",
    to="team-a@example.com",
    subject="{{ ti.task_id }} has cost {{ deepshi.in_words }}",
    html_content="<pre>{{ deepshi.text | e }}</pre>",
)
warning = SmtpNotifier(
    from_email="airflow@example.com",
    to="team-a@example.com",
    subject="A budget is nearly spent",
    html_content="{{ deepshi_budget.text | e }}",
)

with DAG(
    "budgets",
    default_args={
        "budget_group": "team-a",
        "on_budget_warning": [warning],
        "on_failure_callback": [WithCosts(mail), tell_slack],
    },
):
    DeepshiGenerateImageOperator(task_id="poster", prompt="a poster about the sea", width=512, height=512)
# [END mail]
