"""Decides which tests share a worker of pytest-xdist, and which start first.

pytest-xdist's own ``--dist loadgroup`` writes the group into a test's node id, which pytest 9.2 no longer accepts.
Without a warning, each test then goes to any free worker, and all workers set up the fixtures of all files.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

#: Files and directories that start a whole Airflow, in two halves of about the same time. Two workers start with them,
#: since they take longest; more Airflows at a time are too many for a machine.
AIRFLOWS = {
    "airflow": (
        "tests/triggers/in_airflow/",
        "tests/operators/in_airflow/test_what_is_observed.py",
        "tests/benchmarks/",
    ),
    "everyday airflow": (
        "tests/operators/in_airflow/test_budget_of_a_schedule.py",
        "tests/plugins/",
        "tests/review/",
        "tests/examples/test_ui.py",
    ),
}
#: Fixtures that start all processes of an Airflow.
_AIRFLOWS = frozenset({"everyday_airflow", "observed", "running_world", "site"})
#: Marks of files that take long. Short files come last, so that no worker has a long one at the end.
LONG = ("packaging", "airflow", "slow", "s3")


#: Files that use the process of the fixture ``dag_runs``.
DAG_RUNS = {
    "dag runs": (
        *("tests/examples/test_examples.py", "tests/examples/test_with_models.py", "tests/docs/test_examples.py"),
        *("tests/operators/test_dags.py", "tests/operators/test_upstream_values.py"),
        *("tests/reports/test_hook_purchases.py", "tests/reports/test_report_of_a_run.py"),
    ),
}


def group_of(nodeid: str) -> str:
    """Return the group of a test: its file, or files that check the same DAG runs or start a whole Airflow."""
    file = nodeid.partition("::")[0]
    return next((name for name, files in {**AIRFLOWS, **DAG_RUNS}.items() if file.startswith(files)), file)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc] # it is not annotated
    """Gives each whole group to one worker, in the order of collection."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Assign each file to one worker, and all that start a whole Airflow to the same one."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the slowest tests, and refuse a whole Airflow in files that the scheduler does not list."""
    items[:] = in_order(items)
    unknown = {item.nodeid for item in items if _starts_airflow(item) and group_of(item.nodeid) not in AIRFLOWS}
    if unknown:
        raise pytest.UsageError(f"tests/support/scheduling.py does not know that they start an Airflow: {unknown}")


def _starts_airflow(item: pytest.Item) -> bool:
    return not _AIRFLOWS.isdisjoint(getattr(item, "fixturenames", ()))


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the tests, those of the longest groups first; the order within a file is kept."""
    ranks: dict[str, int] = {}
    for item in items:
        group = group_of(item.nodeid)
        ranks[group] = min(_rank(item, group), ranks.get(group, len(LONG)))
    return sorted(items, key=lambda item: (ranks[group_of(item.nodeid)], _place(item)))


def _place(item: pytest.Item) -> int:
    """Return a test's place among the files of a group that starts an Airflow; they run as they are listed."""
    files = AIRFLOWS.get(group_of(item.nodeid), ())
    return next((place for place, name in enumerate(files) if item.nodeid.startswith(name)), 0)


def _rank(item: pytest.Item, group: str) -> int:
    if group in AIRFLOWS:
        return -1
    return next((rank for rank, mark in enumerate(LONG) if item.get_closest_marker(mark)), len(LONG))
