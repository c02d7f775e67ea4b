"""Many long answers in one process, as in a triggerer: each measurement is a fork of one process that is set up.

``python -m benchmarks.answers URL DIRECTORY RUNS SIZE:CONCURRENCY…`` prints one JSON object per measurement.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from benchmarks.clients import CLIENTS
from benchmarks.meter import metered


def _pictures(size: int, concurrency: int) -> int:
    """Return the number of pictures for one measurement."""
    return max(concurrency, 4 if size > 4 * 2**20 else 64)


async def _measure(name: str, url: str, directory: Path, size: int, concurrency: int) -> dict[str, Any]:
    to = Path(tempfile.mkdtemp(dir=directory, prefix="made-"))
    numbers = iter(range(_pictures(size, concurrency)))
    try:
        async with CLIENTS[name](url, directory) as make:
            (to / "warm").mkdir()
            await make(0, 4096, to / "warm")
            if name == "floor":
                (to / "first").mkdir()
                await make(0, size, to / "first")

            async def work() -> None:
                for number in numbers:
                    await make(number, size, to)

            async with metered() as figures:
                await asyncio.gather(*(work() for _ in range(concurrency)))
        return {
            "client": name,
            "size": size,
            "concurrency": concurrency,
            "pictures": _pictures(size, concurrency),
            **figures,
        }
    finally:
        shutil.rmtree(to)


def _in_a_fork(*arguments: Any) -> dict[str, Any]:
    """Measure in a fork of this process, so that measurements do not share memory."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            result = asyncio.run(_measure(*arguments))
            os.write(writing, json.dumps(result).encode())
            status = 0
        except BaseException:  # noqa: BLE001 -- a fork must not go on as its parent
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as output:
        text = output.read()
    os.waitpid(child, 0)
    if not text:
        raise RuntimeError(f"A measurement ended without a result: {arguments}")
    figures: dict[str, Any] = json.loads(text)
    return figures


def main() -> None:
    """Measure all clients, one after another, in each of the runs."""
    url, directory, runs, *cells = sys.argv[1:]
    logging.disable(logging.WARNING)
    for run in range(int(runs)):
        for cell in cells:
            size, concurrency = map(int, cell.split(":"))
            for name in CLIENTS:
                print(json.dumps({"run": run, **_in_a_fork(name, url, Path(directory), size, concurrency)}), flush=True)


if __name__ == "__main__":
    main()
