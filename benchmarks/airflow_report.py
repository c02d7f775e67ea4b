"""Figures of :mod:`benchmarks.through_airflow` → their section of the page, its plot, and their targets."""

from __future__ import annotations

from typing import Any

from benchmarks.figures import Row, middle, ratio
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
#: Number of leading entries that are the provider's.
OURS = 5
#: The batch for which there are targets.
BATCH = "batch_200"


def targets(rows: list[Row]) -> list[Target]:
    """Return the targets for the batch."""
    batch, blocking, deferred = (_runs(rows, way) for way in (BATCH, "http_blocking", "http_deferred"))
    ours, ours_deferred = (_runs(rows, way) for way in ("mapped_blocking", "mapped_deferred"))
    faster = ratio(batch, blocking, "per_minute")
    growth = ratio(batch, deferred, "file_bytes_each")
    return [
        Target(what=f"{NAMES[BATCH]}: pictures per minute to `HttpOperator`'s", found=faster, bound=12, at_least=True),
        Target(
            what="mapped, blocking: processor time to `HttpOperator`'s",
            found=ratio(ours, blocking, "tasks_cpu_s"),
            bound=1,
        ),
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


def rates(rows: list[Row]) -> dict[str, float]:
    """Return pictures per minute of each way by name."""
    return {name: middle(_runs(rows, way), "per_minute") for way, name in NAMES.items()}


def section(result: dict[str, Any]) -> str:
    """Return the section.

    :param result: ``rows`` as they were printed, and ``parallelism``, ``size_bytes``, ``latency_s``.
    """
    text = [
        "## Through Airflow\n",
        f"The server answers after {result['latency_s']:g} s with a picture of {result['size_bytes'] / 2**20:g} MiB,",
        f"on the machine that Airflow runs on. The database is SQLite; {result['parallelism']} tasks run at once.",
        "A batch is one task; all other ways are mapped. All but pictures per minute is per picture.\n",
        "| way | pictures/min | CPU of tasks and scheduler, ms | of the API server | rows, KiB | database file, KiB |",
        "|---|---|---|---|---|---|",
    ]
    for way, name in NAMES.items():
        runs = _runs(result["rows"], way)
        figures = [
            f"{middle(runs, 'per_minute'):,.0f}",
            *(f"{1000 * middle(runs, f'{key}_each'):,.0f}" for key in ("tasks_cpu_s", "api_cpu_s")),
            f"{middle(runs, 'used_bytes_each') / 1024:.2f}",
            f"{middle(runs, 'file_bytes_each') / 1024:,.2f}",
        ]
        text.append(f"| {name} | {' | '.join(figures)} |")
    text += [
        "\nThe ways without the provider write the picture in `python_callable` and `response_filter`. *Database file*",
        "is by how much it grew: an event that carries a picture is stored, and removed later.\n",
        "![Pictures per minute](images/performance-airflow.svg)",
    ]
    return "\n".join(text) + "\n"


def preloaded(result: dict[str, Any], usual: list[Row]) -> str:
    """Return the table of tasks whose modules the scheduler has imported."""
    text = [
        "If the scheduler has imported the modules of both ([how](production.md#mapped-tasks)):\n",
        "| way | pictures/min | CPU of tasks and scheduler, ms | without, ms |",
        "|---|---|---|---|",
    ]
    for way in ("mapped_blocking", "http_blocking"):
        runs = _runs(result["rows"], way)
        cpu = [1000 * middle(rows, "tasks_cpu_s_each") for rows in (runs, _runs(usual, way))]
        text.append(f"| {NAMES[way]} | {middle(runs, 'per_minute'):,.0f} | {cpu[0]:,.0f} | {cpu[1]:,.0f} |")
    return "\n".join(text) + "\n"


def on_postgres(result: dict[str, Any]) -> str:
    """Return the table of one run with PostgreSQL as Airflow's database."""
    text = [
        "With PostgreSQL as Airflow's database, once:\n",
        "| way | pictures/min | CPU of tasks and scheduler, ms | of the API server |",
        "|---|---|---|---|",
    ]
    for way in dict.fromkeys(row["way"] for row in result["rows"]):
        runs = _runs(result["rows"], way)
        cpu = (f"{1000 * middle(runs, f'{key}_each'):,.0f}" for key in ("tasks_cpu_s", "api_cpu_s"))
        text.append(f"| {NAMES[way]} | {middle(runs, 'per_minute'):,.0f} | {' | '.join(cpu)} |")
    return "\n".join(text) + "\n"


def _runs(rows: list[Row], way: str) -> list[Row]:
    """Return the runs of a way, with figures per picture."""
    runs = [row for row in rows if row["way"] == way]
    each = ("rows", "used_bytes", "file_bytes", "tasks_cpu_s", "api_cpu_s")
    return [
        {
            **run,
            "per_minute": 60 * run["pictures"] / run["wall_s"],
            **{f"{key}_each": run[key] / run["pictures"] for key in each if key in run},
        }
        for run in runs
    ]
