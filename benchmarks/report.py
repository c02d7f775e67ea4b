"""Writes ``docs/performance.md`` from the figures: tables, plots, and the targets with their results."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import airflow_report
from benchmarks.figures import middle, ratio
from benchmarks.plots import bars
from benchmarks.targets import Target, table

NAMES = {
    "provider": "this provider",
    "sdk": "OpenAI SDK",
    "http_trigger": "HttpTrigger",
    "floor": "floor",
}
MIB = 2**20


def write_report(results: dict[str, Any], page: Path) -> list[str]:
    """Write the page, and its plots into ``images/`` beside it."""
    notes = Path(__file__).with_name("notes.md").read_text()
    page.parent.mkdir(parents=True, exist_ok=True)
    images = page.parent / "images"
    images.mkdir(exist_ok=True)
    largest = _largest(results)
    for key, title in (("memory_mb", "Peak memory over idle, MB"), ("cpu_s", "Processor time, seconds")):
        figures = {NAMES[name]: middle(largest[name], key) for name in NAMES}
        chart = bars(f"{title}: {_what(largest)}", figures, ours=1)
        (images / f"performance-{key.split('_')[0]}.svg").write_text(chart)
    rates = airflow_report.rates(results["through_airflow"]["rows"])
    chart = bars("Pictures per minute through Airflow", rates, ours=airflow_report.OURS)
    (images / "performance-airflow.svg").write_text(chart)
    targets = _targets(results, largest)
    parts = [_head(results, largest), f"## Targets\n\n{table(targets)}\n", _answers(results)]
    parts.append(airflow_report.section(results["through_airflow"]))
    parts.append(airflow_report.preloaded(results["preloaded"], results["through_airflow"]["rows"]))
    if "on_postgres" in results:
        parts.append(airflow_report.on_postgres(results["on_postgres"]))
    parts += [_object_store(results), _growth(results)]
    parts.append(_done_rows(results["done_rows"]))
    parts += [notes, _how(results)]
    page.write_text(re.sub(r" *\| *", "|", "\n".join(parts)))  # only tables have bars
    return [target.what for target in targets if not target.is_met]


def _head(results: dict[str, Any], largest: dict[str, list[dict[str, Any]]]) -> str:
    quick = "**A quick run, to see that it works; its figures mean nothing.**\n\n" if results["quick"] else ""
    ours, sdk = largest["provider"], largest["sdk"]
    rates = airflow_report.rates(results["through_airflow"]["rows"])
    batch, http = rates[airflow_report.NAMES[airflow_report.BATCH]], rates["HttpOperator"]
    return f"""# Performance

{quick}Over TLS, {_what(largest)} take {middle(ours, "memory_mb"):,.0f} MB and {middle(ours, "cpu_s"):.1f} s of
processor time. The OpenAI SDK takes {middle(sdk, "memory_mb"):,.0f} MB and {middle(sdk, "cpu_s"):.1f} s. In Airflow
a batch makes {batch:,.0f} pictures per minute and mapped `HttpOperator` tasks {http:,.0f}. For more than a few
pictures use a batch: each mapped task is a process of its own, whatever its operator is.

![Processor time](images/performance-cpu.svg)
"""


def _how(results: dict[str, Any]) -> str:
    machine = results["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return f"""## How it was measured

`make bench` measured this in {sum(results["minutes"].values()):.0f} minutes on {machine["processor"]},
{machine["cores"]} cores, {machine["system"]}, Python {machine["python"]}; {packages}.
Edit `benchmarks/notes.md`, not this page. All runs and spreads are in `benchmarks/results.json`.

