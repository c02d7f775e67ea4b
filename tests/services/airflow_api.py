"""A client of Airflow's REST API v2.

https://airflow.apache.org/docs/apache-airflow/stable/stable-rest-api-ref.html
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import quote

import httpx

from tests.support.waiting import wait_for

from .airflow_settings import USERS

TERMINAL_RUN_STATES = ("success", "failed")

Json = dict[str, Any]

#: Number of retries if the server's database is locked.
_LOCKED_TRIES = 3
_PAGE = 100


class AirflowApi:
    """A client that logs in as ``admin`` at its first request.

    :param base_url: The API server's URL, without a path.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        # Without proxies from the environment, since the server is on 127.0.0.1. The server's only thread may wait for
        # a locked SQLite several times, five seconds each (see request): 30 seconds were not always enough.
        self._http = httpx.Client(base_url=base_url, trust_env=False, timeout=120)

    def token(self, user: str = "admin") -> str:
        """Log in with the API as one of :data:`USERS`; return a token that is valid for a day."""
        login = {"username": user, "password": USERS[user]}
        answer = self._http.post("/auth/token", json=login).raise_for_status()
        return str(answer.json()["access_token"])

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """Send a request below ``/api/v2``; an error status raises an error with the answer's text.

        The server first writes to its log of actions, in its only thread, and waits there if SQLite is locked. If
        another request of the same server holds the lock, both wait until SQLite gives up after five seconds. Nothing
        was done then, so the request is sent again.
        """
        if "authorization" not in self._http.headers:
            self._http.headers["authorization"] = f"Bearer {self.token()}"
        response = self._http.request(method, f"/api/v2{path}", **kwargs)
        for _ in range(_LOCKED_TRIES):
            if response.status_code != 500 or "Database error" not in response.text:
                break
            response = self._http.request(method, f"/api/v2{path}", **kwargs)
        if response.is_error:
            raise AirflowApiError(response)
        return response

    def get(self, path: str, **params: Any) -> Json:
        """Return the JSON object at a path below ``/api/v2``."""
        found: Json = self.request("GET", path, params=params).json()
        return found

    def unpause(self, dag_id: str) -> None:
        """Unpause a DAG; new DAGs of a test Airflow are not paused."""
        self.request("PATCH", f"/dags/{quote(dag_id)}", json={"is_paused": False})

    def pause(self, dag_id: str) -> None:
        """Pause a DAG: its schedule starts no more runs."""
        self.request("PATCH", f"/dags/{quote(dag_id)}", json={"is_paused": True})

    def wait_for_dag(self, dag_id: str, timeout: float = 180) -> None:
        """Wait until runs of a DAG can be triggered; raise an error if any file has import errors."""

        def serialized() -> bool:
            if errors := self.get("/importErrors")["import_errors"]:
                raise RuntimeError(f"{errors[0]['filename']}: {errors[0]['stack_trace']}")
            try:
                # /dags/{id} answers before the serialized DAG is stored; its details only after that.
                self.get(f"/dags/{quote(dag_id)}/details")
            except AirflowApiError as error:
                if error.response.status_code == httpx.codes.NOT_FOUND:
                    return False
                raise
            return True

        wait_for(f"DAG {dag_id}", timeout, serialized)

    def trigger(self, dag_id: str, conf: Json | None = None, run_id: str | None = None) -> str:
        """Start a run without a logical date and return its id."""
        body = {"logical_date": None, "conf": conf or {}, "dag_run_id": run_id}
        run = self.request("POST", f"/dags/{quote(dag_id)}/dagRuns", json=body)
        return str(run.json()["dag_run_id"])

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float = 180) -> str:
        """Return ``success`` or ``failed``."""

        def state() -> str | None:
            found = str(self.get(_run(dag_id, run_id))["state"])
            return found if found in TERMINAL_RUN_STATES else None

        try:
            return wait_for(f"the end of run {run_id}", timeout, state)
        except TimeoutError as error:
            tasks = self.task_instances(dag_id, run_id)
            states = [(ti["task_id"], ti["map_index"], ti["state"]) for ti in tasks]
            raise TimeoutError(f"{error}: {states}") from None

    def task_instances(self, dag_id: str, run_id: str) -> list[Json]:
        """Return all task instances of a run, at most 1,000."""
        path = f"{_run(dag_id, run_id)}/taskInstances"
        found: list[Json] = []
        while len(found) % _PAGE == 0:  # a shorter page is the last one
            page = self.get(path, limit=_PAGE, offset=len(found))["task_instances"]
            if not page:
                break
            found += page
        return found

    def task_instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Json:
        """Return the latest try; ``trigger`` is the trigger of a deferred task, else ``None``."""
        return self.get(_task(dag_id, run_id, task_id, map_index))

    def wait_for_state(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        states: Collection[str],
        timeout: float = 180,
        map_index: int = -1,
    ) -> Json:
        """Return the task instance when its state is one of ``states``."""
        seen: list[str | None] = []

        def reached() -> Json | None:
            found = self.task_instance(dag_id, run_id, task_id, map_index)
            seen[:] = [found["state"]]
            return found if found["state"] in states else None

        try:
            return wait_for(f"{task_id} being {' or '.join(states)}", timeout, reached)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: it is {seen[0]}") from None

    def xcom(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        key: str = "return_value",
        map_index: int = -1,
    ) -> Any:
        """Return an XCom's value as JSON."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id)}/xcomEntries/{quote(key)}"
        # Not `deserialize=true`, which returns text for people.
        value = self.get(path, map_index=map_index)["value"]
        return json.loads(value) if isinstance(value, str) else value

    def clear(self, dag_id: str, run_id: str, task_ids: Sequence[str | tuple[str, int]] | None = None) -> None:
        """Clear tasks in any state, so that they run again; all tasks by default.

        :param task_ids: Task ids, or pairs of task id and map index.
        """
        body = {
            "dry_run": False,
            "only_failed": False,
            "dag_run_id": run_id,
            "task_ids": None if task_ids is None else list(task_ids),
        }
        self.request("POST", f"/dags/{quote(dag_id)}/clearTaskInstances", json=body)

    def set_state(self, dag_id: str, run_id: str, task_id: str, state: str, map_index: int = -1) -> None:
        """Mark a task instance as ``success``, ``failed`` or ``skipped``."""
        path = _task(dag_id, run_id, task_id, map_index)
        self.request("PATCH", path, json={"new_state": state})

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int, map_index: int = -1) -> str:
        """Return the log of one try, a line per message; fields follow as JSON."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id)}/logs/{try_number}"
        messages = self.get(path, map_index=map_index, full_content=True)["content"]
        return "\n".join(_line(message) for message in messages)


class AirflowApiError(Exception):
    """The API answered with an error status; the message is the answer's text."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        super().__init__(f"{response.request.url}: {response.status_code} {response.text}")


def _run(dag_id: str, run_id: str) -> str:
    return f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"


def _task(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id)}"
    return path if map_index == -1 else f"{path}/{map_index}"


def _line(message: str | Json) -> str:
    if isinstance(message, str):
        return message
    fields = {key: value for key, value in message.items() if key != "event" and value is not None}
    return f"{message['event']} {json.dumps(fields, ensure_ascii=False)}"
