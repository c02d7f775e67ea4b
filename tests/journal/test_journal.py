"""Claims and records by the names of their objects."""

from __future__ import annotations

from decimal import Decimal
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from deepshi_provider.hooks.directories import STORES
from deepshi_provider.journal.entries import Owner, Record, Sending
from deepshi_provider.journal.journal import Ledger, parse_listing
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.sheets import add_up
from deepshi_provider.journal.spending import earlier_costs
from tests.support.places import Place

hexes = st.text("0123456789abcdef", min_size=16, max_size=16)
words = st.from_regex(r"[A-Za-z0-9_=-]{1,6}(\.[A-Za-z0-9_=-]{1,6})?", fullmatch=True)
kinds = st.sampled_from(["stored", "lost", "superseded"])


@given(words, st.lists(st.text(max_size=30) | words.map("{}.claim.json".format), max_size=8))
def test_names_that_mean_nothing_are_no_sendings(name: str, listing: list[str]) -> None:
    assert parse_listing(name, [entry for entry in listing if not entry.startswith(f"{name}.")]) == []


@given(words, st.text(max_size=20), hexes)
def test_any_name_is_read_without_an_error(name: str, rest: str, fingerprint: str) -> None:
    for entry in (rest, f"{name}.{rest}", f"{name}.1.{fingerprint}.{rest}", f"{name}.{rest}.claim.json"):
        assert len(parse_listing(name, [entry])) <= 1


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
    neighbours = [f"{name}x.1.{'0' * 16}.claim.json", f"{name}.0a1b.slot.json", "0a1b.holder.json"]
    found = parse_listing(name, [*listing, *neighbours])
    assert {(s.k, s.fingerprint): s.kind for s in found} == expected
    assert [s.k for s in found] == sorted(s.k for s in found)
    assert all(bool(s.record) == bool(s.kind) != bool(s.claim) for s in found)


OWNER = Owner(dag_id="d", run_id="r", task_id="t", try_number=1)


async def test_costs_of_a_task_are_its_own_over_all_tries(place: Place) -> None:
    ledger = Ledger(STORES.at(place.uri, place.conn_id), "image")
    others = [OWNER.model_copy(update=u) for u in ({"run_id": "x"}, {"map_index": 0}, {"task_id": "x"})]
    second = OWNER.model_copy(update={"try_number": 2})
    for k, owner in enumerate([OWNER, second, *others], start=1):
        record = Record(
            kind="lost", fingerprint="f" * 64, owner=owner, holder="h", cost_usd=Decimal("0.1"), recorded_at=k
        )
        await ledger.record(k, record)
    sendings = await ledger.sendings()
    assert [s.k for s in sendings] == [1, 2, 3, 4, 5]

    async def cost_of(owner: Owner) -> str:
        cost, doubts = await earlier_costs(STORES.at(place.uri, place.conn_id), ledger, owner, sendings)
        assert doubts == []
        return str(cost)

    assert await cost_of(second) == "0.2"
    assert [await cost_of(owner) for owner in others] == ["0.1"] * 3
    assert await cost_of(OWNER.model_copy(update={"dag_id": "x"})) == "0"


async def test_two_processes_that_made_one_attempt_both_count(local: Place) -> None:
    """A store that ignores that a claim exists lets both send."""
    ledger = Ledger(STORES.at(local.uri), "image")
    for holder in ("one", "other"):
        record = Record(
            kind="lost", fingerprint="f" * 64, owner=OWNER, holder=holder, cost_usd=Decimal("0.1"), recorded_at=1
        )
        await ledger.record(1, record)
    sendings = await ledger.sendings()
    assert [s.k for s in sendings] == [1, 1]
    assert await earlier_costs(STORES.at(local.uri), ledger, OWNER, sendings) == (Decimal("0.2"), [])
    tally = await add_up(STORES.at(local.uri), OWNER, prices=Prices("account"))
    assert tally.sums()["cost_usd"] == Decimal("0.2")


async def test_record_of_another_request_with_the_same_beginning_is_not_taken(local: Place) -> None:
    """Names hold 16 digits of a fingerprint, records all 64."""
    ledger = Ledger(STORES.at(local.uri), "image")
    record = Record(kind="stored", fingerprint="a" * 64, owner=OWNER, holder="h", recorded_at=1)
    await ledger.record(1, record)
    sendings: list[Sending] = await ledger.sendings()
    assert [purchase async for purchase in ledger.purchases(sendings, "a" * 16 + "b" * 48)] == []
    (found,) = [purchase async for purchase in ledger.purchases(sendings, "a" * 64)]
    assert found is not None
    assert found.record == record
