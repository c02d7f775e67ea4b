"""Calls that ask the supervisor of Airflow's task, from any thread."""

from __future__ import annotations

import functools
import threading
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version

_LOCK = threading.Lock()


def one_at_a_time() -> AbstractContextManager[object]:
    """Return a lock for calls that ask the supervisor.

    Airflow 3.1 mixes up the answers if two threads ask at the same time, and the task then waits forever. Later
    versions have a lock of their own, so that a call that hangs holds up no others here.
    """
    return nullcontext() if _has_own_lock() else _LOCK


@functools.cache
def _has_own_lock() -> bool:
    return not version("apache-airflow-task-sdk").startswith(("1.0.", "1.1."))  # of Airflow 3.0 and 3.1
