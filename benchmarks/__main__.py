"""Run the benchmarks and write ``docs/performance.md`` from the results: ``make bench``.

Each measurement is a process of its own; so is the server, which is behind TLS for all clients, as Deepshi is; one size
is measured over plain HTTP too. ``--quick`` runs everything small and once.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ceiling import ceiling
from benchmarks.pictures import write_answers
from benchmarks.report import write_report
from benchmarks.through_airflow import PARALLELISM

ROOT = Path(__file__).parent.parent
MIB = 2**20


#: What is measured, each under its name in the results.
PARTS = (
    "ceiling_gib_per_s",
    "imports",
    "answers",
    "plain_answers",
    "through_airflow",
    "preloaded",
    "object_store",
    "growth",
    "done_rows",
)
#: Needs what ``make test-cluster`` installs, so it is measured only if it is named.
_MORE_PARTS = ("on_postgres",)
#: Measured once: most of their time is to prepare.
_ONCE = ("done_rows", "on_postgres")


def main() -> None:
    """Measure, save the figures, and write the page."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="everything small and once, to see that it works")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--parts", nargs="*", choices=(*PARTS, *_MORE_PARTS), default=PARTS, help="keep the saved figures of the others"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md")
    options = parser.parse_args()
    if options.parts:
        saved = {} if options.parts == PARTS else json.loads(options.results.read_text())
        measured = _measure(options.parts, quick=options.quick, runs=1 if options.quick else options.runs)
        for name in ("runs", "minutes"):
            measured[name] = {**saved.get(name, {}), **measured[name]}
        options.results.write_text(json.dumps({**saved, **measured}, indent=1) + "\n")
    results = json.loads(options.results.read_text())
    missed = write_report(results, options.page)
    print(f"Wrote {options.page}")
    if missed and not results["quick"]:
        sys.exit(f"Missed: {'; '.join(missed)}")


def _measure(parts: Sequence[str], *, quick: bool, runs: int) -> dict[str, Any]:
    for package in ("deepshi_provider", "benchmarks"):  # as an installation from a wheel does
        compileall.compile_dir(ROOT / package, quiet=1)
    sizes = (4096, MIB // 4) if quick else (4096, MIB, 18 * MIB)
    stored = () if quick else (2 * MIB,)
    at_once = 4 if quick else 64
    rows = (10, 100) if quick else (100, 1_000, 10_000)
    done = (10, 20) if quick else (10_000, 100_000)
    cells = ("4096:4:1",) if quick else (f"{2 * MIB}:384:5", f"{18 * MIB}:128:20")
    results: dict[str, Any] = {"machine": _machine(), "quick": quick, "runs": {}, "minutes": {}}
    with _server((*sizes, *stored)) as (directory, secure, plain):

        def answers(environment: dict[str, str], sizes: tuple[int, ...]) -> list[dict[str, Any]]:
            cells = (f"{size}:{at_once}" for size in sizes)
            arguments = (environment["BENCH_URL"], str(directory), str(runs), *cells)
            return _json("benchmarks.answers", *arguments, environment=environment)

        measure: dict[str, Callable[[], Any]] = {
            "ceiling_gib_per_s": lambda: [
                ceiling(secure["BENCH_URL"], secure["SSL_CERT_FILE"], sizes[-1], connections=at_once)
                for _ in range(runs)
            ],
            "imports": lambda: [_json("benchmarks.imports", environment=secure)[0] for _ in range(runs)],
            "answers": lambda: answers(secure, sizes),
            "plain_answers": lambda: answers(plain, sizes[1:2]),
            "through_airflow": lambda: _through_airflow(directory, secure, sizes[1], runs, quick=quick),
            "preloaded": lambda: _through_airflow(directory, secure, sizes[1], runs, "preloaded", quick=quick),
            "on_postgres": lambda: _through_airflow(directory, secure, sizes[1], 1, "postgres", quick=quick),
            "object_store": lambda: _json(
                "benchmarks.object_store", str(directory), str(runs), *cells, environment=secure
            ),
            "growth": lambda: [
                _json("benchmarks.growth", str(count), environment=secure)[0] for _ in range(runs) for count in rows
            ],
            "done_rows": lambda: _json("benchmarks.done_rows", str(directory), *map(str, done), environment=secure),
        }
        for part in parts:
            begun = time.monotonic()
            results[part] = measure[part]()
            results["runs"][part] = 1 if part in _ONCE else runs
            results["minutes"][part] = round((time.monotonic() - begun) / 60, 1)
    return results


def _through_airflow(
    directory: Path, environment: dict[str, str], size: int, runs: int, *variant: str, quick: bool
) -> dict[str, Any]:
    pictures, latency = (4, 0.1) if quick else (200, 2.0)
    arguments = (str(directory), str(runs), str(pictures), str(size), str(latency), *variant)
    rows = _json("benchmarks.through_airflow", *arguments, environment=environment)
    return {"parallelism": PARALLELISM, "size_bytes": size, "latency_s": latency, "rows": rows}


@contextlib.contextmanager
def _server(sizes: tuple[int, ...]) -> Iterator[tuple[Path, dict[str, str], dict[str, str]]]:
    """Start the server; yield the directory of its answers, and the clients' environments with and without TLS."""
    with tempfile.TemporaryDirectory(prefix="deepshi-bench-") as name:
        directory = Path(name)
        for size in {4096, *sizes}:
            write_answers(directory, size)
        command = [sys.executable, "-m", "benchmarks.server", name]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        try:
            assert server.stdout  # noqa: S101 -- it was started with a pipe
            secure, plain = server.stdout.readline().split()
            yield (
                directory,
                _environment(f"https://127.0.0.1:{secure}", directory),
                _environment(f"http://127.0.0.1:{plain}", directory),
            )
        finally:
            server.kill()
            server.communicate()


def _environment(url: str, directory: Path) -> dict[str, str]:
    ca_file = str(directory / "ca.pem")
    connection = {"conn_type": "deepshi", "host": url, "password": "sk-bf-bench", "extra": {"verify": ca_file}}
    return {
        **os.environ,
        "NO_PROXY": "127.0.0.1",
        "AIRFLOW_HOME": str(directory / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW_CONN_DEEPSHI_DEFAULT": json.dumps(connection),
        "AIRFLOW_CONN_BENCH_HTTP": json.dumps({"conn_type": "http", "host": url}),
        "BENCH_URL": url,
        # The certificates that the other clients trust.
        "SSL_CERT_FILE": ca_file,
        "REQUESTS_CA_BUNDLE": ca_file,
    }


def _json(module: str, *arguments: str, environment: dict[str, str]) -> list[dict[str, Any]]:
    """Run a program that prints a line of JSON for each measurement; echo the lines."""
    found = []
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout  # noqa: S101 -- it was started with a pipe
        for line in program.stdout:
            if line.startswith("{"):
                print(f"{module.removeprefix('benchmarks.')} {line}", end="", flush=True)
                found.append(json.loads(line))
    if program.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return found


def _machine() -> dict[str, Any]:
    text = Path("/proc/cpuinfo").read_text()
    names = [line.partition(": ")[2] for line in text.splitlines() if line.startswith("model name")]
    packages = ("airflow-provider-deepshi", "apache-airflow", "apache-airflow-providers-http", "openai")
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in (*packages, "httpcore", "httpx", "pybase64")},
    }


if __name__ == "__main__":
    main()
