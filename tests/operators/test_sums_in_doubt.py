"""Lineage and asset events show when a sum is a lower bound."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from airflow.sdk import Asset
from airflow.sdk.execution_time.context import OutletEventAccessors

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.operators.openlineage import FACET
from tests.support.places import Place
from tests.support.tasks import TaskInstance, context_of, generate

PICTURES = Asset("s3://shop/pictures")


def tried(place: Place, ti: TaskInstance, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a try that succeeds or fails; return the run facet and the extra of the asset event."""
    operator = generate(
        output_uri=f"{place.uri}/{ti.task_id}", outlets=[PICTURES], preflight="off", **fields
    ).prepare_for_execution()
    events = OutletEventAccessors()
    context = context_of(ti, outlet_events=events)
    operator.render_template_fields(context)
    try:
        operator.execute(context)
    except DeepshiError:
        facet = operator.get_openlineage_facets_on_failure(ti).run_facets[FACET]
    else:
        facet = operator.get_openlineage_facets_on_complete(ti).run_facets[FACET]
    names = ("cost_usd", "untold", "unknown_outcomes", "may_have_cost_usd")
    return {name: getattr(facet, name) for name in names}, dict(events[PICTURES].extra)


@pytest.fixture
def price(emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch) -> Decimal:
    """The price of a picture, which the connection has stored."""
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(output_uri=local.uri))
    tried(local, TaskInstance(task_id="before"), prompt="another boat")
    return Decimal(emulator.stats()["cost_usd"])


def test_an_unreported_cost_is_named_beside_the_sum(emulator: Emulator, local: Place, price: Decimal) -> None:
    emulator.settings(cost_form="absent")
    facet, extra = tried(local, TaskInstance(task_id="boat"), reuse=False)
    assert facet == {"cost_usd": None, "untold": 1, "unknown_outcomes": 0, "may_have_cost_usd": f"{price:f}"}
    assert {name: extra[name] for name in facet} == {**facet, "may_have_cost_usd": float(price)}


def test_an_unknown_outcome_of_an_earlier_try_is_named_beside_the_sum(
    emulator: Emulator, local: Place, price: Decimal
) -> None:
    emulator.fault("cut", charged=True)
    facet, extra = tried(local, TaskInstance(task_id="boat"), retries=1)
    assert facet == {"cost_usd": "0", "untold": 0, "unknown_outcomes": 1, "may_have_cost_usd": f"{price:f}"}
    assert extra == {}, "a failed task has no asset event"
    facet, extra = tried(local, TaskInstance(task_id="boat", try_number=2))
    assert facet == {"cost_usd": f"{price:f}", "untold": 0, "unknown_outcomes": 1, "may_have_cost_usd": f"{price:f}"}
    assert {name: extra[name] for name in facet} == {
        **facet,
        "cost_usd": float(price),
        "may_have_cost_usd": float(price),
    }
    assert Decimal(emulator.stats()["cost_usd"]) == 3 * price
