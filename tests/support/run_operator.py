"""Runs a batch in a separate process: reads the operator's arguments as JSON, and writes its XComs and memory."""

from __future__ import annotations

import gc
import json
import sys
import time

import psutil

from deepshi_provider.costs.sheet import XCOM_KEY
from deepshi_provider.operators.images import DeepshiGenerateImagesOperator
from tests.support.tasks import TaskInstance, execute


def main() -> None:
    given = json.load(sys.stdin)
    identity = given.pop("identity", {})
    warm_up = given.pop("warm_up", None)
    if warm_up:  # loads modules that are independent of the number of rows
        execute(DeepshiGenerateImagesOperator(**warm_up), TaskInstance(task_id="warm_up"))
    operator = DeepshiGenerateImagesOperator(**given)
    ti = TaskInstance(task_id=operator.task_id, **identity)
    gc.collect()
    before = psutil.Process().memory_info().rss
    peak = _Peak()
    begun = time.monotonic()
    print("begun", flush=True)  # noqa: T201
    error = None
    try:
        execute(operator, ti)
    except Exception as err:  # noqa: BLE001 -- the parent checks it
        error = f"{type(err).__name__}: {err}"
    seconds = time.monotonic() - begun
    xcoms = ti.xcoms | ({XCOM_KEY: ti.sheets[-1].as_xcom()} if ti.sheets else {})
    report = {"xcoms": xcoms, "error": error, "seconds": seconds, "grown_bytes": peak.stop() - before}
    print(json.dumps(report), flush=True)  # noqa: T201


class _Peak:
    """Measures this process's peak memory in a thread."""

    def __init__(self) -> None:
        import threading

        self._highest = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self._highest = max(self._highest, psutil.Process().memory_info().rss)

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self._highest
