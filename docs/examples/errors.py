"""What to do about failures in a DAG."""

from airflow.sdk import DAG, task

from deepshi_provider.operators.images import DeepshiGenerateImagesOperator

ROWS = [{"key": "fox", "prompt": "a fox"}, {"key": "owl", "prompt": "an owl"}]

with DAG("errors"):
    # [START hook]
    @task
    def one_picture() -> str:
        from deepshi_provider.api.requests import GenerateRequest
        from deepshi_provider.exceptions import ContentRefused, OutcomeUnknown
        from deepshi_provider.hooks.deepshi import DeepshiHook

        try:
            with DeepshiHook().generate(GenerateRequest(model="deepshi-banana-pro", prompt="a fox")) as result:
                return f"{len(result.images)} picture, ${result.cost_usd}"
        except ContentRefused:
            return "refused; nothing was charged"
        except OutcomeUnknown as err:
            return f"lost; charged: {err.charged}"

    one_picture()
    # [END hook]

    # [START partial]
    DeepshiGenerateImagesOperator(task_id="what_works", requests=ROWS, width=512, height=512, on_error="partial")
    # [END partial]
