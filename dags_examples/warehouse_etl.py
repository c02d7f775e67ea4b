"""From a database table to a warehouse table: one query, one batch, one load.

One batch reads the products with SQL and draws those without a picture or with a changed name. Its manifest, with the
products' columns and the cost of each picture, is loaded into a DuckDB table. Needs three connections:
``deepshi_default`` with ``output_uri`` in its extra, ``shop`` of any SQL type with a table ``products (sku, category,
name)``, and ``warehouse``, whose host is the path of a DuckDB file. Needs the extras ``sql`` and ``parquet``, the
database's own provider, and duckdb.
"""

from __future__ import annotations

import io
from typing import Any

import pendulum
from airflow.sdk import BaseHook, ObjectStoragePath, dag, get_current_context, task

from deepshi_provider.operators.images import DeepshiGenerateImagesOperator

# [START load_sql]
CREATE = "CREATE TABLE IF NOT EXISTS pictures AS SELECT $run_id AS run_id, * FROM manifest LIMIT 0"
DELETE = "DELETE FROM pictures WHERE run_id = $run_id"
INSERT = "INSERT INTO pictures BY NAME SELECT $run_id AS run_id, * FROM manifest"
COSTS = """
SELECT category, count(*) AS pictures, count(*) FILTER (status = 'created') AS bought, sum(cost_usd)::DOUBLE AS cost_usd
FROM pictures WHERE run_id = $run_id GROUP BY category ORDER BY category
"""
# [END load_sql]


# [START warehouse_etl]
@dag(schedule="@daily", start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False, tags=["deepshi", "example"])
def warehouse_etl() -> None:
    """Draw the products of a shop, and load the cost by category into the warehouse."""
    render = DeepshiGenerateImagesOperator(
        task_id="render",
        requests_sql="SELECT sku, category, name FROM products ORDER BY sku",
        sql_conn_id="shop",
        prompt="Studio photo of a {name}, grey background",
        key_column="sku",
        carry="*",
        width=512,
        height=512,
        output_uri="{{ conn.deepshi_default.extra_dejson.output_uri }}/shop",
        manifest_format="parquet",
        max_cost_usd=5,
        retries=3,
    )

    @task
    def load(batch: dict[str, Any]) -> list[dict[str, Any]]:
        import duckdb
        import pyarrow.parquet

        store = BaseHook.get_connection("deepshi_default").extra_dejson.get("output_conn_id")
        file = ObjectStoragePath(batch["manifest_uri"], conn_id=store)
        run = {"run_id": get_current_context()["run_id"]}
        with duckdb.connect(_warehouse()) as warehouse:
            warehouse.register("manifest", pyarrow.parquet.read_table(io.BytesIO(file.read_bytes())))
            # In one transaction, so that a retry of this task loads the run's pictures once.
            warehouse.begin()
            for statement in (CREATE, DELETE, INSERT):
                warehouse.execute(statement, run)
            warehouse.commit()
            costs = warehouse.execute(COSTS, run)
            names = [column[0] for column in costs.description]
            return [dict(zip(names, row, strict=True)) for row in costs.fetchall()]

    load(render.output)


# [END warehouse_etl]


def _warehouse() -> str:
    return BaseHook.get_connection("warehouse").host or "warehouse.duckdb"


warehouse_etl_dag = warehouse_etl()
