"""In a real Airflow, a schedule that runs every ten seconds stops at the daily budget."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.operators.test_budgets import noon
from tests.services.airflow import Airflow
from tests.support.counts import posts, taken
from tests.support.everyday_airflow import EverydayAirflow
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.airflow, pytest.mark.s3, pytest.mark.timeout(900)]

DAGS = Path(__file__).parent / "dags_budgets"
DAG_ID = "every_few_seconds"
LIMIT = Decimal("1.00")
PRICE = Decimal("0.134")


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    airflow: Airflow
    deepshi: Emulator

    def begun(self) -> list[dict[str, Any]]:
        """The last runs; Airflow returns at most 50 at once."""
        runs: list[dict[str, Any]] = self.airflow.get(f"/dags/{DAG_ID}/dagRuns", order_by="-run_after")["dag_runs"]
        return runs

    def wait_for_another_run(self) -> None:
        """Wait until a run that has not begun yet has failed."""
        known = {run["dag_run_id"] for run in self.begun()}

        def failed() -> bool:
            return any(run["state"] == "failed" for run in self.begun() if run["dag_run_id"] not in known)

        wait_for("a run that nothing was left for", 600, failed)


@pytest.fixture
def scheduled(everyday_airflow: EverydayAirflow, tmp_path: Path) -> Iterator[Scheduled]:
    airflow = everyday_airflow.airflow
    with Emulator(latency=1, tls=True) as deepshi:
        limits = {"max_cost_usd_per_day": str(LIMIT), "budget_time_zone": noon()}
        connection = json.loads(deepshi.connection_json(output_uri=(tmp_path / "images").as_uri(), **limits))
        connection |= {"connection_id": "deepshi_limited", "extra": json.dumps(connection["extra"])}
        airflow.request("POST", "/connections", json=connection)
        everyday_airflow.add(DAGS)
        airflow.wait_for_dag(DAG_ID)
        yield Scheduled(airflow=airflow, deepshi=deepshi)
        airflow.pause(DAG_ID)


def test_a_schedule_never_spends_more_than_the_day_allows(scheduled: Scheduled) -> None:
    airflow, deepshi = scheduled.airflow, scheduled.deepshi
    wait_for("a day's money being spent", 600, lambda: taken(deepshi) > LIMIT - PRICE)
    scheduled.wait_for_another_run()
    bought, sent = taken(deepshi), posts(deepshi)
    assert bought <= LIMIT + deepshi.stats()["peak_in_flight"] * PRICE
    scheduled.wait_for_another_run()
    assert (taken(deepshi), posts(deepshi)) == (bought, sent), "nothing more is sent"
    logs = (path.read_text(errors="replace") for path in airflow.all_log_files())
    assert any("max_cost_usd_per_day $1.00 are spent on" in log for log in logs)
