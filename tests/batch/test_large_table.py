"""A PostgreSQL table of 50,000 products: only changed rows are bought, and memory does not grow with the rows."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.batch.rows import request_of
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.blocking import run_here
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.services.postgres import Postgres
from tests.support.batches import PRICE, batch, counts, result_of
from tests.support.counts import posts, taken
from tests.support.places import LocalPlace

pytestmark = [pytest.mark.load, pytest.mark.timeout(900)]

OLD, NEW = 49_800, 200
#: Limit of memory growth, in MB.
MOST_MEMORY = 60
PRODUCTS = "SELECT lpad(n::text, 5, '0'), 'mug ' || n, n / 100.0 FROM generate_series({}, {}) AS n"


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with Postgres("shop") as server:
        yield server


def kilobytes(name: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1])


def multiply(place: LocalPlace, account: str) -> None:
    """Copy the first product's record and picture, which were bought, for all other old products."""
    folder = place.path / "_deepshi"
    (first,) = folder.glob("00001.*.stored.json")
    record = json.loads(first.read_text())
    picture = place.read("00001-0.png")
    _, _, _, *rest = first.name.split(".")
    with (folder / "index.jsonl").open("w") as index:
        for number in range(1, OLD + 1):
            key = f"{number:05}"
            request = request_of({"model": record["model"], "prompt": f"a mug {number}", "width": 64, "height": 48})
            record["fingerprint"] = GenerateRequest.fingerprint(request, account)
            record["images"][0]["uri"] = f"{place.uri}/{key}-0.png"
            entry = ".".join([key, "1", record["fingerprint"][:16], *rest])
            text = json.dumps(record)
            (folder / entry).write_text(text)
            index.write(f"[{json.dumps(entry)}, {text}]\n")
            (place.path / f"{key}-0.png").write_bytes(picture)


def test_225_of_50_000_rows_are_bought_and_memory_does_not_grow(
    emulator: Emulator, local: LocalPlace, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", f"postgres://{postgres.address}")
    asked: dict[str, Any] = {
        "requests_sql": "SELECT * FROM products ORDER BY sku",
        "sql_conn_id": "shop",
        "prompt": "a {name}",
        "key_column": "sku",
        "carry": "*",
    }
    with closing(psycopg2.connect(f"postgresql://{postgres.address}")) as database, database.cursor() as cursor:
        cursor.execute("CREATE TABLE products (sku TEXT PRIMARY KEY, name TEXT, price NUMERIC(10, 2))")
        cursor.execute("INSERT INTO products VALUES ('00001', 'mug 1', 0.01)")
        database.commit()
        assert counts(result_of(batch(local, **asked))) == (1, 0, 0, 0)
        multiply(local, run_here(DeepshiHook().asettings()).account)
        cursor.execute(f"INSERT INTO products {PRODUCTS.format(2, OLD + NEW)}")
        cursor.execute("UPDATE products SET name = name || ', large' WHERE sku BETWEEN '00101' AND '00125'")
        cursor.execute("UPDATE products SET price = price + 1 WHERE sku BETWEEN '01001' AND '02000'")
        database.commit()

    gc.collect()
    before = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak must be measured from here on
    value = result_of(batch(local, **asked), run_id="tuesday")
    grown = (kilobytes("VmHWM") - before) * 1024 / 1e6

    assert counts(value) == (225, OLD - 25, 0, 0)
    assert (posts(emulator), taken(emulator)) == (226, 226 * PRICE)
    assert grown < MOST_MEMORY, f"{grown:.0f} MB"
    path = Path(value["manifest_uri"].removeprefix("file://"))
    with path.open() as file:
        lines = {line["key"]: line for line in map(json.loads, file)}
    assert len(lines) == OLD + NEW
    assert (lines["01001"]["price"], lines["01001"]["status"]) == (11.01, "reused")
    assert (lines["00101"]["name"], lines["00101"]["status"]) == ("mug 101, large", "created")