Figures are medians of {_runs(results["runs"])}. All clients take turns in each run, and ratios are medians of the
ratios within a run. The server, behind TLS as Deepshi is, is a process of its own on the same machine. To a reader that
discards everything it sends {median(results["ceiling_gib_per_s"]):.1f} GiB of pictures per second.
"""


def _runs(counts: dict[str, int]) -> str:
    """Return how often the parts were measured, the part with the fewest runs first."""
    fewest, most = min(counts.values()), max(counts.values())
    if fewest == most:
        return f"{most} runs"
    named = ", ".join(part.replace("_", " ") for part, count in counts.items() if count == fewest)
    return f"{most} runs ({named}: {fewest})"


def _targets(results: dict[str, Any], largest: dict[str, list[dict[str, Any]]]) -> list[Target]:
    ours, growth = largest["provider"], results["growth"]
    next_size = _cell(results["answers"], *_second_largest(results))
    small, large = sorted({row["rows"] for row in growth})[-2:]
    grown, base = ([row for row in growth if row["rows"] == count] for count in (large, small))
    return [
        Target(what="peak memory over idle", unit="MB", found=middle(ours, "memory_mb"), bound=60, form="{:.0f}"),
        Target(
            what="peak memory, to the SDK's", found=ratio(ours, largest["sdk"], "memory_mb"), bound=0.1, form="{:.3f}"
        ),
        Target(what="processor time, to the SDK's", found=ratio(ours, largest["sdk"], "cpu_s"), bound=0.35),
        Target(what="processor time, to the floor's", found=ratio(ours, largest["floor"], "cpu_s"), bound=1.6),
        Target(what="event loop delay, 99th percentile", unit="ms", found=middle(ours, "delay_p99_ms"), bound=25),
        Target(what="event loop delay, longest", unit="ms", found=middle(ours, "delay_max_ms"), bound=50),
        Target(
            what=f"processor time, to the SDK's: {_what(next_size)}",
            found=ratio(next_size["provider"], next_size["sdk"], "cpu_s"),
            bound=0.6,
        ),
        *airflow_report.targets(results["through_airflow"]["rows"]),
        *_of_stores(results),
        Target(what="batch on local files, time per row", unit="ms", found=_ms_per_row(grown), bound=2.5),
        Target(what=f"batch, time of {large:,} rows to {small:,}", found=ratio(grown, base, "wall_s"), bound=11),
        Target(what=f"batch, memory of {large:,} rows to {small:,}", found=ratio(grown, base, "memory_mb"), bound=1.2),
        Target(
            what="import of an operator, to that of airflow.sdk",
            found=median(row["import_ms"] / row["airflow_ms"] for row in results["imports"]),
            bound=0.05,
            form="{:.3f}",
        ),
    ]


def _of_stores(results: dict[str, Any]) -> list[Target]:
    bounds = (0.95, 0.8)
    targets = []
    for rows, bound in zip(_stored(results), bounds, strict=False):
        s3, local = ([row[where] for row in rows] for where in ("s3", "local"))
        found = ratio(local, s3, "wall_s")
        size = _bytes(rows[0]["size"])
        targets.append(Target(what=f"S3, {size}: rate to a local directory's", found=found, bound=bound, at_least=True))
        targets.append(
            Target(
                what=f"S3, {size}: memory over idle", unit="MB", found=middle(s3, "memory_mb"), bound=120, form="{:.0f}"
            )
        )
    return targets


def _ms_per_row(rows: list[dict[str, Any]]) -> float:
    return 1000 * middle(rows, "wall_s") / float(rows[0]["rows"])


def _answers(results: dict[str, Any]) -> str:
    text = [
        "## Many answers in one process\n",
        "What a triggerer does, with as many requests in flight as there are pictures.\n",
        "| pictures | client | memory over idle, MB | CPU, s | over plain HTTP | loop delay p99, ms |",
        "|---|---|---|---|---|---|",
    ]
    cells = dict.fromkeys((row["size"], row["concurrency"]) for row in results["answers"])
    most = max(concurrency for _, concurrency in cells)
    for size in (size for size, concurrency in cells if concurrency == most):
        for name, called in NAMES.items():
            rows = _cell(results["answers"], size, most)[name]
            plain = _cell(results["plain_answers"], size, most)[name]
            figures = [
                f"{middle(rows, 'memory_mb'):,.1f}",
                f"{middle(rows, 'cpu_s'):.2f}",
                f"{middle(plain, 'cpu_s'):.2f}" if plain else "",
                f"{middle(rows, 'delay_p99_ms'):,.1f}",
            ]
            text.append(f"| {rows[0]['pictures']} of {_bytes(size)} | {called} | {' | '.join(figures)} |")
    text += [
        "\n*This provider* runs whole jobs: claim, request, image, record, manifest. *OpenAI SDK* decodes and writes",
        "a file. *HttpTrigger* ends with an event that carries the body; a worker still has to decode it. *Floor*",
        "reads and discards the answer, and writes the decoded picture once.\n",
        "![Memory](images/performance-memory.svg)",
    ]
    return "\n".join(text) + "\n"


def _object_store(results: dict[str, Any]) -> str:
    text = [
        "## A distant object store\n",
        "A batch with 64 requests in flight, to S3 with 50 ms per call and 80 MB/s per connection, beside the same",
        "batch to a local directory. Answers come after 0.5 to 1.5 times the seconds below. Memory is beyond what the",
        "local batch has left, which runs first in the same process.\n",
        "| pictures | answered after | local, pictures/min | S3, pictures/min | memory, MB | calls per picture |",
        "|---|---|---|---|---|---|",
    ]
    for rows in _stored(results):
        row = rows[0]
        rates = (60 * row["pictures"] / middle([run[where] for run in rows], "wall_s") for where in ("local", "s3"))
        memory = middle([run["s3"] for run in rows], "memory_mb")
        calls = middle([run["s3"] for run in rows], "calls") / row["pictures"]
        figures = f"{' | '.join(f'{rate:,.0f}' for rate in rates)} | {memory:.0f} | {calls:.2f}"
        text.append(f"| {row['pictures']} of {_bytes(row['size'])} | {row['seconds']} s | {figures} |")
    return "\n".join(text) + "\n"


def _stored(results: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Return the runs of each size."""
    sizes = dict.fromkeys(row["size"] for row in results["object_store"])
    return [[row for row in results["object_store"] if row["size"] == size] for size in sizes]


