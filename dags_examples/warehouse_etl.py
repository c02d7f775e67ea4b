"""From a database table to a warehouse table: what to draw, the pictures, and what each category cost.

Products are read with SQL, one batch draws those that have no picture yet or a changed name, its manifest is loaded
into a DuckDB table, and one query adds up the costs. Needs three connections: ``deepshi_default`` with ``output_uri``
in its extra, ``shop`` of any SQL type with a table ``products (sku, category, name)``, and ``warehouse``, whose host is
the path of a DuckDB file. Needs apache-airflow-providers-common-sql, the database's own provider, and duckdb.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pendulum
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import BaseHook, ObjectStoragePath, dag, get_current_context, task

from deepshi_provider.operators.images import DeepshiGenerateImagesOperator

# [START load_sql]
PICTURES = """
CREATE TABLE IF NOT EXISTS pictures (
    run_id TEXT, sku TEXT, category TEXT, status TEXT, uri TEXT, sha256 TEXT, model TEXT, cost_usd DECIMAL(18, 12)
)
"""
LOAD = """
INSERT INTO pictures
SELECT $run_id, key, products.category, status, uri, sha256, model, cost_usd
FROM read_json($manifest, format = 'newline_delimited', columns = {
    key: 'TEXT', status: 'TEXT', uri: 'TEXT', sha256: 'TEXT', model: 'TEXT', cost_usd: 'DECIMAL(18, 12)'
})
JOIN products ON products.sku = key
"""
COSTS = """
SELECT category, count(*) AS pictures, count(*) FILTER (status = 'created') AS bought, sum(cost_usd)::DOUBLE AS cost_usd
FROM pictures WHERE run_id = $run_id GROUP BY category ORDER BY category
"""
# [END load_sql]


# [START warehouse_etl]
@dag(schedule="@daily", start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False, tags=["deepshi", "example"])
def warehouse_etl() -> None:
    """Draw the products of a shop, and tell the warehouse what each category's pictures cost."""
    products = SQLExecuteQueryOperator(
        task_id="products", conn_id="shop", sql="SELECT sku, category, name FROM products ORDER BY sku"
    )

    @task
    def prompts(products: list[list[str]]) -> list[dict[str, str]]:
        return [{"key": sku, "prompt": f"Studio photo of a {name}, grey background"} for sku, _, name in products]

    render = DeepshiGenerateImagesOperator(
        task_id="render",
        requests=prompts(products.output),
        width=512,
        height=512,
        output_uri="{{ conn.deepshi_default.extra_dejson.output_uri }}/shop",
        max_cost_usd=5,
        retries=3,
    )

    @task
    def load(products: list[list[str]], batch: dict[str, Any]) -> list[dict[str, Any]]:
        import duckdb

        store = BaseHook.get_connection("deepshi_default").extra_dejson.get("output_conn_id")
        manifest = ObjectStoragePath(batch["manifest_uri"], conn_id=store)
        run_id = get_current_context()["run_id"]
        with tempfile.TemporaryDirectory() as folder, duckdb.connect(_warehouse()) as warehouse:
            local = Path(folder) / "manifest.jsonl"
            local.write_bytes(manifest.read_bytes())
            warehouse.execute(PICTURES)
            warehouse.execute("CREATE TEMP TABLE products (sku TEXT, category TEXT)")
            warehouse.executemany("INSERT INTO products VALUES (?, ?)", [(sku, kind) for sku, kind, _ in products])
            # In one transaction, so that a retry of this task loads the run's pictures once.
            warehouse.begin()
            warehouse.execute("DELETE FROM pictures WHERE run_id = $run_id", {"run_id": run_id})
            warehouse.execute(LOAD, {"run_id": run_id, "manifest": str(local)})
            warehouse.commit()
            costs = warehouse.execute(COSTS, {"run_id": run_id})
            names = [column[0] for column in costs.description]
            return [dict(zip(names, row, strict=True)) for row in costs.fetchall()]

    load(products.output, render.output)


# [END warehouse_etl]


def _warehouse() -> str:
    return BaseHook.get_connection("warehouse").host or "warehouse.duckdb"


warehouse_etl_dag = warehouse_etl()
