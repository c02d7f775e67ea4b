"""Airflow's own metrics (StatsD, Datadog or OpenTelemetry) as the sink of a client's."""

from __future__ import annotations

import functools
import importlib
from datetime import timedelta

from deepshi_provider.client.metrics import SINK, Kind

#: Where Airflow's metrics are set up: 3.2 and newer have one such place for tasks and one for their own processes,
#: and only that of the process at hand sends anything. 3.1 has one for all.
_OF_TASKS = ("airflow.sdk.observability.stats", "airflow.stats")
_OF_TRIGGERS = ("airflow.observability.stats", "airflow.stats")


def use_airflow_metrics(*, in_trigger: bool = False) -> None:
    """Send what this asyncio task or thread counts from here on through Airflow, unless that is chosen already."""
    if SINK.get() is None:
        SINK.set(functools.partial(_send, _OF_TRIGGERS if in_trigger else _OF_TASKS))


def _send(places: tuple[str, str], kind: Kind, name: str, value: int | timedelta, tags: dict[str, str]) -> None:
    try:
        stats = importlib.import_module(places[0]).Stats
    except ImportError:
        stats = importlib.import_module(places[1]).Stats
    getattr(stats, kind)(name, value, tags=tags)
