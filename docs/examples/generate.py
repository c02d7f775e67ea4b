"""Ways to generate a picture."""

from airflow.sdk import DAG, get_current_context, task

from deepshi_provider.operators.images import DeepshiGenerateImageOperator

with DAG("generate", params={"season": "winter", "side": 512}):
    # [START templates]
    DeepshiGenerateImageOperator(
        task_id="templated",
        prompt="a village in {{ params.season }}",
        width="{{ params.side }}",
        height="{{ params.side }}",
    )
    # [END templates]

    # [START mapped]
    DeepshiGenerateImageOperator.partial(task_id="animal", width=512, height=512).expand(
        prompt=["a fox", "an owl", "a hare"]
    )
    # [END mapped]

    # [START write_back]
    @task
    def goods() -> list[dict]:
        return [{"prompt": "a lamp", "key": 7}, {"prompt": "a chair", "key": 8}, {"prompt": "a shoe", "key": 9}]

    pictures = DeepshiGenerateImageOperator.partial(task_id="pictures", width=512, height=512).expand_kwargs(goods())

    @task(trigger_rule="all_done")  # also if the chair was refused; then there are two results
    def write_back(results: list[dict]) -> list[dict]:
        return [{"id": result["key"], "picture": result["images"][0]["uri"]} for result in results]

    write_back(pictures.output)
    # [END write_back]

    # [START several]
    DeepshiGenerateImageOperator(
        task_id="four", prompt="a paper boat", model="nano-banana-2", n=4, aspect_ratio="1:1", resolution="1K"
    )
    # [END several]

    # [START fallbacks]
    DeepshiGenerateImageOperator(
        task_id="surely",
        prompt="a pier",
        width=1024,
        height=768,
        fallbacks=[
            {"model": "flux-2-pro"},
            {"model": "nano-banana-2", "width": None, "height": None, "aspect_ratio": "4:3", "resolution": "1K"},
        ],
    )
    # [END fallbacks]

    # [START other_fields]
    DeepshiGenerateImageOperator(
        task_id="styled", prompt="a bridge", width=512, height=512, seed=7, extra_params={"style": "ink"}
    )
    # [END other_fields]

    # [START result]
    picture = DeepshiGenerateImageOperator(task_id="picture", prompt="a kite", width=512, height=512)

    @task
    def publish(result: dict) -> str:
        cost = get_current_context()["ti"].xcom_pull(task_ids="picture", key="cost_usd")
        image = result["images"][0]
        return f"{image['uri']}: {image['width']} x {image['height']} pixels, ${cost:.6f}"

    publish(picture.output)
    # [END result]
