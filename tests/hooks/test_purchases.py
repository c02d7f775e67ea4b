"""A run's budget counts the purchases of hooks in its tasks, also those of unknown cost."""

from __future__ import annotations

import contextlib
from decimal import Decimal

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk.execution_time.context import set_current_context

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import InsufficientQuota, OutcomeUnknown
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.support.counts import posts, taken
from tests.support.places import Place
from tests.support.tasks import TaskInstance, context_of, execute, generate

REQUEST = GenerateRequest(model="deepshi-banana-pro", prompt="a boat", width=64, height=48)


@pytest.fixture
def entries(emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The connection's directory, where the tasks of a run share their spending."""
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(output_uri=local.uri))
    return local


def entry_names(place: Place) -> list[str]:
    return sorted(name.split("/")[-1].partition(".")[2] for name in place.names() if name.startswith("_deepshi_runs/"))


def test_purchases_in_a_task_are_entered_with_their_cost_as_far_as_known(emulator: Emulator, entries: Place) -> None:
    with set_current_context(context_of(TaskInstance(task_id="script", map_index=None))):
        DeepshiHook().generate(REQUEST).close()
        emulator.fault("status", status=402)
        with pytest.raises(InsufficientQuota):
            DeepshiHook().generate(REQUEST)
        for _ in range(3):
            emulator.fault("cut", charged=False)
            with pytest.raises(OutcomeUnknown):
                DeepshiHook().generate(REQUEST)
    price = emulator.requests()[0]["cost_usd"]
    assert entry_names(entries) == [f"{price}.json", *[f"0_{price}_0_0.json"] * 3], "a refusal is free"
    with pytest.raises(AirflowFailException, match=r"Not sent.*max_run_cost_usd"):
        execute(generate(max_run_cost_usd=4.5 * float(price)), TaskInstance(task_id="after"))
    assert posts(emulator) == 5


def buy(emulator: Emulator, ti: TaskInstance, *, lost: bool = False) -> None:
    if lost:
        emulator.fault("cut")
    with set_current_context(context_of(ti)), contextlib.suppress(OutcomeUnknown):
        DeepshiHook().generate(REQUEST).close()


@pytest.mark.parametrize("output_uri", [True, False])
def test_purchases_are_the_tasks_cost_sheet_over_all_tries(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch, output_uri: bool
) -> None:
    more = {"output_uri": local.uri} if output_uri else {}
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(**more))
    first, second = TaskInstance(task_id="script"), TaskInstance(task_id="script", try_number=2)
    for lost in (False, False, True):
        buy(emulator, first, lost=lost)
    price = Decimal(emulator.requests()[0]["cost_usd"])
    sheet = first.sheets[-1]
    assert (sheet.operation, sheet.cost_usd, sheet.unknown_outcomes) == ("hook", 2 * price, 1)
    assert sheet.deepshi_conn_id == "deepshi_default"
    assert sheet.may_have_cost_usd == price
    assert sum(model.images for model in sheet.models) == 2
    buy(emulator, second)
    # Without an output_uri nothing of the first try is stored.
    assert second.sheets[-1].cost_usd == (3 if output_uri else 1) * price
    assert taken(emulator) == 4 * price


def test_costs_of_two_connections_in_one_task_are_those_of_neither(
    emulator: Emulator, entries: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_OTHER", emulator.connection_json(output_uri=entries.uri))
    ti = TaskInstance(task_id="script")
    with set_current_context(context_of(ti)):
        for conn_id in ("deepshi_default", "deepshi_other"):
            DeepshiHook(conn_id).generate(REQUEST).close()
    assert [sheet.deepshi_conn_id for sheet in ti.sheets] == ["deepshi_default", None]
    assert ti.sheets[-1].cost_usd == taken(emulator)


def test_nothing_is_entered_outside_of_a_task_or_for_other_runs(emulator: Emulator, entries: Place) -> None:
    DeepshiHook().generate(REQUEST).close()
    assert (entry_names(entries), posts(emulator)) == ([], 1)


def test_an_image_task_enters_its_costs_once(emulator: Emulator, entries: Place) -> None:
    ti = TaskInstance(task_id="boat")
    with set_current_context(context_of(ti)):
        execute(generate(), ti)
    assert entry_names(entries) == [f"{emulator.requests()[0]['cost_usd']}.json"]
