"""Queries of the database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import date

import pytest
from sqlalchemy.dialects import sqlite

from deepshi_provider.plugins.costs.access import XComModel
from deepshi_provider.plugins.costs.sheets import Scope
from tests.plugins.site import Site

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("run", "index"),
    [(None, "USING INDEX idx_xcom_key (key=?)"), (("pictures", "r"), "(dag_run_id=?)")],
)
def test_the_query_for_sheets_uses_an_index(site: Site, run: tuple[str, str] | None, index: str) -> None:
    scope = Scope(dag_ids={"pictures"}, start=date(2026, 1, 1), end=date(2026, 1, 31), run=run)
    query = scope.narrow(XComModel.__table__.c.value).compile(
        dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}
    )

    with closing(sqlite3.connect(site.airflow.database_path)) as database:
        plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {query}")]

    assert any("SEARCH xcom" in step and index in step for step in plan), plan
    assert not any("SCAN xcom" in step for step in plan), plan