def _growth(results: dict[str, Any]) -> str:
    text = [
        "## A batch that grows\n",
        "Pictures of 4 KiB to a local directory, 8 at once, from a server that does not wait. *Again* is a new try of",
        "the finished batch, which buys nothing.\n",
        "| rows | ms per row | memory over idle, MB | again: ms per row | again: memory, MB |",
        "|---|---|---|---|---|",
    ]
    for count in dict.fromkeys(row["rows"] for row in results["growth"]):
        rows = [row for row in results["growth"] if row["rows"] == count]
        figures = [
            f"{1000 * middle(rows, 'wall_s') / count:.1f}",
            f"{middle(rows, 'memory_mb'):.1f}",
            f"{1000 * middle(rows, 'rerun_wall_s') / count:.2f}",
            f"{middle(rows, 'rerun_memory_mb'):.1f}",
        ]
        text.append(f"| {count:,} | {' | '.join(figures)} |")
    return "\n".join(text) + "\n"


def _done_rows(found: list[dict[str, Any]]) -> str:
    text = [
        "The same for a finished batch in the distant object store, with the index that it wrote, and without:\n",
        "| rows | index | seconds | memory over idle, MB | calls |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        for index in ("with", "without"):
            if measured := row.get(index):
                figures = f"{measured['wall_s']:.1f} | {measured['memory_mb']:.0f} | {measured['calls']:,}"
                text.append(f"| {row['rows']:,} | {index} | {figures} |")
    return "\n".join(text) + "\n"


def _cell(answers: list[dict[str, Any]], size: int, concurrency: int) -> dict[str, list[dict[str, Any]]]:
    rows = [row for row in answers if (row["size"], row["concurrency"]) == (size, concurrency)]
    return {name: [row for row in rows if row["client"] == name] for name in NAMES}


def _largest(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return _cell(results["answers"], *max((row["size"], row["concurrency"]) for row in results["answers"]))


def _second_largest(results: dict[str, Any]) -> tuple[int, int]:
    """Return the second largest size, and its highest concurrency."""
    cells = {(row["size"], row["concurrency"]) for row in results["answers"]}
    size = sorted({size for size, _ in cells})[-2]
    return size, max(concurrency for other, concurrency in cells if other == size)


def _what(cell: dict[str, list[dict[str, Any]]]) -> str:
    row = cell["provider"][0]
    return f"{row['pictures']} pictures of {_bytes(row['size'])}, {row['concurrency']} at once"


def _bytes(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // 1024} KiB"
