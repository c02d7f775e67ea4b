"""Objects of a store behind TLS are read completely, also if each answer closes its connection."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import shutil
from pathlib import Path

import pytest

from deepshi_provider.hooks.directories import STORES
from deepshi_provider.store.store import Store
from tests.services.authority import Authority
from tests.services.nginx import Nginx
from tests.services.seaweedfs import SeaweedFS

pytestmark = [pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(600)]

SIZE = 8 * 2**20
AT_ONCE = 8


async def write_and_read_back(store: Store, numbers: range) -> list[int]:
    """Return the numbers of the objects that were read as written."""
    turns = asyncio.Semaphore(AT_ONCE)
    noise = random.Random(0).randbytes(SIZE - 8)

    async def one(number: int) -> bool:
        async with turns:
            data = number.to_bytes(8, "big") + noise
            await store.publish(f"image-{number}.png", lambda: io.BytesIO(data), "image/png")
            digest = await store.process(f"image-{number}.png", lambda file: hashlib.sha256(file.read()).digest())
            assert await store.size(f"image-{number}.png") == SIZE
            return digest == hashlib.sha256(data).digest()

    whole = await asyncio.gather(*map(one, numbers))
    return [number for number, is_whole in zip(numbers, whole, strict=True) if is_whole]


@pytest.mark.parametrize(("ending", "count"), [("kept alive", 10), ("closed", 40)])
def test_large_objects_are_read_completely(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, count: int
) -> None:
    # Airflow's file system for S3 does not pass the connection's `verify` on.
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.ca_file))
    numbers = range(count)
    if ending == "kept alive":
        with SeaweedFS(tmp_path / "s3", authority=authority) as s3:
            came = group(monkeypatch, s3, "kept_alive", s3.endpoint_url, numbers)
    else:  # nginx sends its last bytes, TLS's close_notify and FIN together
        options = {"keepalive_timeout": 0, "proxy_set_header": "Host $http_host", "proxy_buffering": "on"}
        with SeaweedFS(tmp_path / "s3") as s3, Nginx(tmp_path, s3.endpoint_url, authority, **options) as nginx:
            came = group(monkeypatch, s3, "closed", nginx.base_url, numbers)
    shutil.rmtree(tmp_path / "s3")
    assert came == list(numbers)


def group(monkeypatch: pytest.MonkeyPatch, s3: SeaweedFS, conn_id: str, url: str, numbers: range) -> list[int]:
    """Write and read objects over their own connection, since file systems are cached per connection."""
    connection = s3.airflow_connection_json().replace(s3.endpoint_url, url)
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", connection)
    store = STORES.at(f"s3://images/{conn_id}", conn_id)
    return asyncio.run(write_and_read_back(store, numbers))
