"""``make ui``: a throw-away Airflow with the examples, a local emulator, some runs, and the page "Deepshi costs".

Everything is on 127.0.0.1, costs nothing, and is gone after Ctrl-C.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import functools
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any
from urllib.parse import quote

import httpx
import psutil

from dags_examples.history import add_history

USERS = {"admin": "admin", "viewer": "viewer"}
"""User name to password; each user's role has the user's name."""

PAGE = "plugin/deepshi-costs"

RUNS = ("product_images", "edit_chain", "taskflow", "catalog_nightly") * 2
"""DAGs to run at the start."""

_START_TIMEOUT_S = 300.0
_RUN_TIMEOUT_S = 900.0


#: Without the servers of logs, which listen on all addresses: the API server reads the files.
_COMPONENTS = (
    ("api-server",),
    ("scheduler", "--skip-serve-logs"),
    ("dag-processor",),
    ("triggerer", "--skip-serve-logs"),
)


class LocalAirflow:
    """Airflow on 127.0.0.1 with the connection ``deepshi_default``; a context manager.

    :param home: an empty directory.
    :param deepshi: the connection, as JSON.
    :param port: of the API server.
    """

    def __init__(self, home: Path, deepshi: str, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._home = home
        self._deepshi = deepshi
        self._log = home / "airflow.log"
        self._env = _environment(home, self.url, port)
        self._processes: list[subprocess.Popen[bytes]] = []
        # Proxies from the environment are of no use on 127.0.0.1.
        self._http = httpx.Client(base_url=self.url, trust_env=False, timeout=120)

    def __enter__(self) -> LocalAirflow:
        (self._home / "passwords.json").write_text(json.dumps(USERS), encoding="utf-8")
        try:
            self._start("db", "migrate").wait()
            self._processes = [self._start(*command) for command in _COMPONENTS]
            self._wait_until_healthy()
            self._add_connection()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """All of Airflow's processes."""
        return [process.pid for leader in self._processes for process in _session(leader.pid)]

    @property
    def ended(self) -> bool:
        """Whether a component of Airflow has exited."""
        return any(process.poll() is not None for process in self._processes)

    def stop(self) -> None:
        """End every process: with SIGTERM, and after 10 s with SIGKILL."""
        self._http.close()
        # By session: each task runs in a process group of its own.
        processes = [process for leader in self._processes for process in _session(leader.pid)]
        for leader in self._processes:
            with contextlib.suppress(ProcessLookupError):
                leader.send_signal(signal.SIGINT)
        psutil.wait_procs(processes, timeout=10)
        for leader in self._processes:
            for process in _session(leader.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            leader.wait()

    def log_tail(self) -> str:
        """The last lines that Airflow wrote."""
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:])

    def token(self, user: str = "admin") -> str:
        """Log in and return the token that the API and the cookie ``_token`` take."""
        answer = self._http.post("/auth/token", json={"username": user, "password": USERS[user]})
        return str(answer.raise_for_status().json()["access_token"])

    def api(self, method: str, path: str, **kwargs: Any) -> Any:
        """Call Airflow's REST API as ``admin`` and return what it answers."""
        return self._http.request(method, f"/api/v2{path}", **kwargs).raise_for_status().json()

    def trigger(self, dag_ids: Sequence[str]) -> list[tuple[str, str]]:
        """Start a run of each DAG as soon as Airflow knows it; return pairs of DAG id and run id."""
        runs = [(dag_id, f"example_{number}") for number, dag_id in enumerate(dag_ids, start=1)]
        for dag_id, run_id in runs:
            known = functools.partial(self._is_known, dag_id)
            self._wait(f"the DAG {dag_id}", _START_TIMEOUT_S, known)
            body = {"logical_date": None, "dag_run_id": run_id}
            self._post(f"the run {run_id}", f"/dags/{dag_id}/dagRuns", body)
        return runs

    def wait_for(self, runs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Wait until all runs have ended, and return their states."""
        states: dict[tuple[str, str], str] = {}

        def ended() -> bool:
            for dag_id, run_id in runs:
                run = self.api("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}")
                states[dag_id, run_id] = run["state"]
            return all(state in ("success", "failed") for state in states.values())

        self._wait("the end of all runs", _RUN_TIMEOUT_S, ended)
        return states

    def add_history(self, runs: Sequence[tuple[str, str]]) -> int:
        """Copy runs into the last 60 days, and return a budget that is nearly reached, in USD per month."""
        budget = max(1, round(add_history(self._home / "airflow.db", runs) * Decimal("1.05")))
        connection = json.loads(self._deepshi)
        extra = json.dumps({**connection["extra"], "max_cost_usd_per_month": budget})
        body = {"connection_id": "deepshi_default", "conn_type": connection["conn_type"], "extra": extra}
        self.api("PATCH", "/connections/deepshi_default", params={"update_mask": "extra"}, json=body)
        return budget

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 -- of the commands above
                [sys.executable, "-m", "airflow", *command],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _is_known(self, dag_id: str) -> bool:
        # /dags/{id} answers before the DAG can be run; its details do not.
        try:
            self.api("GET", f"/dags/{dag_id}/details")
        except httpx.HTTPStatusError as err:
            if err.response.status_code == httpx.codes.NOT_FOUND:
                return False
            raise
        return True

    def _post(self, what: str, path: str, body: dict[str, Any]) -> None:
        """Create something unless it exists.

        SQLite may report a lock although the object was stored.
        """

        def stored() -> bool:
            answer = self._http.post(f"/api/v2{path}", json=body)
            if answer.is_server_error:
                return False
            if answer.status_code != httpx.codes.CONFLICT:
                answer.raise_for_status()
            return True

        self._wait(what, _START_TIMEOUT_S, stored)

    def _wait_until_healthy(self) -> None:
        def healthy() -> bool:
            with contextlib.suppress(httpx.TransportError, httpx.HTTPStatusError):  # it is not up yet
                health = self._http.get("/api/v2/monitor/health").raise_for_status().json()
                return all(health[part]["status"] == "healthy" for part in ("scheduler", "dag_processor", "triggerer"))
            return False

        self._wait("a healthy Airflow", _START_TIMEOUT_S, healthy)

    def _log_in(self) -> None:
        self._http.headers["authorization"] = f"Bearer {self.token()}"

    def _add_connection(self) -> None:
        connection = json.loads(self._deepshi)
        connection["extra"] = json.dumps(connection["extra"])
        self._log_in()
        self._post("the connection", "/connections", {"connection_id": "deepshi_default", **connection})

    def _wait(self, what: str, timeout: float, probe: Any) -> None:
        deadline = time.monotonic() + timeout
        while not probe():
            if self.ended:
                raise RuntimeError(f"Airflow has ended:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{timeout:g} s passed without {what}:\n{self.log_tail()}")
            time.sleep(0.5)


def main() -> None:
    """Start everything, print the address, and stop at Ctrl-C."""
    arguments = argparse.ArgumentParser(prog="make ui", description=__doc__)
    arguments.add_argument("--port", type=int, default=8080, help="of Airflow (default: 8080)")
    port = arguments.parse_args().port
    if not _is_free(port):
        sys.exit(f'Port {port} is in use. Choose another: make ui ARGS="--port 8081"')
    signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        _serve(port)
    print("\nEverything has ended.")


def _serve(port: int) -> None:
    from deepshi_provider.emulator.testing import Emulator

    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deepshi-ui-")))
        emulator = stack.enter_context(Emulator(latency=0.5, tls=True))
        images = home / "images"
        images.mkdir()
        print("Starting Airflow, which takes about 20 s …", flush=True)
        airflow = stack.enter_context(LocalAirflow(home, emulator.connection_json(output_uri=images.as_uri()), port))
        print(f"\n  Airflow        {airflow.url}")
        print(f"  Deepshi costs  {airflow.url}/{PAGE}")
        print("  Log in as      admin, password admin (or viewer, password viewer)\n")
        print(f"Running {len(RUNS)} DAGs, so that there is something to see …", flush=True)
        runs = airflow.trigger(RUNS)
        states = airflow.wait_for(runs)
        done = [run for run, state in states.items() if state == "success"]
        budget = airflow.add_history(done)
        print(f"{len(done)} of {len(runs)} succeeded; copies of them are the last 60 days, with a budget of ${budget}.")
        print("Ctrl-C ends Airflow and the emulator, and deletes all of this.", flush=True)
        while not airflow.ended:
            time.sleep(0.5)
        sys.exit(f"Airflow has ended:\n{airflow.log_tail()}")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    # A second signal must not stop the tidying up.
    signal.signal(signum, signal.SIG_IGN)
    raise KeyboardInterrupt


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _session(leader: int) -> Iterator[psutil.Process]:
    """Yield the living processes of a session."""
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _environment(home: Path, url: str, port: int) -> dict[str, str]:
    """Return the environment of Airflow's processes; nothing of the caller's own Airflow is in it."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW_", "_AIRFLOW"))}
    folder = Path(__file__).parent
    return {
        **inherited,
        # Airflow starts `airflow`, and talks to itself over HTTP.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:{user}" for user in USERS),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


if __name__ == "__main__":
    main()
