"""Helpers that start runs in the real processes and observe them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from deepshi_provider.emulator.testing import Emulator
from tests.services.airflow import Airflow, Triggerer
from tests.services.seaweedfs import SeaweedFS
from tests.support.places import LocalPlace, Place, S3Place, document, state
from tests.support.waiting import wait_for

#: A text that must not be stored anywhere.
API_KEY = "sk-bf-of-the-deferred-tests"
#: Part of every prompt.
SECRET_WORD = "aubergine"


@dataclass(frozen=True, kw_only=True)
class World:
    """The running services."""

    airflow: Airflow
    deepshi: Emulator
    s3: SeaweedFS
    images: Path

    def reset(self) -> None:
        """Reset requests and faults, and set pictures to 100 kB."""
        self.deepshi.reset()
        self.deepshi.settings(picture_bytes=100_000)

    def run_of(self, dag_id: str, *, on_s3: bool = False) -> Run:
        """Return a run that is not started."""
        run_id = uuid.uuid4().hex[:12]
        place = S3Place(self.s3, run_id) if on_s3 else LocalPlace(self.images / dag_id / run_id / "image")
        return Run(world=self, dag_id=dag_id, run_id=run_id, place=place)

    def start(self, dag_id: str, **conf: Any) -> Run:
        """Start a run with a unique prompt."""
        run = self.run_of(dag_id)
        run.begin(**conf)
        return run

    def start_slowly(
        self, dag_id: str, *, bytes_per_second: int = 500, times: int = 1, on_s3: bool = False, **conf: Any
    ) -> Run:
        """Start a run whose answers are charged immediately and then take 133,000 bytes / ``bytes_per_second``."""
        run = self.run_of(dag_id, on_s3=on_s3)
        self.deepshi.fault("slow", bytes_per_second=bytes_per_second, times=times, prompt=run.prompt)
        run.begin(**conf)
        return run


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of a DAG with one image task."""

    world: World
    dag_id: str
    run_id: str
    place: Place
    task_id: str = "image"

    @property
    def prompt(self) -> str:
        return f"{SECRET_WORD} {self.run_id}"

    def begin(self, **conf: Any) -> None:
        """Trigger the run."""
        if self.place.conn_id:
            conf |= {"output_uri": self.place.uri, "output_conn_id": self.place.conn_id}
        self.world.airflow.trigger(self.dag_id, {"prompt": self.prompt, **conf}, self.run_id)

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The server's journal entries of this run, in order of arrival."""
        return [entry for entry in self.world.deepshi.requests() if self.prompt in (entry["prompt"] or "")]

    @property
    def posts(self) -> int:
        return len(self.requests)

    @property
    def paid(self) -> Decimal:
        """What the server charged, in USD."""
        return sum((Decimal(entry["cost_usd"] or 0) for entry in self.requests), Decimal(0))

    def wait_until_paid(self, count: int = 1, timeout: float = 180) -> None:
        """Wait until pictures are paid for, while their answers are still being sent."""

        def flowing() -> bool:
            return len([e for e in self.requests if e["cost_usd"] and e["outcome"] == "in_flight"]) >= count

        wait_for(f"{count} paid answer(s) under way", timeout, flowing)

    def wait_until_sent(self) -> None:
        wait_for("a request", 180, lambda: self.posts)

    def wait_until_left(self, position: int) -> None:
        """Wait until the server notices that the client of a request has disconnected, long before the answer ends."""
        wait_for("the end of the connection", 180, lambda: self.requests[position]["outcome"] == "disconnected")

    def logged(self, text: str) -> int:
        """Count a text in the log files of this run's tries and triggers."""
        paths = [path for path in self.world.airflow.all_log_files() if self.run_id in str(path)]
        return sum(path.read_text(errors="replace").count(text) for path in paths)

    def end(self, timeout: float = 180) -> str:
        """Wait for the run's end."""
        return self.world.airflow.wait_for_run(self.dag_id, self.run_id, timeout)

    def result(self, task_id: str | None = None, map_index: int = -1) -> dict[str, Any]:
        value: dict[str, Any] = self.xcom("return_value", task_id, map_index)
        return value

    def xcom(self, key: str, task_id: str | None = None, map_index: int = -1) -> Any:
        return self.world.airflow.xcom(self.dag_id, self.run_id, task_id or self.task_id, key, map_index)

    def task(self) -> dict[str, Any]:
        return self.world.airflow.task_instance(self.dag_id, self.run_id, self.task_id)

    def triggerer(self, map_index: int = -1) -> Triggerer:
        return self.world.airflow.triggerer_of(self.dag_id, self.run_id, self.task_id, map_index)

    def log(self, try_number: int = 1) -> str:
        """The log of a try, from its worker and its triggers."""
        return self.world.airflow.task_log(self.dag_id, self.run_id, self.task_id, try_number)

    def mark(self, state: str) -> None:
        self.world.airflow.set_state(self.dag_id, self.run_id, self.task_id, state)

    def wait_for_try(self, number: int) -> None:
        wait_for(f"try {number}", 180, lambda: self.task()["try_number"] == number)

    def clear(self) -> None:
        self.world.airflow.clear(self.dag_id, self.run_id, [self.task_id])

    def claims(self) -> list[str]:
        return state(self.place, "claim")

    def records(self) -> list[dict[str, Any]]:
        return [document(self.place, name) for name in state(self.place, "record")]
