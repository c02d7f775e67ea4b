"""Helpers that start runs with a review and answer it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from deepshi_provider.emulator.testing import Emulator
from tests.services.airflow import Airflow
from tests.support.waiting import wait_for

#: A task that waits for a person: before Airflow 3.3 in the triggerer.
WAITING = ("awaiting_input", "deferred")

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Reviewing:
    """The running services."""

    airflow: Airflow
    deepshi: Emulator
    clients: dict[str, httpx.Client] = field(default_factory=dict)

    def start(self, dag_id: str) -> Run:
        """Start a run and wait until its review waits for an answer."""
        run = self.begin(dag_id)
        run.wait()
        return run

    def begin(self, dag_id: str) -> Run:
        self.airflow.wait_for_dag(dag_id)
        return Run(world=self, dag_id=dag_id, run_id=self.airflow.trigger(dag_id))

    def client(self, user: str) -> httpx.Client:
        """Return a client logged in by cookie, like a browser."""
        if user not in self.clients:
            cookies = {"_token": self.airflow.token(user)}
            self.clients[user] = httpx.Client(
                base_url=self.airflow.base_url, trust_env=False, timeout=60, cookies=cookies
            )
        return self.clients[user]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a DAG with the task ``review``."""

    world: Reviewing
    dag_id: str
    run_id: str

    @property
    def path(self) -> str:
        """The path of the review in Airflow's UI."""
        return f"/dags/{self.dag_id}/runs/{quote(self.run_id, safe='')}/tasks/review/required_actions"

    def wait(self, *map_indexes: int) -> None:
        """Wait until all reviews wait, and the scheduler knows that their processes have ended.

        An answer that comes before, which no person gives so fast, fails the task: Airflow sees it end while it is
        queued again.
        """

        def waiting() -> bool:
            tasks = self.world.airflow.task_instances(self.dag_id, self.run_id)
            found = {task["map_index"] for task in tasks if task["task_id"] == "review" and task["state"] in WAITING}
            return found == set(map_indexes or (-1,))

        def ended() -> bool:
            lines = self.world.airflow.log_text().splitlines()
            key = f"dag_id='{self.dag_id}', task_id='review', run_id='{self.run_id}'"
            return sum("Received executor event" in line and key in line for line in lines) >= len(map_indexes or (-1,))

        wait_for("waiting reviews", 180, waiting)
        wait_for("the end of their processes", 180, ended)

    def detail(self, map_index: int = -1) -> Json:
        """Airflow's record of the review and its answer."""
        return self.world.airflow.get(self._detail(map_index))

    def answer(self, *options: str, user: str = "admin", map_index: int = -1) -> httpx.Response:
        """Answer through the API."""
        path = f"/api/v2{self._detail(map_index)}"
        return self.world.client(user).patch(path, json={"chosen_options": options, "params_input": {}})

    def end(self) -> str:
        return self.world.airflow.wait_for_run(self.dag_id, self.run_id)

    def states(self) -> dict[str, str]:
        found = self.world.airflow.task_instances(self.dag_id, self.run_id)
        return {task["task_id"]: task["state"] for task in found}

    def result(self, task_id: str = "review", map_index: int = -1) -> Any:
        found: Any = self.world.airflow.xcom(self.dag_id, self.run_id, task_id, map_index=map_index)
        return found

    def marks(self) -> list[tuple[str, str | None]]:
        """Return the images of the run's other tasks on the page, and their review status."""
        query = {"dag_id": self.dag_id, "run_id": self.run_id, "limit": "100"}
        answer = self.world.client("admin").get("/deepshi-costs/gallery", params=query).raise_for_status()
        return sorted((p["uri"], p["review"]) for p in answer.json()["pictures"] if p["task_id"] != "edit")

    def log(self, task_id: str = "review") -> str:
        return self.world.airflow.task_log(self.dag_id, self.run_id, task_id, 1)

    def _detail(self, map_index: int) -> str:
        run = quote(self.run_id, safe="")
        return f"/dags/{self.dag_id}/dagRuns/{run}/taskInstances/review/{map_index}/hitlDetails"
