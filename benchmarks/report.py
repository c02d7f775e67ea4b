"""Figures → ``docs/performance.md``: tables, a plot, and the targets with what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import airflow_report
from benchmarks.figures import middle, ratio, spread
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
    wanted = f"## Targets\n\nThe first six: {_what(largest)}, streamed.\n\n{table(targets)}\n"
    parts = [_head(results), wanted, _answers(results), _tls(results)]
    parts += [airflow_report.section(results["through_airflow"]), _growth(results), _imports(results), notes]
    page.write_text("\n".join(parts))
    return [target.what for target in targets if not target.is_met]


def _head(results: dict[str, Any]) -> str:
    machine = results["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    quick = "\n**A quick run, to see that it works; its figures mean nothing.**\n" if results["quick"] else ""
    return f"""# Performance

Written by `make bench` in {results["minutes"]} minutes; do not edit it, but `benchmarks/notes.md`.
{quick}
{machine["processor"]}, {machine["cores"]} cores, load {machine["load"]:.1f} at the start; {machine["system"]}, Python
{machine["python"]}; {packages}.

The server is behind TLS for all clients, as Deepshi is, if not said otherwise. Server and client are processes of
their own on one machine, and share its cores. Figures are medians of
{results["runs"]} runs with the smallest and the largest in brackets, if not said otherwise; in each run all clients
take turns, and ratios are medians of the ratios within a run. To readers that throw everything away the server sends
{spread(results["ceiling_gib_per_s"], "{:.2f}")} GiB of pictures per second.
"""


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
        Target(what=f"batch, time of {large:,} rows to {small:,}", found=ratio(grown, base, "wall_s"), bound=11),
        Target(what=f"batch, memory of {large:,} rows to {small:,}", found=ratio(grown, base, "memory_mb"), bound=1.2),
        Target(what="import beyond airflow.sdk", unit="ms", found=middle(results["imports"], "import_ms"), bound=60),
    ]


def _answers(results: dict[str, Any]) -> str:
    text = [
        "## One process, many long answers\n",
        "What a triggerer does. *This provider* is its whole job path to `file://`: claim, request, image, record,",
        "manifest. *OpenAI SDK* streams, decodes with `base64` and writes a file. *HttpTrigger* ends with its event,",
        "which carries the body to the database; a worker still has to decode it. *Floor* is the provider's transport,",
        "which reads the same bytes and discards them, and one write of the decoded picture.\n",
        "![Memory](images/performance-memory.svg)\n",
        "![Processor time](images/performance-cpu.svg)\n",
        "| pictures | at once | client | memory over idle, MB | CPU s/GiB | delay p99, ms | longest, ms | wall, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    cells = dict.fromkeys((row["size"], row["concurrency"]) for row in results["answers"])
    for size, concurrency in cells:
        for name, called in NAMES.items():
            rows = _cell(results["answers"], size, concurrency)[name]
            gib = size * rows[0]["pictures"] / 2**30
            figures = [
                spread([row["memory_mb"] for row in rows], "{:.1f}"),
                spread([row["cpu_s"] / gib for row in rows], "{:.2f}"),
                spread([row["delay_p99_ms"] for row in rows], "{:.1f}"),
                spread([row["delay_max_ms"] for row in rows], "{:.1f}"),
                spread([row["wall_s"] for row in rows], "{:.2f}"),
            ]
            what = f"{rows[0]['pictures']} of {_bytes(size)}"
            text.append(f"| {what} | {concurrency} | {called} | {' | '.join(figures)} |")
    return "\n".join(text) + "\n"


def _tls(results: dict[str, Any]) -> str:
    text = [
        "## What TLS costs\n",
        "The same over plain HTTP, for one size; the first figure is over TLS.\n",
        "| pictures | at once | client | CPU s/GiB | plain | memory over idle, MB | plain | wall, s | plain |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    plain = results["plain_answers"]
    for size, concurrency in dict.fromkeys((row["size"], row["concurrency"]) for row in plain):
        for name, called in NAMES.items():
            pair = [_cell(rows, size, concurrency)[name] for rows in (results["answers"], plain)]
            gib = size * pair[0][0]["pictures"] / 2**30
            figures = [
                *(spread([row["cpu_s"] / gib for row in rows], "{:.2f}") for rows in pair),
                *(spread([row["memory_mb"] for row in rows], "{:.1f}") for rows in pair),
                *(spread([row["wall_s"] for row in rows], "{:.2f}") for rows in pair),
            ]
            what = f"{pair[0][0]['pictures']} of {_bytes(size)}"
            text.append(f"| {what} | {concurrency} | {called} | {' | '.join(figures)} |")
    return "\n".join(text) + "\n"


def _growth(results: dict[str, Any]) -> str:
    text = [
        "## A batch that grows\n",
        "Pictures of 4 KiB to `file://`, 8 at once, from a server that does not wait: all time is the provider's own.",
        "*Again* is a new try of the finished batch, which buys nothing.\n",
        "| rows | time, s | ms per row | memory over idle, MB | again: time, s | again: memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for count in dict.fromkeys(row["rows"] for row in results["growth"]):
        rows = [row for row in results["growth"] if row["rows"] == count]
        figures = [
            spread([row["wall_s"] for row in rows], "{:.2f}"),
            spread([1000 * row["wall_s"] / count for row in rows], "{:.1f}"),
            spread([row["memory_mb"] for row in rows], "{:.1f}"),
            spread([row["rerun_wall_s"] for row in rows], "{:.2f}"),
            spread([row["rerun_memory_mb"] for row in rows], "{:.1f}"),
        ]
        text.append(f"| {count:,} | {' | '.join(figures)} |")
    return "\n".join(text) + "\n"


def _imports(results: dict[str, Any]) -> str:
    rows = results["imports"]
    return f"""## Import and parse

The operators take {spread([row["import_ms"] for row in rows], "{:.0f}")} ms to import once `airflow.sdk` is; a DAG
of 50 image tasks then takes {spread([row["parse_ms"] for row in rows], "{:.0f}")} ms.
"""


def _cell(answers: list[dict[str, Any]], size: int, concurrency: int) -> dict[str, list[dict[str, Any]]]:
    rows = [row for row in answers if (row["size"], row["concurrency"]) == (size, concurrency)]
    return {name: [row for row in rows if row["client"] == name] for name in NAMES}


def _largest(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return _cell(results["answers"], *max((row["size"], row["concurrency"]) for row in results["answers"]))


def _second_largest(results: dict[str, Any]) -> tuple[int, int]:
    """Return the size below the largest, and how many at once at most."""
    cells = {(row["size"], row["concurrency"]) for row in results["answers"]}
    size = sorted({size for size, _ in cells})[-2]
    return size, max(concurrency for other, concurrency in cells if other == size)


def _what(cell: dict[str, list[dict[str, Any]]]) -> str:
    row = cell["provider"][0]
    return f"{row['pictures']} pictures of {_bytes(row['size'])}, {row['concurrency']} at once"


def _bytes(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // 1024} KiB"
