"""Rows come from MySQL one by one, with each of the drivers that Airflow's MySQL provider offers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.providers.common.sql.hooks.sql import DbApiHook

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.sql_rows import query_rows
from tests.batch.test_columns import carried
from tests.batch.test_sql import ASKED
from tests.services.mariadb import MariaDB
from tests.support.batches import PRICE, batch, counts, ended, lines_of, result_of
from tests.support.counts import posts, taken
from tests.support.places import Place

pytestmark = [
    pytest.mark.load,  # MariaDB is large to install
    pytest.mark.parametrize("client", ["mysqlclient", "mysql-connector-python"]),
]
PRODUCTS = "CREATE TABLE products (sku VARCHAR(9), name TEXT, price DECIMAL(10, 2), added DATE, tags JSON)"
FORTY = """
INSERT INTO products
SELECT LPAD(seq, 5, '0'), CONCAT('mug ', seq, '% ☕'), seq / 100, '2026-01-02', '[]' FROM seq_1_to_40
"""
#: More than all buffers between the server and a client can take.
LARGE = "SELECT seq AS sku, REPEAT('mug', 3000) AS name FROM seq_1_to_10000"


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDB]:
    with MariaDB() as server:
        yield server


@pytest.fixture(autouse=True)
def shop(mariadb: MariaDB, client: str, monkeypatch: pytest.MonkeyPatch) -> DbApiHook:
    """A database with products, behind the connection ``shop``."""
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", mariadb.connection_json(client))
    from airflow.providers.mysql.hooks.mysql import MySqlHook  # only `make test-load` installs it

    hook: DbApiHook = MySqlHook("shop")
    hook.run(["DROP TABLE IF EXISTS products", PRODUCTS, FORTY])
    return hook


def running(hook: DbApiHook) -> list[Any]:
    """Return the database's queries that still send rows."""
    asked = "SELECT id FROM information_schema.processlist WHERE info LIKE '%seq_1_to_10000' AND id <> CONNECTION_ID()"
    return list(hook.get_records(asked))


def test_only_changes_are_bought_and_columns_keep_their_types(
    emulator: Emulator, local: Place, shop: DbApiHook
) -> None:
    query = {"requests_sql": "SELECT * FROM products WHERE name LIKE '%☕' ORDER BY sku", **ASKED}
    assert counts(result_of(batch(local, **query))) == (40, 0, 0, 0)
    shop.run(
        [
            "UPDATE products SET price = price + 1 WHERE sku > '00010'",
            "UPDATE products SET name = CONCAT(name, ' large ☕') WHERE sku <= '00003'",
            "INSERT INTO products VALUES ('new', 'lamp ☕', 1, NULL, NULL)",
        ]
    )
    assert carried(lines_of(local)[0]) == {
        "sku": "00001",
        "name": "mug 1% ☕",
        "price": Decimal("0.01"),
        "added": "2026-01-02",
        "tags": "[]",
    }
    assert counts(result_of(batch(local, **query), run_id="tuesday")) == (4, 37, 0, 0)
    assert (posts(emulator), taken(emulator)) == (44, 44 * PRICE)


def test_parameters_never_become_sql(emulator: Emulator, local: Place) -> None:
    query = {"requests_sql": "SELECT sku, name FROM products WHERE sku = %(sku)s", **ASKED}
    assert result_of(batch(local, sql_parameters={"sku": "' OR 1=1 -- "}, **query))["rows"] == 0
    assert counts(result_of(batch(local, sql_parameters={"sku": "00007"}, **query), run_id="b")) == (1, 0, 0, 0)
    assert posts(emulator) == 1


def test_a_result_is_not_read_before_its_rows_are_used(shop: DbApiHook) -> None:
    with closing(query_rows("shop", LARGE, None)) as rows:
        first = next(rows)
        assert (str(first["sku"]), len(first["name"])) == ("1", 9_000)
        assert len(running(shop)) == 1
    assert running(shop) == []


def test_a_wrong_row_is_named_before_the_rest_is_read(emulator: Emulator, local: Place, shop: DbApiHook) -> None:
    ti, err = ended(batch(local, requests_sql=LARGE, **{**ASKED, "prompt": "a {colour} {name}"}))
    assert isinstance(err, AirflowFailException)
    assert "Row 1" in str(err)
    assert (ti.xcoms, posts(emulator), local.names()) == ({"cost_usd": 0.0}, 0, [])
    assert running(shop) == []
