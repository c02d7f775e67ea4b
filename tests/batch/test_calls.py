"""The number of calls to the object store: each takes tens of milliseconds, and S3 charges for it."""

from __future__ import annotations

import re
from collections import defaultdict
from urllib.parse import unquote

import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.services.s3_proxy import S3Proxy
from tests.support.batches import batch, counts, result_of, rows_of
from tests.support.counts import posts
from tests.support.places import S3Place

pytestmark = [pytest.mark.s3, pytest.mark.slow]


def test_each_picture_takes_a_claim_an_image_and_a_record(
    emulator: Emulator, s3_place: S3Place, proxy: S3Proxy
) -> None:
    value = result_of(batch(s3_place, rows_of(12), output_conn_id=proxy.conn_id, max_concurrency=4))
    assert (counts(value), posts(emulator)) == ((12, 0, 0, 0), 12)
    calls = defaultdict(list)
    for method, path in proxy.seen:
        if row := re.search(r"row-\d+", path):
            calls[row[0]].append((method, _part(path)))
    few = [("PUT", "claim"), ("PUT", "image"), ("PUT", "stored")]
    # The first claim also tests whether the server refuses to create an existing object.
    assert sorted(calls.values(), key=len)[:11] == [few] * 11
    assert len(calls) == 12


def _part(path: str) -> str:
    """Return the kind of object or listing that a call is about."""
    key, _, query = unquote(path).partition("?")
    if "list-type" in query:
        return "listing"
    name = key.rpartition("/")[2]
    return "image" if name.endswith(".png") else name.split(".")[-2]
