"""A new try of a large finished batch in S3: its time, memory and calls, with the batch's index and without it.

``python -m benchmarks.done_rows DIRECTORY ROWS…`` prints a JSON object for each number of rows. One row is bought; the
objects of all others are written as copies of its own, straight into the server. The new try must find all of them and
buy nothing. The store is as far away as in :mod:`benchmarks.object_store`.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.growth import buy
from benchmarks.meter import metered
from benchmarks.object_store import CONN_ID, calls, distant_store
from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.journal.directory import INDEX_NAME
from tests.services.seaweedfs import SeaweedFS

_THREADS = 8


def _prompt(number: int) -> str:
    return f"4096 bytes, row {number}"


def _copies(s3: SeaweedFS, folder: str, rows: int, account: str) -> Iterator[tuple[str, bytes]]:
    """Yield the objects of all rows, and of the index, from those of the first row."""
    first = {
        item["Key"]: s3.client().get_object(Bucket="images", Key=item["Key"])["Body"].read()
        for item in s3.client().list_objects_v2(Bucket="images", Prefix=f"{folder}/")["Contents"]
        if "/row-0" in item["Key"]
    }
    prints = [_fingerprint(number, account) for number in range(2)]
    index = []
    for number in range(rows):
        fingerprint = _fingerprint(number, account)
        for key, data in first.items():
            name = key.replace("/row-0", f"/row-{number}").replace(prints[0][:16], fingerprint[:16])
            if key.endswith(".json"):
                text = data.decode().replace(prints[0], fingerprint).replace("/row-0", f"/row-{number}")
                yield name, text.encode()
                if key.endswith(".stored.json"):
                    index.append(json.dumps([name.rpartition("/")[2], json.loads(text)]))
            else:
                yield name, data
    yield f"{folder}/{INDEX_NAME}", "\n".join(index).encode()


def _fingerprint(number: int, account: str) -> str:
    return GenerateRequest(model="bench", prompt=_prompt(number), stream=True).fingerprint(account)


def _write(port: int, objects: Iterable[tuple[str, bytes]]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for name, data in objects:
        connection.request("PUT", f"/buckets/images/{name}", data)
        answer = connection.getresponse()
        answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{name}: {answer.status}")
    connection.close()


def _plant(s3: SeaweedFS, folder: str, rows: int, account: str) -> None:
    objects = list(_copies(s3, folder, rows, account))
    with ThreadPoolExecutor(_THREADS) as threads:
        parts = [objects[number::_THREADS] for number in range(_THREADS)]
        list(threads.map(_write, [s3.filer_port] * _THREADS, parts))


async def _measure(s3: SeaweedFS, proxy: Any, rows: int, *, without: bool) -> dict[str, Any]:
    folder = os.urandom(4).hex()
    uri = f"s3://images/{folder}"
    await buy([_prompt(0)], uri, "first", conn_id=CONN_ID)
    settings = await DeepshiHook().asettings()
    await asyncio.to_thread(_plant, s3, folder, rows, settings.account)
    prompts = [_prompt(number) for number in range(rows)]
    figures: dict[str, Any] = {"rows": rows}
    for name in ("with", "without") if without else ("with",):
        if name == "without":
            s3.client().delete_object(Bucket="images", Key=f"{folder}/{INDEX_NAME}")
        before = calls(proxy)
        async with metered() as figures[name]:
            created = await buy(prompts, uri, name, conn_id=CONN_ID)
        figures[name]["calls"] = calls(proxy) - before
        if created:
            raise RuntimeError(f"{created} of {rows} pictures were bought again")
    return figures


def main() -> None:
    """Measure each number of rows; without the index only the smallest."""
    directory, *numbers = sys.argv[1:]
    with SeaweedFS(Path(directory, "s3-done")) as s3, distant_store(s3) as proxy:
        for rows in map(int, numbers):
            print(json.dumps(asyncio.run(_measure(s3, proxy, rows, without=rows == int(numbers[0])))), flush=True)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
