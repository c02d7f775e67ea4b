"""Rows come from databases unchanged, one by one, and nothing is bought if the query is wrong."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import DAG
from jinja2 import TemplateNotFound

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import StorageFailed
from deepshi_provider.operators.images import DeepshiGenerateImageOperator
from tests.batch.test_columns import carried
from tests.services.postgres import Postgres
from tests.support.batches import PRICE, batch, counts, deferred, ended, lines_of, result_of
from tests.support.counts import posts, taken
from tests.support.places import Place
from tests.support.tasks import run_try

ASKED: dict[str, Any] = {"prompt": "a {name}", "key_column": "sku", "carry": "*", "sql_conn_id": "shop"}
PRODUCTS = [("007", "red mug", 1.5), ("1_2", "blue mug", 2.25), ("12:30", "lamp; with 100% cotton", None)]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database with products, behind the connection ``shop``."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE products (sku TEXT, name TEXT, price REAL)")
        database.executemany("INSERT INTO products VALUES (?, ?, ?)", PRODUCTS)
        database.commit()
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    return path


@pytest.mark.parametrize("is_deferred", [False, True])
def test_rows_come_from_a_query(emulator: Emulator, local: Place, shop: Path, is_deferred: bool) -> None:
    query = "SELECT * FROM products WHERE name LIKE '%u%' OR name LIKE '%;%' ORDER BY rowid;"
    operator = batch(local, requests_sql=query, deferrable=is_deferred, **ASKED)
    value = deferred(operator)[0].xcoms["return_value"] if is_deferred else result_of(operator)
    assert counts(value) == (3, 0, 0, 0)
    assert [(line["key"], line["prompt"], line["price"]) for line in lines_of(local)] == [
        (sku, f"a {name}", price) for sku, name, price in PRODUCTS
    ]
    assert posts(emulator) == 3


def test_parameters_are_templates_and_never_become_sql(emulator: Emulator, local: Place, shop: Path) -> None:
    query = "SELECT sku, name FROM products WHERE sku = :sku"
    operator = batch(local, requests_sql=query, sql_parameters={"sku": "{{ params.sku }}"}, **ASKED)
    ti = run_try(operator, params={"sku": "007"})
    assert counts(ti.xcoms["return_value"]) == (1, 0, 0, 0)
    ti = run_try(operator, params={"sku": "' OR 1=1 --"}, run_id="tuesday")
    assert ti.xcoms["return_value"]["rows"] == 0
    assert posts(emulator) == 1


@pytest.mark.parametrize(
    ("mark", "parameters"),
    [
        ("?", "['{{ params.sku }}']"),
        ("?", "{{ [params.sku] | tojson }}"),
        ("?", "('{{ params.sku }}',)"),
        (":sku", "{'sku': '{{ params.sku }}'}"),
        ("?", ("{{ params.sku }}",)),
    ],
)
def test_parameters_may_be_rendered_text(
    emulator: Emulator, local: Place, shop: Path, mark: str, parameters: Any
) -> None:
    query = f"SELECT sku, name FROM products WHERE sku = {mark}"
    ti = run_try(batch(local, requests_sql=query, sql_parameters=parameters, **ASKED), params={"sku": "007"})
    assert [line["key"] for line in lines_of(local)] == ["007"]
    assert (counts(ti.xcoms["return_value"]), posts(emulator)) == ((1, 0, 0, 0), 1)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"requests_sql": "SELECT * FROM nowhere"}, StorageFailed, "requests_sql on connection 'shop' failed: "),
    ({"requests_sql": "SELECT name, name FROM products"}, AirflowFailException, "two columns have the same name"),
    ({"requests_sql": "CREATE TABLE x (y TEXT)"}, AirflowFailException, "returns no rows; a query is needed"),
    ({"requests_sql": "SELECT sku FROM products"}, AirflowFailException, "Row 1: prompt: there is no column 'name'"),
    ({"requests_sql": "SELECT ? AS name", "sql_parameters": [2**70]}, AirflowFailException, "has a value that Python"),
    ({"sql_parameters": "{{ 7 }}"}, AirflowFailException, "sql_parameters: a list or a dictionary is needed, got int"),
    ({"sql_parameters": "cup"}, AirflowFailException, "sql_parameters: the rendered text is neither JSON nor a Python"),
    ({"sql_conn_id": None}, AirflowFailException, "requests_sql needs sql_conn_id"),
    ({"sql_conn_id": "nowhere"}, AirflowFailException, "sql_conn_id: connection 'nowhere' is not defined"),
    ({"sql_conn_id": "deepshi_default"}, AirflowFailException, "is not of a SQL type"),
    ({"requests": [{"prompt": "p"}]}, AirflowFailException, "Exactly one of requests, requests_uri and"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "kind", "message"), WRONG, ids=[message[:30] for _, _, message in WRONG])
def test_an_unusable_query_buys_nothing(
    emulator: Emulator, local: Place, shop: Path, fields: dict[str, Any], kind: type[Exception], message: str
) -> None:
    ti, err = ended(batch(local, **{"requests_sql": "SELECT * FROM products", **ASKED, **fields}))
    assert isinstance(err, kind)
    assert message in str(err)
    assert (ti.xcoms, posts(emulator), local.names()) == ({"cost_usd": 0.0}, 0, [])


def in_dag(folder: Path, **files: str) -> DAG:
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return DAG("shop", schedule=None, template_searchpath=[str(folder)])


def test_queries_and_prompts_may_be_files_beside_the_dag(
    emulator: Emulator, local: Place, shop: Path, tmp_path: Path
) -> None:
    files = {
        "products_sql": "SELECT * FROM products WHERE sku = '{{ params.sku }}'\n",
        "photo_md": "Photo of a {name}\n",
    }
    with in_dag(tmp_path, **files):
        operator = batch(local, requests_sql="products.sql", **{**ASKED, "prompt": "photo.md"})
    operator.resolve_template_files()
    assert operator.requests_sql == files["products_sql"], "the UI shows the query"
    run_try(operator, params={"sku": "007"})
    (sent,) = emulator.requests()
    assert sent["fields"]["prompt"] == "Photo of a red mug"


@pytest.mark.parametrize("resolved", [True, False])
def test_texts_that_only_end_like_a_file_name_stay_texts(
    emulator: Emulator, local: Place, tmp_path: Path, resolved: bool
) -> None:
    rows = [{"key": "notes.txt", "prompt": "page.md"}, {"prompt": "a sign that says readme.md"}]
    with in_dag(tmp_path):
        operator = batch(local, rows, prompt="a sign that says {{ 1 + 1 }}.txt", key="invoice.sql", metadata=["a.md"])
    if resolved:
        operator.resolve_template_files()
    value = run_try(operator).xcoms["return_value"]
    assert (value["key"], value["metadata"], value["created"]) == ("invoice.sql", ["a.md"], 2)
    assert lines_of(local)[0]["key"] == "notes.txt"


def test_a_prompt_file_works_for_a_single_picture_and_a_missing_one_fails(
    emulator: Emulator, local: Place, tmp_path: Path
) -> None:
    with in_dag(tmp_path, boat_txt="a {{ params.colour }} boat"):
        boat = DeepshiGenerateImageOperator(task_id="boat", prompt="boat.txt", output_uri=local.uri)
        lost = DeepshiGenerateImageOperator(task_id="lost", prompt="lost.jinja", output_uri=local.uri)
    lost.resolve_template_files()
    run_try(boat, params={"colour": "red"})
    with pytest.raises(TemplateNotFound):
        run_try(lost)
    assert [sent["fields"]["prompt"] for sent in emulator.requests()] == ["a red boat"]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres("shop") as server:
        yield server


@pytest.mark.load  # PostgreSQL is large to install
def test_a_large_table_is_read_in_pieces_and_only_changes_are_bought(
    emulator: Emulator, local: Place, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", f"postgres://{postgres.address}")
    with closing(psycopg2.connect(f"postgresql://{postgres.address}")) as database, database.cursor() as cursor:
        cursor.execute("CREATE TABLE products (sku TEXT, name TEXT, price NUMERIC(10, 2), added DATE, tags TEXT[])")
        cursor.execute(
            "INSERT INTO products SELECT lpad(n::text, 5, '0'), 'mug ' || n, n / 100.0, '2026-01-02', ARRAY['a', NULL] "
            "FROM generate_series(1, 40) AS n"
        )
        database.commit()
        query = {"requests_sql": "SELECT * FROM products ORDER BY sku", **ASKED}
        assert counts(result_of(batch(local, **query))) == (40, 0, 0, 0)
        cursor.execute("UPDATE products SET price = price + 1 WHERE sku > '00010'")
        cursor.execute("UPDATE products SET name = name || ' large' WHERE sku <= '00003'")
        cursor.execute("INSERT INTO products VALUES ('new', 'lamp', 1, NULL, NULL)")
        database.commit()
    line = lines_of(local)[0]
    assert carried(line) == {
        "sku": "00001",
        "name": "mug 1",
        "price": Decimal("0.01"),
        "added": "2026-01-02",
        "tags": ["a", None],
    }
    assert counts(result_of(batch(local, **query), run_id="tuesday")) == (4, 37, 0, 0)
    assert (posts(emulator), taken(emulator)) == (44, 44 * PRICE)


@pytest.mark.load  # PostgreSQL is large to install
def test_a_manifest_goes_into_a_table_and_a_run_replaces_its_own_rows(
    emulator: Emulator, local: Place, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", f"postgres://{postgres.address}")
    shop = [{"sku": f"00{n}", "category": "mugs", "name": f"mug {n}"} for n in range(3)]
    result_of(batch(local, shop, **{**ASKED, "sql_conn_id": None}))
    manifest = lines_of(local)
    hook: Any = PostgresHook("shop")
    hook.run("CREATE TABLE pictures (run_id TEXT, key TEXT, category TEXT, uri TEXT, cost_usd NUMERIC(18, 12))")
    for run_id in ("monday", "tuesday", "monday"):
        columns = ["key", "category", "uri", "cost_usd"]
        hook.run(f"DELETE FROM pictures WHERE run_id = {hook.placeholder}", parameters=[run_id])
        rows = ([run_id, *(line[name] for name in columns)] for line in manifest)
        hook.insert_rows("pictures", rows, ["run_id", *columns])
    found = hook.get_records("SELECT run_id, key, category, uri, cost_usd FROM pictures ORDER BY 1, 2")
    assert [tuple(row) for row in found] == [
        (run, f"00{n}", "mugs", f"{local.uri}/00{n}-0.png", PRICE) for run in ("monday", "tuesday") for n in range(3)
    ]
