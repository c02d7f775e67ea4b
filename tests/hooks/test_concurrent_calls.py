"""Several hooks in one task, at the same time: each picture arrives, and the cost sheet has all of them.

They share Airflow's one connection to its supervisor, which here answers slowly.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CommsDecoder, _ResponseFrame
from airflow.sdk.execution_time.context import set_current_context
from airflow.sdk.execution_time.xcom import XCom

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.support.counts import posts, taken
from tests.support.tasks import TaskInstance, context_of

REQUEST = GenerateRequest(model="deepshi-banana-pro", prompt="a boat", width=64, height=48)
COUNT = 12


class Supervisor:
    """Answers a task's messages like Airflow's supervisor, one after another; it knows one connection."""

    def __init__(self, connection: dict[str, Any]) -> None:
        self.sheets: list[dict[str, Any]] = []
        self.task_side, self._side = socket.socketpair()
        self._connection = connection

    def serve(self) -> None:
        file = self._side.makefile("rb")
        while head := file.read(4):
            number, message = msgspec.msgpack.decode(file.read(*struct.unpack(">I", head)))[:2]
            time.sleep(0.03)
            answer = None
            if message["type"] == "GetConnection":
                answer = {"type": "ConnectionResult", "conn_id": message["conn_id"], **self._connection}
            elif message["type"] == "SetXCom":
                self.sheets.append(message["value"])
            self._side.sendall(_ResponseFrame(id=number, body=answer).as_bytes())

    def close(self) -> None:
        self.task_side.close()
        self._side.shutdown(socket.SHUT_RDWR)
        self._side.close()


class SupervisedTask(TaskInstance):
    """A task instance whose XComs go to the supervisor."""

    def xcom_push(self, key: str, value: Any) -> None:
        XCom.set(key=key, value=value, dag_id=self.dag_id, task_id=self.task_id, run_id=self.run_id, map_index=-1)


@pytest.fixture
def supervisor(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.delenv("AIRFLOW_CONN_DEEPSHI_DEFAULT")
    connection = json.loads(emulator.connection_json())
    empty = dict.fromkeys(("login", "port", "schema"))
    supervisor = Supervisor({**empty, **connection, "extra": json.dumps(connection["extra"])})
    thread = threading.Thread(target=supervisor.serve)
    thread.start()
    comms: Any = CommsDecoder(socket=supervisor.task_side)
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms, raising=False)
    yield supervisor
    supervisor.close()
    thread.join()


@pytest.mark.slow
def test_calls_in_one_loop_keep_their_pictures(emulator: Emulator, supervisor: Supervisor) -> None:
    async def buy(number: int) -> None:
        await asyncio.sleep(number * 0.05)  # while some look up the connection, others push their costs
        (await DeepshiHook().agenerate(REQUEST)).close()

    async def all_of_them() -> None:
        await asyncio.gather(*map(buy, range(COUNT)))

    emulator.settings(latency=0.1)
    with set_current_context(context_of(SupervisedTask(task_id="script"))):
        asyncio.run(all_of_them())
    check(emulator, supervisor)


@pytest.mark.slow
def test_calls_in_several_threads_keep_their_pictures(emulator: Emulator, supervisor: Supervisor) -> None:
    emulator.settings(latency=0.1)
    ti = SupervisedTask(task_id="script")

    def buy(_: int) -> None:
        with set_current_context(context_of(ti)):
            DeepshiHook().generate(REQUEST).close()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(buy, range(COUNT)))
    check(emulator, supervisor)


def check(emulator: Emulator, supervisor: Supervisor) -> None:
    assert (posts(emulator), supervisor.sheets[-1]["cost_usd"]) == (COUNT, f"{taken(emulator):f}")
