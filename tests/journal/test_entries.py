"""Records, claims and manifests as plain data, and the rules that connect them."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepshi_provider.costs.money import as_number, plain, total
from deepshi_provider.exceptions import DeepshiError, ResendsExhausted
from deepshi_provider.jobs.outcome import ImageOutcome, outcome_of
from deepshi_provider.journal.entries import (
    Attempt,
    Claim,
    Owner,
    Record,
    StoredImage,
    next_k,
    since_purchase,
    unsettled,
)
from deepshi_provider.journal.sheets import make_sheet

FINGERPRINTS = ["a" * 64, "b" * 64, "c" * 64]
money = st.decimals(min_value=0, max_value=1000, places=12)
names = st.text(min_size=1, max_size=12)
owners = st.builds(
    Owner,
    dag_id=names,
    run_id=names,
    task_id=names,
    map_index=st.integers(-1, 20),
    try_number=st.integers(1, 9),
)
attempt_lists = st.lists(
    st.builds(
        lambda k, fingerprint, kind: Attempt(
            k=k,
            fingerprint=fingerprint[:16],
            claim=None if kind else "claim",
            record="record" if kind else None,
            kind=kind,
            task_key="task" if kind else None,
        ),
        k=st.integers(1, 30),
        fingerprint=st.sampled_from(FINGERPRINTS),
        kind=st.sampled_from(["stored", "lost", "superseded", None]),
    ),
    unique_by=lambda attempt: (attempt.k, attempt.fingerprint),
    max_size=12,
).map(lambda attempts: sorted(attempts, key=lambda attempt: attempt.k))


# ------------------------------------------------------------------ sums


@given(st.lists(money))
def test_known_costs_add_up_exactly(costs: list[Decimal]) -> None:
    found = total(costs)
    assert found == sum(costs, Decimal(0))
    assert found is not None
    assert len(found.as_tuple().digits) <= 28, "the context's precision was not needed"


@given(st.lists(money), st.integers(1, 3))
def test_unknown_costs_do_not_hide_known_ones(costs: list[Decimal], unknown: int) -> None:
    mixed: list[Decimal | None] = [None] * unknown
    mixed[1:1] = costs
    assert total(mixed) == (total(costs) if costs else None)


def test_nothing_costs_nothing_and_is_not_unknown() -> None:
    assert total([]) == 0
    assert total(iter([])) == 0
    assert total([None]) is None
    assert total([None, Decimal(0)]) == 0


@given(money)
def test_money_as_a_json_number_reads_back_as_the_same_decimal(cost: Decimal) -> None:
    number = as_number(cost)
    assert Decimal(json.dumps(number)) == cost
    assert as_number(None) is None


# ------------------------------------------------------------------ attempts


@given(attempt_lists, st.sampled_from(FINGERPRINTS))
def test_next_attempt_is_numbered_after_all_others_of_its_request(attempts: list[Attempt], fingerprint: str) -> None:
    same = [attempt.k for attempt in attempts if attempt.fingerprint == fingerprint[:16]]
    assert next_k(attempts, fingerprint) == (max(same) + 1 if same else 1)


@given(attempt_lists, st.sampled_from(FINGERPRINTS))
def test_exposed_are_the_attempts_of_the_request_after_its_last_purchase(
    attempts: list[Attempt], fingerprint: str
) -> None:
    exposed = since_purchase(attempts, fingerprint)
    assert all(s in attempts and s.fingerprint == fingerprint[:16] and s.kind != "stored" for s in exposed)
    same = [s for s in attempts if s.fingerprint == fingerprint[:16]]
    purchases = [s.k for s in same if s.kind == "stored"]
    assert exposed == [s for s in same if not purchases or s.k > max(purchases)]


@given(attempt_lists, st.sampled_from(FINGERPRINTS))
def test_other_requests_in_the_directory_do_not_count_as_exposed(attempts: list[Attempt], fingerprint: str) -> None:
    own = [s for s in attempts if s.fingerprint == fingerprint[:16]]
    assert since_purchase(own, fingerprint) == since_purchase(attempts, fingerprint)


@given(attempt_lists, st.sampled_from(FINGERPRINTS))
def test_a_purchase_ends_all_exposure(attempts: list[Attempt], fingerprint: str) -> None:
    k = next_k(attempts, fingerprint)
    bought = Attempt(k=k, fingerprint=fingerprint[:16], record="r", kind="stored", task_key="t")
    claimed = Attempt(k=k + 1, fingerprint=fingerprint[:16], claim="c")
    assert since_purchase([*attempts, bought], fingerprint) == []
    assert since_purchase([*attempts, bought, claimed], fingerprint) == [claimed]


@given(attempt_lists)
def test_unsettled_are_attempts_without_a_record(attempts: list[Attempt]) -> None:
    assert unsettled(attempts) == [s for s in attempts if s.kind is None]


# ------------------------------------------------------------------ owners


@given(owners, owners)
def test_keys_of_tasks_differ_if_and_only_if_the_tasks_do(one: Owner, other: Owner) -> None:
    for owner in (one, other):
        assert owner.task_key.isalnum()
        assert owner.run_key.isalnum()
        assert owner.task_key != owner.run_key
    assert (one.task_key == other.task_key) == one.is_same_task(other)


@given(owners, st.integers(1, 9), st.integers(-1, 20))
def test_tries_share_the_key_of_the_task_and_map_indexes_that_of_the_group(
    owner: Owner, try_number: int, map_index: int
) -> None:
    later = owner.model_copy(update={"try_number": try_number})
    mapped = owner.model_copy(update={"map_index": map_index})
    assert later.is_same_task(owner)
    assert later.task_key == owner.task_key
    assert mapped.run_key == owner.run_key
    assert (mapped.task_key == owner.task_key) == (map_index == owner.map_index)


@pytest.mark.parametrize(("one", "other"), [(("ab", "c"), ("a", "bc")), (("a", "b"), ("b", "a"))])
def test_ids_that_read_the_same_in_a_row_are_kept_apart(one: tuple[str, str], other: tuple[str, str]) -> None:
    keys = {Owner(dag_id=dag, run_id=run, task_id="t").task_key for dag, run in (one, other)}
    assert len(keys) == 2


# ------------------------------------------------------------------ documents

OWNER = Owner(dag_id="shop", run_id="monday", task_id="boat", map_index=2, try_number=3)
IMAGE = StoredImage(
    uri="s3://bucket/a/image-0.png",
    index=0,
    media_type="image/png",
    width=64,
    height=48,
    size_bytes=323,
    sha256="0" * 64,
)
SUCCESS = ImageOutcome(
    status="success",
    images=[IMAGE],
    model="deepshi-banana-pro",
    size="64x48",
    created=1795260767,
    cost_usd=Decimal("0.000001582031"),
    usage={"total_tokens": 6, "cost": {"total_cost": Decimal("1.582031E-6")}},
    sends=2,
    unknown_outcomes=1,
    manifest_uri="s3://bucket/a/_deepshi/x.manifest.json",
)


def test_return_value_is_plain_json_and_money_a_number() -> None:
    value = SUCCESS.as_xcom()
    assert json.loads(json.dumps(value)) == value
    assert value == {
        "images": [
            {
                "uri": "s3://bucket/a/image-0.png",
                "index": 0,
                "media_type": "image/png",
                "width": 64,
                "height": 48,
                "size_bytes": 323,
                "sha256": "0" * 64,
                "revised_prompt": None,
            }
        ],
        "model": "deepshi-banana-pro",
        "size": "64x48",
        "created": 1795260767,
        "cost_usd": 0.000001582031,
        "usage": {"total_tokens": 6, "cost": {"total_cost": 0.000001582031}},
        "sends": 2,
        "unknown_outcomes": 1,
        "reused": False,
        "warnings": [],
        "manifest_uri": "s3://bucket/a/_deepshi/x.manifest.json",
        "map_index": SUCCESS.map_index,
        "key": None,
        "metadata": None,
        "fallback": None,
    }


def test_event_of_a_success_names_the_manifest_only() -> None:
    assert SUCCESS.as_event("aws") == {
        "kind": "single",
        "status": "success",
        "manifest_uri": "s3://bucket/a/_deepshi/x.manifest.json",
        "storage_conn_id": "aws",
        "error": None,
    }


def test_event_of_a_failure_holds_the_error_and_becomes_the_same_outcome_again() -> None:
    error = ResendsExhausted("no more", cost_usd=Decimal("0.1"), sends=1)
    costs = make_sheet(OWNER, "generate", "file:///a", None, ended=True, cost_usd=Decimal("0.30"))
    failed = ImageOutcome(
        status="failed",
        cost_usd=Decimal("0.1"),
        sends=1,
        unknown_outcomes=2,
        manifest_uri="",
        costs=costs,
        error=error.as_data(),
    )
    event = json.loads(json.dumps(failed.as_event(None)))
    again = outcome_of(event)
    assert again == failed
    assert again.error is not None
    rebuilt = DeepshiError.from_data(again.error)
    assert type(rebuilt) is ResendsExhausted
    assert (rebuilt.message, rebuilt.cost_usd, rebuilt.charged) == ("no more", Decimal("0.1"), "unknown")


@given(money)
def test_money_in_files_is_exact_text(cost: Decimal) -> None:
    record = Record(
        kind="stored",
        fingerprint="f" * 64,
        owner=OWNER,
        lease_owner="h",
        images=[IMAGE],
        cost_usd=cost,
        recorded_at=1.5,
    )
    text = record.model_dump_json()
    assert Decimal(json.loads(text)["cost_usd"]) == cost
    assert json.loads(text)["cost_usd"] == f"{cost:f}"
    assert Record.model_validate_json(text) == record


def test_claim_and_manifest_survive_their_files() -> None:
    claim = Claim(fingerprint="f" * 64, owner=OWNER, lease_owner="h", model="m", claimed_at=1.5)
    assert Claim.model_validate_json(claim.model_dump_json()) == claim
    again = ImageOutcome.model_validate_json(SUCCESS.model_dump_json())
    # Tokens and prices inside "usage" stay as the API sends them, as JSON numbers.
    assert again.model_copy(update={"usage": {}}) == SUCCESS.model_copy(update={"usage": {}})


values = st.recursive(
    st.none() | st.booleans() | st.text(max_size=5) | st.integers() | money,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(values)
def test_plain_data_is_json_of_the_same_values(value: Any) -> None:
    assert json.loads(json.dumps(plain(value))) == plain(value)
    assert plain(plain(value)) == plain(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(Decimal(3), 3), (Decimal("3.0"), 3.0), (Decimal("1E+3"), 1000), (Decimal("0.5"), 0.5), (True, True)],
)
def test_whole_decimals_become_integers_only_if_written_so(value: Any, expected: Any) -> None:
    assert plain(value) == expected
    assert type(plain(value)) is type(expected)


# ------------------------------------------------------------------ memory


def test_texts_of_records_and_claims_are_not_cached() -> None:
    """Pydantic would cache 16,384 of them for repeated texts, but here each text is different."""
    owner = Owner(dag_id="shop", run_id="monday", task_id="pictures")
    claim = Claim(fingerprint="a" * 40, owner=owner, lease_owner="a-process", model="bench", claimed_at=1.0)
    record = Record(kind="stored", fingerprint="a" * 40, owner=owner, lease_owner="h", model="bench", recorded_at=1.0)
    for kept in (claim, record):
        first, second = (type(kept).model_validate_json(kept.model_dump_json()) for _ in range(2))
        assert first.fingerprint == second.fingerprint
        assert first.fingerprint is not second.fingerprint
        assert first.owner.run_id is not second.owner.run_id
