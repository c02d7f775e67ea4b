"""Product pictures from end to end: generate, edit, then use the files and their costs.

Shows templated sizing, mapping over a list, an edit of a generate task's result, and a downstream task that
reads the pictures from object storage and their cost from XCom. Needs the connection ``deepshi_default`` with
``output_uri`` in its extra, and Pillow.
"""

from __future__ import annotations

import csv
import io
from typing import Any

import pendulum
from airflow.sdk import BaseHook, ObjectStoragePath, dag, get_current_context, task
from PIL import Image, ImageOps

from deepshi_provider.operators.images import DeepshiEditImageOperator, DeepshiGenerateImageOperator

PRODUCTS = ["a red enamel mug", "a walnut desk lamp", "a pair of canvas sneakers"]
TILE = (320, 240)


# [START product_images]
@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    params={"width": 1024, "height": 768},
    tags=["deepshi", "example"],
)
def product_images() -> None:
    """Generate a picture per product, put each in a scene, and build a contact sheet and a price list."""
    generate = DeepshiGenerateImageOperator.partial(
        task_id="generate",
        model="deepshi-banana-pro",
        width="{{ params.width }}",
        height="{{ params.height }}",
        retries=2,
    ).expand(prompt=[f"Studio photo of {product}, white background" for product in PRODUCTS])

    edit = DeepshiEditImageOperator.partial(
        task_id="edit",
        model="deepshi-image-1",
        prompt="Put the product on a wooden table by a window, morning light",
        width="{{ params.width }}",
        height="{{ params.height }}",
        retries=2,
    ).expand(images=generate.output)

    contact_sheet(generate.output, edit.output)


# [END product_images]


@task
def contact_sheet(generated: list[dict[str, Any]], edited: list[dict[str, Any]]) -> dict[str, str]:
    """Write ``contact-sheet.png`` and ``costs.csv`` beside the pictures of this run.

    :returns: the two URIs and the total in USD.
    """
    # One call each; iterating over the results of mapped tasks asks for one after another, until one is missing.
    generated, edited = generated[:], edited[:]
    context = get_current_context()
    pictures = [image for result in [*generated, *edited] for image in result["images"]]
    extra = BaseHook.get_connection("deepshi_default").extra_dejson
    folder = ObjectStoragePath(
        f"{extra['output_uri']}/reports/{context['ti'].run_id.replace(':', '-').replace('+', '_')}",
        conn_id=extra.get("output_conn_id"),
    )
    if folder.protocol == "file":
        folder.mkdir(parents=True, exist_ok=True)
    (folder / "contact-sheet.png").write_bytes(
        _sheet([image["uri"] for image in pictures], extra.get("output_conn_id"))
    )

    rows = [("task", "picture", "size", "model", "cost_usd")]
    for task_id, results in (("generate", generated), ("edit", edited)):
        costs = context["ti"].xcom_pull(task_ids=task_id, key="cost_usd", map_indexes=range(len(results)))
        for index, (result, cost) in enumerate(zip(results, costs, strict=True)):
            task_name = f"{task_id}[{index}]"
            rows += [
                (task_name, i["uri"], f"{i['width']}x{i['height']}", result["model"], str(cost))
                for i in result["images"]
            ]
    table = io.StringIO()
    csv.writer(table).writerows(rows)
    (folder / "costs.csv").write_text(table.getvalue())
    return {"contact_sheet": f"{folder}/contact-sheet.png", "costs": f"{folder}/costs.csv"}


def _sheet(uris: list[str], conn_id: str | None) -> bytes:
    """Return a PNG with all pictures side by side."""
    sheet = Image.new("RGB", (TILE[0] * 3, TILE[1] * -(-len(uris) // 3)), "white")
    for position, uri in enumerate(uris):
        with ObjectStoragePath(uri, conn_id=conn_id).open("rb") as file:
            tile = ImageOps.pad(Image.open(file).convert("RGB"), TILE, color="white")
        sheet.paste(tile, (position % 3 * TILE[0], position // 3 * TILE[1]))
    png = io.BytesIO()
    sheet.save(png, "PNG")
    return png.getvalue()


product_images_dag = product_images()
