"""Sends a client's metrics to Airflow's own (StatsD, Datadog or OpenTelemetry)."""

from __future__ import annotations

import functools
import importlib
from datetime import timedelta

from deepshi_provider.client.metrics import SINK, Kind

#: Modules of Airflow's metrics. 3.2 and newer have one for tasks and one for Airflow's own processes, and only the one
#: of the current process sends anything. 3.1 has one for both.
_OF_TASKS = ("airflow.sdk.observability.stats", "airflow.stats")
_OF_TRIGGERS = ("airflow.observability.stats", "airflow.stats")


def use_airflow_metrics(*, in_trigger: bool = False) -> None:
    """Send the metrics of this asyncio task or thread through Airflow, unless a sink is already set."""
    if SINK.get() is None:
        SINK.set(functools.partial(_send, _OF_TRIGGERS if in_trigger else _OF_TASKS))


def _send(places: tuple[str, str], kind: Kind, name: str, value: int | timedelta, tags: dict[str, str]) -> None:
    try:
        stats = importlib.import_module(places[0]).Stats
    except ImportError:
        stats = importlib.import_module(places[1]).Stats
    getattr(stats, kind)(name, value, tags=tags)
