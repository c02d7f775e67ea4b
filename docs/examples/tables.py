"""A batch from a file of products."""

from airflow.sdk import DAG, BaseHook, ObjectStoragePath, task

from deepshi_provider.operators.images import DeepshiGenerateImagesOperator

HOME = "{{ conn.deepshi_default.extra_dejson.output_uri }}"

with DAG("tables"):

    @task
    def shop() -> None:
        extra = BaseHook.get_connection("deepshi_default").extra_dejson
        place = ObjectStoragePath(extra["output_uri"], conn_id=extra.get("output_conn_id"))
        place.mkdir(parents=True, exist_ok=True)
        lines = "sku,category,name\n007,mugs,red mug\n1_2,mugs,blue mug\n12:30,lamps,green lamp\n"
        (place / "shop.csv").write_text(lines)

    # [START tables]
    render = DeepshiGenerateImagesOperator(
        task_id="render",
        requests_uri=f"{HOME}/shop.csv",
        prompt="Studio photo of a {name}",
        key_column="sku",
        carry="*",
        output_uri=f"{HOME}/shop",
    )
    # [END tables]

    shop() >> render
