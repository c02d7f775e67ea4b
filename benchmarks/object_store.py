"""A batch into a distant object store, compared with the same batch into a local directory.

``python -m benchmarks.object_store DIRECTORY RUNS SIZE:PICTURES:SECONDS …`` prints a JSON object for each run of each
cell: :data:`AT_ONCE` requests are in flight, each answered after so many seconds with a picture of this length (bytes).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.growth import buy
from benchmarks.meter import metered
from tests.services.seaweedfs import SeaweedFS

AT_ONCE = 64
_ROOT = Path(__file__).parent.parent
#: Airflow connection of the store.
CONN_ID = "bench_s3"


def _share(number: int) -> float:
    """Return when a row is answered, from 0.5 to 1.5 times the usual time, as for models: not all at one instant."""
    return 0.5 + (number * 0.618034) % 1


async def _measure(size: int, pictures: int, seconds: int, proxy: subprocess.Popen[str]) -> dict[str, Any]:
    prompts = [f"{size} bytes, row {number}, {seconds * _share(number):.2f} s" for number in range(pictures)]
    figures: dict[str, Any] = {"size": size, "pictures": pictures, "seconds": seconds}
    with tempfile.TemporaryDirectory(prefix="deepshi-bench-") as local:
        for name, to, conn_id in (
            ("local", Path(local).as_uri(), None),
            ("s3", f"s3://images/{os.urandom(4).hex()}", CONN_ID),
        ):
            await buy([f"4096 bytes, {name}"], f"{to}/warm", "warm", conn_id=conn_id)
            before = calls(proxy)
            async with metered() as figures[name]:
                await buy(prompts, f"{to}/rows", "run", conn_id=conn_id, max_concurrency=AT_ONCE)
            figures[name]["calls"] = calls(proxy) - before
    return figures


def calls(proxy: subprocess.Popen[str]) -> int:
    """Return the number of calls of the store so far."""
    assert proxy.stdin  # noqa: S101 -- it was started with pipes
    assert proxy.stdout  # noqa: S101
    print(file=proxy.stdin, flush=True)
    return int(proxy.stdout.readline())


@contextlib.contextmanager
def distant_store(s3: SeaweedFS) -> Iterator[subprocess.Popen[str]]:
    """Put a store behind a slow proxy, and yield that; :data:`CONN_ID` is the connection."""
    command = [sys.executable, "-m", "benchmarks.slow_store", s3.endpoint_url.rpartition(":")[2]]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout  # noqa: S101 -- it was started with a pipe
        connection = json.loads(s3.airflow_connection_json())
        connection["extra"]["endpoint_url"] = f"http://127.0.0.1:{proxy.stdout.readline().strip()}"
        os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = json.dumps(connection)
        try:
            yield proxy
        finally:
            proxy.kill()


def main() -> None:
    """Measure all cells in each of the runs."""
    directory, runs, *cells = sys.argv[1:]
    with SeaweedFS(Path(directory, "s3")) as s3, distant_store(s3) as proxy:
        for _ in range(int(runs)):
            for cell in cells:
                size, pictures, seconds = map(int, cell.split(":"))
                print(json.dumps(asyncio.run(_measure(size, pictures, seconds, proxy))), flush=True)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
