"""The attempts of a directory, stored outside of memory."""

from __future__ import annotations

import sqlite3
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshi_provider.journal.entries import in_order, parse_entry
from deepshi_provider.journal.snapshot import Snapshot

names = st.sampled_from(["a", "b", "a.1", "ä"])
numbers = st.integers(1, 3).map(str)
prints = st.sampled_from(["0" * 16, "f" * 16])
owners = st.sampled_from(["1" * 16, "2" * 16])
claims = st.tuples(names, numbers, prints, st.just("claim"))
records = st.tuples(
    names, numbers, prints, owners, st.just("3" * 16), st.sampled_from(["stored", "lost", "superseded"])
)
entries = st.lists((claims | records).map(lambda parts: ".".join(parts) + ".json") | st.text(max_size=20), max_size=30)


@pytest.mark.slow
@settings(max_examples=50)
@given(entries)
def test_listed_attempts_are_found_by_name_and_owner(found: list[str]) -> None:
    with closing(Snapshot()) as listing:
        listing.take((entry, 1) for entry in found)
        parsed = [(name, attempt) for name, attempt in map(parse_entry, set(found)) if attempt]
        for name in {"a", "b", "a.1", "nobody"}:
            assert listing.attempts(name) == in_order(attempt for owner, attempt in parsed if owner == name)
        for owner in ("1" * 16, "2" * 16):
            own = {attempt.record for _, attempt in parsed if attempt.task_key == owner}
            assert {attempt.record for attempt in listing.records(owner)} == own
        assert {s.record for s in listing.records()} == {s.record for _, s in parsed} - {None}
        assert all((entry in listing) == (parse_entry(entry)[1] is not None) for entry in found)


@pytest.mark.slow
@settings(max_examples=50)
@given(entries)
def test_every_claim_without_a_record_is_unsettled(found: list[str]) -> None:
    parsed = [(name, attempt) for name, attempt in map(parse_entry, set(found)) if attempt]
    settled = {(name, s.k, s.fingerprint) for name, s in parsed if s.record}
    expected = {s.claim for name, s in parsed if s.claim and (name, s.k, s.fingerprint) not in settled}
    with closing(Snapshot()) as listing:
        listing.take((entry, 1) for entry in found)
        assert {attempt.claim for attempt in listing.unsettled()} == expected


@pytest.mark.parametrize("name", ["\udcff", "a\0b"])
def test_names_with_invalid_characters_are_supported(name: str) -> None:
    entry = f"{name}.1.{'0' * 16}.claim.json"
    with closing(Snapshot()) as listing:
        listing.take([(entry, 1), (name, 2)])
        assert [attempt.claim for attempt in listing.unsettled()] == [entry]
        assert entry in listing


def test_an_abandoned_listing_is_closed_by_its_thread() -> None:
    """A cancelled task does not wait for its listing, which continues in a thread."""
    taken = 0
    begun, given_up = threading.Event(), threading.Event()

    def objects() -> Iterator[tuple[str, int]]:
        nonlocal taken
        for number in range(1000):
            yield f"a.{number}.{'0' * 16}.claim.json", 1
            taken += 1
            begun.set()
            assert given_up.wait(30)

    listing = Snapshot()
    thread = threading.Thread(target=listing.take, args=(objects(),))
    thread.start()
    assert begun.wait(30)
    listing.close()
    given_up.set()
    thread.join(30)
    assert not thread.is_alive()
    assert taken == 1
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        listing.attempts("a")


@pytest.mark.slow
def test_a_long_listing_is_not_kept_in_memory() -> None:
    """SQLite's memory is limited by its cache and not traced here."""
    objects = (
        (f"row-{n}.1.{'0' * 16}.{kind}.json", 1)
        for n in range(3_000)
        for kind in ("claim", f"{'1' * 16}.{'3' * 16}.stored")
    )
    tracemalloc.start()
    try:
        with closing(Snapshot()) as listing:
            listing.take(objects)
            assert sum(1 for _ in listing.records("1" * 16)) == 3_000
            assert sum(1 for _ in listing.unsettled()) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_changes_by_this_process_are_visible_at_once() -> None:
    claim, record = f"a.1.{'0' * 16}.claim.json", f"a.1.{'0' * 16}.{'1' * 16}.{'3' * 16}.stored.json"
    with closing(Snapshot()) as listing:
        listing.put(claim)
        assert [attempt.claim for attempt in listing.unsettled()] == [claim]
        listing.put(record)
        assert [attempt.record for attempt in listing.attempts("a")] == [record]
        assert list(listing.unsettled()) == []
        listing.discard(record)
        assert [attempt.claim for attempt in listing.unsettled()] == [claim]
        listing.forget("a")
        assert listing.attempts("a") == []
