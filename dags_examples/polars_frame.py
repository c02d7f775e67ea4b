"""A polars frame in, a polars frame out.

Needs the connection ``deepshi_default`` with ``output_uri`` in its extra, the extra ``parquet``, and polars.
"""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.sdk import BaseHook, ObjectStoragePath, dag, task


# [START polars_frame]
@dag(schedule="@daily", start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False, tags=["deepshi", "example"])
def polars_frame() -> None:
    """Draw the animals in a frame, and add up the cost by kind."""

    @task.deepshi_image(
        prompt="a {size} {animal} in a meadow",
        key_column="animal",
        carry="*",
        width=512,
        height=512,
        output_uri="{{ conn.deepshi_default.extra_dejson.output_uri }}/meadow",
        manifest_format="parquet",
    )
    def draw() -> Any:
        import polars

        animals = polars.DataFrame({"animal": ["fox", "owl", "elk"], "legs": [4, 2, 4]})
        return animals.with_columns(size=polars.lit("large"))

    @task
    def costs(batch: dict[str, Any]) -> list[dict[str, Any]]:
        import polars

        store = BaseHook.get_connection("deepshi_default").extra_dejson.get("output_conn_id")
        manifest = polars.read_parquet(ObjectStoragePath(batch["manifest_uri"], conn_id=store).read_bytes())
        by_legs = manifest.group_by("legs").agg(polars.len().alias("pictures"), polars.col("cost_usd").sum())
        return by_legs.sort("legs").cast({"cost_usd": polars.Float64, "pictures": polars.Int64}).to_dicts()

    costs(draw())


# [END polars_frame]

polars_frame_dag = polars_frame()
