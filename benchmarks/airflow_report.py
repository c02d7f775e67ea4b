"""Figures of :mod:`benchmarks.through_airflow` → their section of the page, its plot, and their targets."""

from __future__ import annotations

from typing import Any

from benchmarks.figures import Row, middle, ratio, spread
from benchmarks.targets import Target

NAMES = {
    "batch_8": "batch, 8 at once",
    "batch_64": "batch, 64 at once",
    "batch_200": "batch, 200 at once",
    "mapped_blocking": "mapped, blocking",
    "mapped_deferred": "mapped, deferred",
    "sdk": "PythonOperator, SDK",
    "http_blocking": "HttpOperator",
    "http_deferred": "HttpOperator, deferred",
}
#: The first so many are the provider's.
OURS = 5
#: The batch that the targets are about.
BATCH = "batch_200"


def targets(rows: list[Row]) -> list[Target]:
    """Return what was wanted of the batch."""
    batch, blocking, deferred = (_runs(rows, way) for way in (BATCH, "http_blocking", "http_deferred"))
    ours, ours_deferred = (_runs(rows, way) for way in ("mapped_blocking", "mapped_deferred"))
    faster = ratio(batch, blocking, "per_minute")
    growth = ratio(batch, deferred, "file_bytes_each")
    return [
        Target(what=f"{NAMES[BATCH]}: pictures per minute to `HttpOperator`'s", found=faster, bound=12, at_least=True),
        *_of_processor(ours, blocking),
        Target(
            what="mapped, blocking: pictures per minute to `HttpOperator`'s",
            found=ratio(ours, blocking, "per_minute"),
            bound=1,
            at_least=True,
        ),
        Target(
            what="mapped, deferred: pictures per minute to deferred `HttpOperator`'s",
            found=ratio(ours_deferred, deferred, "per_minute"),
            bound=5,
            at_least=True,
        ),
        Target(what="growth of the database, to deferred `HttpOperator`'s", found=growth, bound=0.05, form="{:.4f}"),
    ]


def _of_processor(ours: list[Row], blocking: list[Row]) -> list[Target]:
    if "tasks_cpu_s" not in ours[0]:  # results from before it was measured
        return []
    found = ratio(ours, blocking, "tasks_cpu_s")
    return [Target(what="mapped, blocking: processor time to `HttpOperator`'s", found=found, bound=1)]


def rates(rows: list[Row]) -> dict[str, float]:
    """Return pictures per minute of each way, by its name."""
    return {name: middle(_runs(rows, way), "per_minute") for way, name in NAMES.items()}


def section(result: dict[str, Any]) -> str:
    """Return the section.

    :param result: ``rows`` as they were printed, and ``parallelism``, ``size_bytes``, ``latency_s``.
    """
    text = [
        "## Through Airflow\n",
        "Scheduler, API server, triggerer, DAG processor and tasks share the machine with the server, which",
        f"answers after {result['latency_s']:g} s with a picture of {result['size_bytes'] / 2**20:g} MiB. The database",
        f"is SQLite; up to {result['parallelism']} tasks run at once, as Airflow's defaults allow a DAG. A batch is",
        "one task. All other ways are mapped, a task for each picture; the deferred ones make fewer, because they take",
        "longer. Each run has an Airflow of its own.",
        "All pictures are files in the end: the ways without the provider write them in `python_callable` and",
        "`response_filter`. *Time* is the DAG run's duration as Airflow tells it; *before* is how long the run waited",
        "until the scheduler, which looks about once a second, began it. *Kept* is what tables and indexes hold",
        "afterwards; *grown* is what the database's file has grown by, with what was deleted in the meantime: an event",
        "that carries a picture is stored, and later removed. *CPU* is the processor time of the scheduler with its",
        "tasks, and of the API server. Each way is a DAG file of its own, since a task imports the whole file.\n",
        "![Pictures per minute](images/performance-airflow.svg)\n",
        "| way | pictures | before, s | time, s | pictures/min | CPU, s | API, s | rows each | kept, KiB | grown |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for way, name in NAMES.items():
        runs = _runs(result["rows"], way)
        figures = [
            spread([run["waited_s"] for run in runs], "{:.1f}"),
            spread([run["wall_s"] for run in runs], "{:.1f}"),
            spread([run["per_minute"] for run in runs], "{:,.0f}"),
            *(f"{middle(runs, key):.1f}" if key in runs[0] else "" for key in ("tasks_cpu_s", "api_cpu_s")),
            f"{middle(runs, 'rows_each'):.2f}",
            f"{middle(runs, 'used_bytes_each') / 1024:.2f}",
            f"{middle(runs, 'file_bytes_each') / 1024:,.2f}",
        ]
        text.append(f"| {name} | {runs[0]['pictures']} | {' | '.join(figures)} |")
    return "\n".join(text) + "\n"


def _runs(rows: list[Row], way: str) -> list[Row]:
    """Return the runs of one way, with figures per picture."""
    runs = [row for row in rows if row["way"] == way]
    each = ("rows", "used_bytes", "file_bytes")
    return [
        {
            **run,
            "per_minute": 60 * run["pictures"] / run["wall_s"],
            **{f"{key}_each": run[key] / run["pictures"] for key in each},
        }
        for run in runs
    ]
