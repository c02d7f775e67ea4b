"""The Airflow of ``make ui`` is reachable only from this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from dags_examples.ui import LocalAirflow
from deepshi_provider.emulator.testing import Emulator
from tests.services.processes import free_ports, listening


@pytest.mark.airflow
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_airflow_of_make_ui_listens_on_this_machine_only(tmp_path: Path) -> None:
    with (
        Emulator() as emulator,
        LocalAirflow(tmp_path, emulator.connection_json(output_uri=tmp_path.as_uri()), free_ports(1)[0]) as airflow,
    ):
        assert len(airflow.pids) > 4
        assert listening([*airflow.pids, emulator.pid]) == {"127.0.0.1"}
        runs = airflow.trigger(["product_images"])
        assert set(airflow.wait_for(runs).values()) == {"success"}
        # Logs are shown even without a log server.
        (dag_id, run_id) = runs[0]
        (task, *_) = airflow.api("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task['task_id']}/logs/1"
        assert "Could not read served logs" not in str(airflow.api("GET", path))
