"""Figures of :mod:`benchmarks.through_airflow` → their section of the page, its plot, and their targets."""

from __future__ import annotations

from typing import Any

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
#: The batch that the targets are about.
BATCH = "batch_200"


def targets(rows: list[dict[str, Any]]) -> list[Target]:
    """Return what was wanted of the batch."""
    by_way = {row["way"]: row for row in rows}
    batch = by_way[BATCH]
    faster = per_minute(batch) / per_minute(by_way["http_blocking"])
    growth = _each(batch, "file_bytes") / _each(by_way["http_deferred"], "file_bytes")
    return [
        Target(what=f"{NAMES[BATCH]}: pictures per minute to `HttpOperator`'s", found=faster, bound=10, at_least=True),
        Target(what="growth of the database, to deferred `HttpOperator`'s", found=growth, bound=0.05, form="{:.4f}"),
    ]


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
        "longer.",
        "All pictures are files in the end: the ways without the provider write them in `python_callable` and",
        "`response_filter`. Time is from the request for the run to its end; each ran once. *Kept* is what tables and",
        "indexes hold afterwards; *grown* is what the database's file has grown by, with what was deleted in the",
        "meantime: an event that carries a picture is stored, and later removed.\n",
        "![Pictures per minute](images/performance-airflow.svg)\n",
        "| way | pictures | time, s | pictures/min | rows | rows/picture | kept, KiB/picture | grown, KiB/picture |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        kept, grown = (_each(row, key) / 1024 for key in ("used_bytes", "file_bytes"))
        text.append(
            f"| {NAMES[row['way']]} | {row['pictures']} | {row['wall_s']:.1f} | {per_minute(row):,.0f} | {row['rows']} "
            f"| {_each(row, 'rows'):.2f} | {kept:.2f} | {grown:,.2f} |"
        )
    return "\n".join(text) + "\n"


def per_minute(row: dict[str, Any]) -> float:
    """Return pictures per minute."""
    return float(60 * row["pictures"] / row["wall_s"])


def _each(row: dict[str, Any], key: str) -> float:
    return float(row[key] / row["pictures"])
