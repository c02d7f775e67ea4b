"""From a Parquet file of products to a DuckDB table of products with pictures.

Needs the connection ``deepshi_default`` with ``output_uri`` in its extra, such as ``s3://bucket/deepshi``, and
there a file ``products.parquet`` with the columns ``sku``, ``name``, ``colour`` and any others; the extra
``parquet``, and duckdb.
"""

from __future__ import annotations

import io
from typing import Any

import pendulum
from airflow.sdk import BaseHook, ObjectStoragePath, dag, task

from deepshi_provider.operators.images import DeepshiGenerateImagesOperator

HOME = "{{ conn.deepshi_default.extra_dejson.output_uri }}"


# [START parquet_to_duckdb]
@dag(schedule="@daily", start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False, tags=["deepshi", "example"])
def parquet_to_duckdb() -> None:
    """Draw the products of a file, and add up the cost by colour; a few rows may fail."""
    render = DeepshiGenerateImagesOperator(
        task_id="render",
        requests_uri=f"{HOME}/products.parquet",
        prompt="Studio photo of a {name}, {colour} background",
        key_column="sku",
        carry="*",
        width=512,
        height=512,
        output_uri=f"{HOME}/products",
        manifest_format="parquet",
        max_failed=0.05,
        max_cost_usd=5,
    )

    @task
    def costs(batch: dict[str, Any]) -> list[dict[str, Any]]:
        import duckdb
        import pyarrow.parquet

        store = BaseHook.get_connection("deepshi_default").extra_dejson.get("output_conn_id")
        file = ObjectStoragePath(batch["manifest_uri"], conn_id=store)
        with duckdb.connect() as database:
            database.register("manifest", pyarrow.parquet.read_table(io.BytesIO(file.read_bytes())))
            query = "SELECT colour, count(*) AS pictures, sum(cost_usd)::DOUBLE AS cost_usd FROM manifest GROUP BY ALL"
            found = database.execute(f"{query} ORDER BY colour")
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    costs(render.output)


# [END parquet_to_duckdb]

parquet_to_duckdb_dag = parquet_to_duckdb()
