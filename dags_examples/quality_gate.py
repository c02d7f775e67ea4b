"""A quality gate without a person or a model: fail on pictures of a wrong size and on pictures that look alike.

It opens each picture of a batch by its manifest, with Pillow. Needs the connection ``deepshi_default`` with
``output_uri`` in its extra, and Pillow.
"""

from __future__ import annotations

import json
from typing import Any

import pendulum
from airflow.sdk import BaseHook, ObjectStoragePath, dag, task
from PIL import Image

from deepshi_provider.operators.images import DeepshiGenerateImagesOperator

SIDE = 512
#: Minimum number of equal bits, of 256, of two pictures that look alike.
ALIKE = 250


@task
def rows(params: dict[str, Any] | None = None) -> list[dict[str, str]]:
    """Return a row per product of the run's parameters."""
    products = (params or {})["products"]
    return [{"key": name.replace(" ", "-"), "prompt": f"Studio photo of {name}, white background"} for name in products]


# [START quality_gate]
@task
def check(batch: dict[str, Any]) -> int:
    """Fail if a picture has the wrong size or looks like another one; return the number of pictures."""
    conn_id = BaseHook.get_connection("deepshi_default").extra_dejson.get("output_conn_id")
    wrong, seen = [], dict[str, int]()
    with ObjectStoragePath(batch["manifest_uri"], conn_id=conn_id).open("rb") as lines:
        uris = {row["key"]: row["uri"] for row in map(json.loads, lines) if row["uri"]}
    for key, uri in uris.items():
        with ObjectStoragePath(uri, conn_id=conn_id).open("rb") as file, Image.open(file) as image:
            if image.size != (SIDE, SIDE):
                wrong.append(f"{key} has {image.width}x{image.height} pixels")
            bits = look(image)
        alike = (other for other, theirs in seen.items() if 256 - (bits ^ theirs).bit_count() >= ALIKE)
        wrong += [f"{key} looks like {other}" for other in alike]
        seen[key] = bits
    if wrong:
        raise ValueError("; ".join(wrong))
    return len(seen)


def look(image: Image.Image) -> int:
    """Return 256 bits: for each of 16 x 16 parts of a picture, whether it is brighter than the part to its right."""
    parts = image.convert("L").resize((17, 16)).tobytes()
    return sum((parts[at] > parts[at + 1]) << at for at in range(len(parts) - 1) if at % 17 < 16)


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    params={"products": ["a red kettle", "a walnut lamp", "a green chair"]},
    tags=["deepshi", "example"],
)
def quality_gate() -> None:
    """Generate a picture per product, and stop if one is unusable."""
    render = DeepshiGenerateImagesOperator(task_id="render", requests=rows(), width=SIDE, height=SIDE)
    check(render.output)


# [END quality_gate]

quality_gate_dag = quality_gate()
