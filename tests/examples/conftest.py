"""All example DAGs and some others, run with ``dag.test()`` in a separate Airflow."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from deepshi_provider.emulator.testing import Emulator
from tests.services.dag_runs import DagRuns
from tests.support.models import WITH_MODELS

ROOT = Path(__file__).parents[2]
MODELS = ("llm_check", "agent") if WITH_MODELS else ()
collect_ignore = [] if WITH_MODELS else ["test_with_models.py"]
EXAMPLES = (
    *("catalog_incremental", "edit_chain", "parquet_to_duckdb", "polars_frame", "product_images", "quality_gate"),
    *("taskflow", "warehouse_etl", *MODELS),
)
RUNS = (
    *("catalog_nightly", "catalog_nightly", "edit_chain", "taskflow", "outlets", "decorated"),
    *("warehouse_etl", "warehouse_etl", "parquet_to_duckdb", "polars_frame", "quality_gate", *MODELS),
)
#: pydantic-ai's test model: it answers at random and calls each tool once.
MODEL = {"AIRFLOW_CONN_PYDANTICAI_DEFAULT": json.dumps({"conn_type": "pydanticai", "extra": {"model": "test"}})}
#: Products of the shop in ``warehouse_etl``: SKU, category, name.
SHOP = [("cup-1", "cup", "red cup"), ("cup-2", "cup", "blue cup"), ("rug-1", "rug", "woollen rug")]
#: The file of ``parquet_to_duckdb``.
PRODUCTS = [
    {"sku": f"{number:03}", "name": name, "colour": colour, "price": number / 4}
    for number, (name, colour) in enumerate([("jar", "green"), ("jar", "blue"), ("bowl", "green")])
]


@dataclass(frozen=True)
class Runs:
    """The results of all runs.

    :param states: of each of :data:`RUNS`.
    :param requests: what the server saw.
    :param warehouse: the DuckDB file that ``warehouse_etl`` fills.
    """

    database: Path
    images: Path
    states: list[dict[str, str]]
    requests: list[dict[str, Any]]
    log: str
    warehouse: Path

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.database)) as database:
            return database.execute(sql, values).fetchall()

    def run_ids(self, dag_id: str) -> list[str]:
        return [run["run_id"] for run in self.states if run["dag_id"] == dag_id]

    def xcoms(self, dag_id: str, task_id: str, key: str = "return_value", run: int = 0) -> list[Any]:
        """Return an XCom of each map index."""
        sql = "SELECT value FROM xcom WHERE dag_id=? AND task_id=? AND key=? AND run_id=? ORDER BY map_index"
        found = self.query(sql, dag_id, task_id, key, self.run_ids(dag_id)[run])
        # The column is JSON, which SQLite gives back as a number where it is one; what is in it is JSON once more.
        values = [json.loads(value) if isinstance(value, str) else value for (value,) in found]
        return [json.loads(value) if isinstance(value, str) and value[:1] in "[{" else value for value in values]


def etl_connections(root: Path) -> dict[str, str]:
    """A shop's database and a warehouse, as connections."""
    with closing(sqlite3.connect(root / "shop.db")) as database, database:
        database.execute("CREATE TABLE products (sku TEXT PRIMARY KEY, category TEXT, name TEXT)")
        database.executemany("INSERT INTO products VALUES (?, ?, ?)", SHOP)
    return {
        "AIRFLOW_CONN_SHOP": json.dumps({"conn_type": "sqlite", "host": str(root / "shop.db")}),
        "AIRFLOW_CONN_WAREHOUSE": json.dumps({"conn_type": "generic", "host": str(root / "warehouse.duckdb")}),
    }


def local(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.width, image.height


@pytest.fixture(scope="session")
def runs(dag_runs: DagRuns, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    root = tmp_path_factory.mktemp("examples")
    dags, images = root / "dags", root / "images"
    shutil.copytree(Path(__file__).parent / "dags", dags, ignore=shutil.ignore_patterns("__pycache__"))
    for name in EXAMPLES:
        shutil.copy(ROOT / "dags_examples" / f"{name}.py", dags)
    with Emulator() as emulator:
        deepshi = {"AIRFLOW_CONN_DEEPSHI_DEFAULT": emulator.connection_json(output_uri=images.as_uri())}
        images.mkdir()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PRODUCTS), images / "products.parquet")
        states, log = dag_runs.run(dags, RUNS, variables=deepshi | etl_connections(root) | MODEL)
        yield Runs(dag_runs.database, images, states, emulator.requests(), log, root / "warehouse.duckdb")
