"""A nightly catalog that buys only changed rows, and a downstream DAG that its asset triggers.

``catalog_nightly`` renders every product into one directory that all runs share: a second run buys nothing, and a
changed prompt buys that one picture. ``catalog_summary`` runs when the catalog's asset was updated; it loads the
manifest with DuckDB and writes what each category cost. Needs the connection ``deepshi_default`` with ``output_uri`` in
its extra, and duckdb.
"""

from __future__ import annotations

import json
from typing import Any

import pendulum
from airflow.sdk import Asset, BaseHook, ObjectStoragePath, dag, get_current_context, task

from deepshi_provider.operators.images import DeepshiGenerateImagesOperator

CATALOG = Asset("deepshi_catalog")

PRODUCTS = [
    {"sku": f"{category}-{number:03}", "category": category, "name": f"{colour} {category}"}
    for category in ("mug", "lamp", "shoe")
    for number, colour in enumerate(("red", "blue", "green", "black"), start=1)
]


# [START catalog_nightly]
@dag(schedule="@daily", start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False, tags=["deepshi", "example"])
def catalog_nightly() -> None:
    """Render the whole catalog; only changed rows cost money."""

    @task
    def rows() -> list[dict[str, str]]:
        return [
            {"key": product["sku"], "prompt": f"Studio photo of a {product['name']}, white background"}
            for product in PRODUCTS
        ]

    DeepshiGenerateImagesOperator(
        task_id="render",
        requests=rows(),
        model="deepshi-banana-pro",
        width=512,
        height=512,
        output_uri="{{ conn.deepshi_default.extra_dejson.output_uri }}/catalog",
        max_concurrency=16,
        max_cost_usd=5,
        retries=3,
        outlets=[CATALOG],
    )


# [END catalog_nightly]


# [START catalog_summary]
@dag(schedule=[CATALOG], start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False, tags=["deepshi", "example"])
def catalog_summary() -> None:
    """Load the newest manifest and publish what each category cost."""

    @task
    def summarize() -> list[dict[str, Any]]:
        import duckdb

        events = get_current_context()["triggering_asset_events"][CATALOG]
        extra = BaseHook.get_connection("deepshi_default").extra_dejson
        manifest = ObjectStoragePath(events[-1].extra["manifest_uri"], conn_id=extra.get("output_conn_id"))
        lines = [json.loads(line) for line in manifest.read_text().splitlines()]

        database = duckdb.connect()
        database.execute("CREATE TABLE products (sku TEXT, category TEXT)")
        database.executemany("INSERT INTO products VALUES (?, ?)", [(p["sku"], p["category"]) for p in PRODUCTS])
        database.execute("CREATE TABLE pictures (key TEXT, status TEXT, uri TEXT, cost_usd DOUBLE)")
        database.executemany(
            "INSERT INTO pictures VALUES (?, ?, ?, ?)",
            [(line["key"], line["status"], line["uri"], line["cost_usd"]) for line in lines],
        )
        table = database.execute(
            """
            SELECT category, count(*) AS pictures, count(*) FILTER (status = 'created') AS bought,
                sum(cost_usd) AS cost_usd
            FROM pictures JOIN products ON pictures.key = products.sku
            GROUP BY category ORDER BY category
            """
        )
        names = [column[0] for column in table.description]
        summary = [dict(zip(names, row, strict=True)) for row in table.fetchall()]

        target = ObjectStoragePath(
            f"{extra['output_uri']}/catalog/costs-by-category.json", conn_id=extra.get("output_conn_id")
        )
        target.write_text(json.dumps(summary))
        return summary

    summarize()


# [END catalog_summary]

catalog_nightly_dag = catalog_nightly()
catalog_summary_dag = catalog_summary()
