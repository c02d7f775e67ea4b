"""Parts of a cluster are killed while it makes 200 pictures; ``CHAOS_SEED`` changes the order."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.cluster.books import Books, costs_in_xcom, unknown_in_xcom
from tests.cluster.chaos import DEATHS, Chaos
from tests.services.airflow_cluster import AirflowCluster
from tests.services.postgres import Postgres
from tests.services.processes import listening
from tests.services.redis import Redis
from tests.services.seaweedfs import SeaweedFS
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.airflow, pytest.mark.s3, pytest.mark.timeout(1800)]

log = logging.getLogger(__name__)

SEED = int(os.environ.get("CHAOS_SEED", "1"))
PROMPTS = [
    f"{task_id} {number}"
    for task_id, count in {"blocking": 40, "deferred": 40, "batch_blocking": 60, "batch_deferred": 60}.items()
    for number in range(count)
]
#: As in the DAG.
MAX_RESENDS = 3
#: Seconds that a picture takes: a batch of 60, 3 at once, must outlast all deaths, which take some two minutes.
LATENCY = 10
#: Seconds for the run, on a machine that does other things too.
DEADLINE = 1200


def test_200_pictures_while_workers_triggerers_scheduler_and_redis_die(tmp_path: Path) -> None:
    postgres, redis = Postgres(), Redis(tmp_path / "redis")
    with postgres, redis, SeaweedFS(tmp_path / "s3") as s3, Emulator(latency=LATENCY, tls=True) as deepshi:
        env = {
            "AIRFLOW_CONN_DEEPSHI_DEFAULT": deepshi.connection_json(output_uri="s3://images/all", output_conn_id="s3"),
            "AIRFLOW_CONN_S3": s3.airflow_connection_json(),
        }
        dags = Path(__file__).parent / "dags"
        with AirflowCluster(tmp_path / "airflow", dags, postgres=postgres, redis=redis, env=env) as airflow:
            airflow.wait_for_dag("chaos", timeout=120)
            assert listening(stat.pid for process in airflow.processes for stat in process.stats()) == {"127.0.0.1"}
            run_id = airflow.trigger("chaos")
            wait_for("pictures", 120, lambda: deepshi.stats()["images"])
            began = time.monotonic()
            chaos = Chaos(airflow, redis, SEED)
            chaos.run()
            asked_for = {entry["prompt"] for entry in deepshi.requests()}

            def ended() -> bool:
                chaos.supervise()
                return airflow.get(f"/dags/chaos/dagRuns/{run_id}")["state"] in ("success", "failed")

            wait_for("the end of the run", DEADLINE, ended, every=1)
            seconds = time.monotonic() - began
            wait_for("the end of requests that nobody waits for", 60, lambda: not deepshi.stats()["in_flight"])
            tasks = airflow.task_instances("chaos", run_id)
            books = Books(s3, "all", deepshi)
            tries = dict(sorted(Counter(task["try_number"] for task in tasks).items()))
            log.info("seed %d, deaths: %s", SEED, dict(chaos.deaths))
            log.info(
                "%d pictures until the last death, %.0f s in all, tasks by tries: %s", len(asked_for), seconds, tries
            )
            log.info("%s", books)

            assert chaos.deaths == DEATHS
            assert len(asked_for) < len(PROMPTS)
            assert Counter(task["state"] for task in tasks) == {"success": 82}
            assert_each_picture_is_there_and_bounded(books)
            assert books.recorded + books.lost == Decimal(deepshi.stats()["cost_usd"])
            assert costs_in_xcom(airflow, "chaos", run_id) == pytest.approx(books.recorded, abs=Decimal("1e-12"))
            assert unknown_in_xcom(airflow, "chaos", run_id) == books.unknown


def assert_each_picture_is_there_and_bounded(books: Books) -> None:
    assert sorted(books.pictures) == sorted(PROMPTS)
    assert [prompt for prompt in PROMPTS if not books.has_image(prompt)] == []
    for prompt, picture in books.pictures.items():
        # Every request has a claim, and every payment a record, or a claim as a possible payment.
        assert picture.posts <= len(picture.claims | picture.records.keys()) <= 1 + MAX_RESENDS, prompt
        assert len(picture.lost) <= picture.unknown, prompt
