"""The DAG of the quickstart: a picture, and an edit of it."""

# [START boats]
from airflow.sdk import DAG

from deepshi_provider.operators.images import DeepshiEditImageOperator, DeepshiGenerateImageOperator

with DAG("boats", params={"colour": "red"}):
    boat = DeepshiGenerateImageOperator(
        task_id="boat",
        prompt="a {{ params.colour }} boat on a calm lake",
        width=1024,
        height=768,
    )
    DeepshiEditImageOperator(
        task_id="at_night",
        images=boat.output,
        prompt="the same boat at night",
        model="deepshi-image-1",
        width=1024,
        height=768,
    )
# [END boats]
