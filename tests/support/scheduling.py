"""Which tests share a worker of pytest-xdist, and which begin first.

pytest-xdist's own ``--dist loadgroup`` writes the group into a test's node id, which pytest 9.2 no longer takes. Every
test then goes to whichever worker is free, without a word, and each worker sets up the fixtures of every file.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

#: Files and directories that start all processes of an Airflow. One worker has all of them, since two Airflows at one
#: time are too many for a machine, and begins with them, since they take longest.
AIRFLOWS = (
    "tests/triggers/in_airflow/",
    "tests/plugins/",
    "tests/operators/in_airflow/",
    "tests/review/",
    "tests/examples/test_ui.py",
    "tests/benchmarks/",
)
#: Marks of files that take long. What is over at once comes last, so that no worker is left with a long one at the end.
LONG = ("packaging", "airflow", "slow", "s3")


#: Files that look at what one process with ``dag.test()`` has left, by the name of the group.
DAG_RUNS = {
    "reports": ("tests/reports/",),
    "operators": ("tests/operators/test_dags.py", "tests/operators/test_upstream_values.py"),
}


def group_of(nodeid: str) -> str:
    """What shares a worker: a file, what looks at the same DAG runs, or all that start a whole Airflow."""
    file = nodeid.partition("::")[0]
    if file.startswith(AIRFLOWS):
        return "airflow"
    return next((name for name, files in DAG_RUNS.items() if file.startswith(files)), file)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc] # it is not annotated
    """Gives each group as a whole to one worker, in the order of collection."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """The tests with the longest groups first; within a file as they stand."""
    ranks: dict[str, int] = {}
    for item in items:
        group = group_of(item.nodeid)
        ranks[group] = min(_rank(item, group), ranks.get(group, len(LONG)))
    return sorted(items, key=lambda item: ranks[group_of(item.nodeid)])


def _rank(item: pytest.Item, group: str) -> int:
    if group == "airflow":
        return -1
    return next((rank for rank, mark in enumerate(LONG) if item.get_closest_marker(mark)), len(LONG))
