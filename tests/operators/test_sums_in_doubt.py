"""Lineage and asset events show when a sum is a lower bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout
from airflow.sdk import Asset
from airflow.sdk.execution_time.context import OutletEventAccessors, set_current_context

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.decorators.images import DeepshiImageDecoratedOperator
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.hooks.deepshi import DeepshiHook
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


Raises = Callable[[], Any]


def value_error() -> Any:
    raise ValueError("of the user")


def timeout() -> Any:
    raise AirflowTaskTimeout("over")


def nothing() -> Any:
    return None


@pytest.mark.parametrize("asked", [value_error, timeout, nothing])
@pytest.mark.parametrize("is_batch", [False, True], ids=["function", "rows"])
def test_a_try_that_ends_before_its_request_is_known_reports_the_costs_of_earlier_tries(
    emulator: Emulator, local: Place, asked: Raises, is_batch: bool
) -> None:
    """Airflow deletes the XComs of earlier tries."""

    def rows() -> Iterator[Any]:
        yield {"prompt": "a boat"}
        yield asked()

    def made(function: Callable[[], Any]) -> DeepshiImageDecoratedOperator:
        operator = DeepshiImageDecoratedOperator(
            task_id="boat", python_callable=function, width=64, height=48, output_uri=local.uri
        )
        return operator.prepare_for_execution()

    made(lambda: [{"prompt": "a boat"}] if is_batch else "a boat").execute(context_of(TaskInstance(task_id="boat")))
    ti = TaskInstance(task_id="boat", try_number=2)
    with pytest.raises((ValueError, AirflowTaskTimeout, AirflowFailException)):
        made(rows if is_batch else asked).execute(context_of(ti))
    price = Decimal(emulator.stats()["cost_usd"])
    assert (ti.xcoms["cost_usd"], ti.sheets[-1].cost_usd) == (float(price), price)
    assert price > 0


def test_a_function_that_fails_keeps_the_cost_sheet_of_its_hooks(emulator: Emulator, local: Place) -> None:
    def draws_and_raises() -> Any:
        DeepshiHook().generate(GenerateRequest(model="deepshi-banana-pro", prompt="a", width=64, height=48)).close()
        raise ValueError("of the user")

    ti = TaskInstance(task_id="boat")
    context = context_of(ti)
    operator = DeepshiImageDecoratedOperator(
        task_id="boat", python_callable=draws_and_raises, output_uri=local.uri
    ).prepare_for_execution()
    with set_current_context(context), pytest.raises(ValueError, match="of the user"):
        operator.execute(context)
    assert [(sheet.operation, sheet.cost_usd) for sheet in ti.sheets] == [
        ("hook", Decimal(emulator.stats()["cost_usd"]))
    ]
    assert "cost_usd" not in ti.xcoms


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
