"""Where images go, and what is bought again."""

from airflow.sdk import DAG

from deepshi_provider.operators.images import DeepshiGenerateImageOperator

with DAG("storage"):
    # [START shared]
    DeepshiGenerateImageOperator(
        task_id="logo",
        prompt="a logo with a lighthouse",
        width=512,
        height=512,
        output_uri="{{ conn.deepshi_default.extra_dejson.output_uri }}/brand/logo",  # the same in every run
    )
    # [END shared]

    # [START anew]
    DeepshiGenerateImageOperator(task_id="anew", prompt="a surprise", width=512, height=512, reuse=False)
    # [END anew]

    # [START once]
    DeepshiGenerateImageOperator(task_id="at_most_once", prompt="a costly poster", width=512, height=512, max_resends=0)
    # [END once]
