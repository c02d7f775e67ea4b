"""One task per sizing style."""

from airflow.sdk import DAG

from deepshi_provider.operators.images import DeepshiGenerateImageOperator

with DAG("sizes"):
    # [START sizes]
    DeepshiGenerateImageOperator(
        task_id="by_pixels", prompt="a lighthouse", model="deepshi-banana-pro", width=1024, height=768
    )
    DeepshiGenerateImageOperator(
        task_id="by_tier", prompt="a lighthouse", model="nano-banana-2", aspect_ratio="16:9", resolution="1K"
    )
    DeepshiGenerateImageOperator(
        task_id="by_ratio", prompt="a lighthouse", model="grok-imagine", aspect_ratio="3:2", output_format="jpeg"
    )
    DeepshiGenerateImageOperator(
        task_id="by_preset", prompt="a lighthouse", model="seedream-4.5", image_size="1024x1024"
    )
    # [END sizes]

    # [START warn]
    DeepshiGenerateImageOperator(
        task_id="anyway", prompt="a lighthouse", model="deepshi-banana-pro", width=512, height=512, preflight="warn"
    )
    # [END warn]
