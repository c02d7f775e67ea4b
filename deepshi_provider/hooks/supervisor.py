"""Calls that ask the supervisor of Airflow's task, from any thread."""

from __future__ import annotations

import threading

#: Airflow 3.1 mixes up the answers if two threads ask at the same time, and the task then waits forever; later versions
#: have a lock of their own.
ONE_AT_A_TIME = threading.Lock()
