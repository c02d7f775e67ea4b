"""Claims and records are found by the names of their objects."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepshi_provider.hooks.directories import STORES
from deepshi_provider.journal.directory import DirectoryJournal
from deepshi_provider.journal.entries import Claim, Owner, Record, attempts_in
from deepshi_provider.journal.journal import Journal
from tests.support.places import Place, state

hexes = st.text("0123456789abcdef", min_size=16, max_size=16)
words = st.from_regex(r"[A-Za-z0-9_=-]{1,6}(\.[A-Za-z0-9_=-]{1,6})?", fullmatch=True)
kinds = st.sampled_from(["stored", "lost", "superseded"])


@given(words, st.lists(st.text(max_size=30) | words.map("{}.claim.json".format), max_size=8))
def test_unknown_names_are_no_attempts(name: str, listing: list[str]) -> None:
    assert attempts_in(name, [entry for entry in listing if not entry.startswith(f"{name}.")]) == []


@given(words, st.text(max_size=20), hexes)
def test_any_name_is_read_without_an_error(name: str, rest: str, fingerprint: str) -> None:
    for entry in (rest, f"{name}.{rest}", f"{name}.1.{fingerprint}.{rest}", f"{name}.{rest}.claim.json"):
        assert len(attempts_in(name, [entry])) <= 1


@given(words, st.lists(st.tuples(st.integers(1, 99), hexes, kinds | st.none(), hexes), max_size=10), st.randoms())
def test_listing_is_read_as_it_was_written(
    name: str, entries: list[tuple[int, str, str | None, str]], random: Random
) -> None:
    listing = []
    expected: dict[tuple[int, str], str | None] = {}
    for k, fingerprint, kind, task_key in entries:
        if (k, fingerprint) in expected:
            continue
        expected[k, fingerprint] = kind
        listing.append(f"{name}.{k}.{fingerprint}.claim.json")
        if kind:
            listing.append(f"{name}.{k}.{fingerprint}.{task_key}.{'0' * 16}.{kind}.json")
    random.shuffle(listing)
    neighbours = [f"{name}x.1.{'0' * 16}.claim.json", f"{name}.0a1b.slot.json", "0a1b.lease.json"]
    found = attempts_in(name, [*listing, *neighbours])
    assert {(s.k, s.fingerprint): s.kind for s in found} == expected
    assert [s.k for s in found] == sorted(s.k for s in found)
    assert all(bool(s.record) == bool(s.kind) != bool(s.claim) for s in found)


OWNER = Owner(dag_id="d", run_id="r", task_id="t", try_number=1)


def lost(owner: Owner, lease_owner: str = "one") -> Record:
    return Record(
        kind="lost",
        fingerprint="f" * 64,
        owner=owner,
        lease_owner=lease_owner,
        cost_usd=Decimal("0.1"),
        recorded_at=1,
    )


def journal_of(place: Place, name: str | None = "image") -> Journal:
    store = STORES.at(place.uri, place.conn_id)
    return DirectoryJournal(store) if name is None else Journal(store, name)


@pytest.mark.parametrize("name", ["image", None])
async def test_costs_of_a_task_are_its_own_over_all_tries(place: Place, name: str | None) -> None:
    others = [OWNER.model_copy(update=u) for u in ({"run_id": "x"}, {"map_index": 0}, {"task_id": "x"})]
    second = OWNER.model_copy(update={"try_number": 2})
    with journal_of(place, name) as journal:
        for k, owner in enumerate([OWNER, second, *others], start=1):
            await journal.settle("image", k, lost(owner))
    with journal_of(place, name) as journal:
        assert [a.k for a in await journal.list_attempts("image")] == [1, 2, 3, 4, 5]
        await journal.refresh()

        async def cost_of(owner: Owner) -> str:
            tally = await journal.tally(owner)
            assert list(tally.doubts()) == []
            return str(tally.cost_usd)

        assert await cost_of(second) == "0.2"
        assert [await cost_of(owner) for owner in others] == ["0.1"] * 3
        assert await cost_of(OWNER.model_copy(update={"dag_id": "x"})) == "0"


@pytest.mark.parametrize("name", ["image", None])
async def test_two_processes_that_made_one_attempt_both_count(local: Place, name: str | None) -> None:
    """A store that overwrites an existing claim lets both send."""
    with journal_of(local, name) as journal:
        for lease_owner in ("one", "other"):
            await journal.settle("image", 1, lost(OWNER, lease_owner))
    with journal_of(local, name) as journal:
        await journal.refresh()
        assert [a.k for a in journal.attempts("image")] == [1, 1]
        assert (await journal.tally(OWNER)).sums()["cost_usd"] == Decimal("0.2")


@pytest.mark.parametrize("name", ["image", None])
async def test_an_attempt_the_store_did_not_record_is_paid_and_its_outcome_known(
    local: Place, name: str | None
) -> None:
    with journal_of(local, name) as journal:
        await journal.claim("image", 1, claim_of("one"))
        assert journal.known_tally(OWNER).sums()["unknown_outcomes"] == 1
        journal.keep("image", 1, lost(OWNER))
        await journal.refresh()  # which shows only the claim
        for tally in (await journal.tally(OWNER), journal.known_tally(OWNER)):
            sums = tally.sums()
            assert (sums["cost_usd"], sums["unknown_outcomes"]) == (Decimal("0.1"), 0)
    with journal_of(local, name) as journal:
        await journal.refresh()
        assert (await journal.tally(OWNER)).sums()["unknown_outcomes"] == 1


async def test_changes_during_a_listing_are_not_lost(local: Place) -> None:
    with journal_of(local, None) as journal:
        listing = asyncio.create_task(journal.refresh())
        await asyncio.sleep(0)
        await asyncio.gather(*(journal.settle(f"row-{n}", 1, lost(OWNER)) for n in range(5)), listing)
        assert [len(journal.attempts(f"row-{n}")) for n in range(5)] == [1] * 5


def claim_of(lease_owner: str) -> Claim:
    return Claim(fingerprint="f" * 64, owner=OWNER, lease_owner=lease_owner, model="m", claimed_at=1)


async def test_record_of_another_request_with_the_same_prefix_is_not_used(local: Place) -> None:
    """Names contain 16 digits of a fingerprint, records all 64."""
    record = Record(kind="stored", fingerprint="a" * 64, owner=OWNER, lease_owner="h", recorded_at=1)
    with journal_of(local) as journal:
        await journal.settle("image", 1, record)
        attempts = await journal.list_attempts("image")
        assert [purchase async for purchase in journal.purchases(attempts, "a" * 16 + "b" * 48)] == []
        (found,) = [purchase async for purchase in journal.purchases(attempts, "a" * 64)]
    assert found.record == record


async def test_index_and_journal_use_the_same_record_names(local: Place) -> None:
    with DirectoryJournal(STORES.at(local.uri)) as journal:
        for name in ("row-0", "row-1"):
            await journal.settle(name, 1, lost(OWNER))
        await journal.save_index()
    for entry in state(local, "record")[:1]:
        (Path(local.uri.removeprefix("file://")) / entry).write_bytes(b"not read, since the index has it")
    with DirectoryJournal(STORES.at(local.uri)) as journal:
        await journal.open()
        assert journal.costs_of(OWNER, "row-0") == journal.costs_of(OWNER, "row-1") == [Decimal("0.1")]
