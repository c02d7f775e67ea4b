"""In a real Airflow, a schedule that runs every ten seconds stops at the daily budget."""

from __future__ import annotations

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
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]

DAG_ID = "every_few_seconds"
LIMIT = Decimal("1.00")


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    airflow: Airflow
    deepshi: Emulator

    def ended(self) -> list[dict[str, Any]]:
        """The finished runs."""
        runs = self.airflow.get(f"/dags/{DAG_ID}/dagRuns")["dag_runs"]
        return [run for run in runs if run["state"] in ("success", "failed")]


@pytest.fixture
def scheduled(tmp_path: Path) -> Iterator[Scheduled]:
    with Emulator(latency=1, tls=True) as deepshi:
        limits = {"max_cost_usd_per_day": str(LIMIT), "budget_time_zone": noon()}
        connection = deepshi.connection_json(output_uri=(tmp_path / "images").as_uri(), **limits)
        dags = Path(__file__).parent / "dags_budgets"
        with Airflow(tmp_path / "airflow", dags, env={"AIRFLOW_CONN_DEEPSHI_DEFAULT": connection}) as airflow:
            yield Scheduled(airflow=airflow, deepshi=deepshi)


def test_a_schedule_never_spends_more_than_the_day_allows(scheduled: Scheduled) -> None:
    airflow, deepshi = scheduled.airflow, scheduled.deepshi
    airflow.wait_for_dag(DAG_ID)
    wait_for("a run that nothing was left for", 600, lambda: any(run["state"] == "failed" for run in scheduled.ended()))
    count = len(scheduled.ended())
    wait_for("two more runs", 300, lambda: len(scheduled.ended()) >= count + 2)
    bought, sent = taken(deepshi), posts(deepshi)
    price = max(Decimal(request["cost_usd"]) for request in deepshi.requests())
    in_flight = deepshi.stats()["peak_in_flight"]
    assert LIMIT - price < bought <= LIMIT + in_flight * price
    count = len(scheduled.ended())
    wait_for("one more run", 300, lambda: len(scheduled.ended()) > count)
    assert (taken(deepshi), posts(deepshi)) == (bought, sent), "nothing more is sent"
    logs = (path.read_text(errors="replace") for path in airflow.all_log_files())
    assert any("max_cost_usd_per_day $1.00 are spent on" in log for log in logs)
