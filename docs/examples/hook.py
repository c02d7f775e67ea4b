"""The hook in a Python task, for what the operators do not do."""

from pathlib import Path

from airflow.sdk import DAG, task

with DAG("hook"):
    # [START hook]
    @task
    def picture() -> str:
        from deepshi_provider.api.requests import GenerateRequest
        from deepshi_provider.hooks.deepshi import DeepshiHook

        hook = DeepshiHook("deepshi_default")
        request = GenerateRequest(model="deepshi-banana-pro", prompt="a red boat", width=512, height=384)
        with hook.generate(request) as result:
            path = result.images[0].save(Path("boat.png").absolute())
            return f"{path} cost {result.cost_usd}"

    picture()
    # [END hook]

    # [START models]
    @task
    def models() -> list[str]:
        from deepshi_provider.hooks.deepshi import DeepshiHook

        return [
            f"{model.id}: sized by {' and '.join(model.sizing)}, edits up to {model.max_input_images or 0} images"
            for model in DeepshiHook().list_models()
            if model.makes_images
        ]

    models()
    # [END models]
