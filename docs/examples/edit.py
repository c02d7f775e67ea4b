"""Ways to name the images that an edit starts from."""

from airflow.sdk import DAG

from deepshi_provider.operators.images import DeepshiEditImageOperator, DeepshiGenerateImageOperator

with DAG("edit"):
    # [START edit]
    mug = DeepshiGenerateImageOperator(task_id="mug", prompt="a mug", width=512, height=512)
    table = DeepshiGenerateImageOperator(task_id="table", prompt="a wooden table", width=512, height=512)

    DeepshiEditImageOperator(  # the result of a task, as it is
        task_id="blue", images=mug.output, prompt="make it blue", model="deepshi-image-1"
    )
    DeepshiEditImageOperator(  # several images
        task_id="together",
        images=[mug.output, table.output],
        prompt="put the mug on the table",
        model="deepshi-image-1",
    )
    DeepshiEditImageOperator(  # a URI
        task_id="by_uri",
        images="{{ ti.xcom_pull(task_ids='mug')['images'][0]['uri'] }}",
        prompt="as a pencil drawing",
        model="deepshi-image-1",
    ).set_upstream(mug)
    # [END edit]

    # [START mapped]
    several = DeepshiGenerateImageOperator.partial(task_id="several", width=512, height=512).expand(
        prompt=["a cup", "a jug"]
    )
    DeepshiEditImageOperator.partial(task_id="each", prompt="on a white table", model="deepshi-image-1").expand(
        images=several.output
    )
    # [END mapped]
