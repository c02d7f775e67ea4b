"""A plan shows what a batch will buy, and its cost, before anything is bought."""

from __future__ import annotations

import json
import logging
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk import DAG, Asset, task

from deepshi_provider.cli.main import main
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.jobs.plan import Plan
from tests.support.batches import BANANA, PRICE, batch, deferred, ended, result_of, rows_of
from tests.support.counts import posts, taken
from tests.support.places import LocalPlace, Place, state
from tests.support.tasks import TaskInstance, execute, generate

#: Five price classes of one model.
SIZES = [(64, 48), (48, 64), (32, 32), (64, 64), (96, 64)]
COUNTS = ("new", "changed", "stored", "refused", "undecided")


def sized(count: int, sizes: list[tuple[int, int]] = SIZES) -> list[dict[str, Any]]:
    """Rows that cycle through these sizes."""
    turn = (sizes[number % len(sizes)] for number in range(count))
    return [row | {"width": w, "height": h} for row, (w, h) in zip(rows_of(count), turn, strict=True)]


@pytest.fixture
def remembering(emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The emulator, with a connection that stores prices."""
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(output_uri=local.uri))
    return emulator


def counts(plan: Plan) -> tuple[int, ...]:
    return tuple(getattr(plan, name) for name in COUNTS)


def planned(place: Place, rows: Any, **fields: Any) -> Plan:
    """Return the plan of a batch; nothing is bought or stored."""
    before = place.names()
    ti, err = ended(batch(place, rows, plan_only=True, **fields), run_id="plan")
    assert err is None
    assert (ti.xcoms["cost_usd"], ti.xcoms["return_value"]["manifest_uri"]) == (0.0, None)
    assert place.names() == before
    (plan,) = ti.plans
    return plan


@pytest.mark.slow
def test_the_plan_equals_what_is_paid_to_the_last_digit(remembering: Emulator, local: Place) -> None:
    elsewhere = {"output_uri": f"{local.uri}/elsewhere"}
    result_of(batch(local, sized(5), **elsewhere))
    before, rows = taken(remembering), sized(1000)
    plan = planned(local, rows)
    assert (counts(plan), plan.unpriced) == ((1000, 0, 0, 0, 0), 0)
    assert [c.requests for c in plan.classes] == [200] * 5
    ti, err = ended(batch(local, rows, max_concurrency=16))
    assert err is None
    assert plan.low_usd == plan.high_usd == taken(remembering) - before == 200 * before
    (made,) = ti.plans
    assert made.low_usd == plan.low_usd, "a batch that buys says the same"
    assert counts(planned(local, rows)) == (0, 0, 1000, 0, 0)


def test_with_unknown_prices_the_range_holds(emulator: Emulator, local: Place) -> None:
    result_of(batch(local, sized(3)))
    before = taken(emulator)
    plan = planned(local, sized(20))
    assert (counts(plan), plan.unpriced, plan.high_usd) == ((17, 0, 3, 0, 0), 8, None)
    assert "(8 of unknown price)" in plan.summary()
    result_of(batch(local, sized(20)), run_id="tuesday")
    paid = taken(emulator) - before
    assert plan.low_usd <= paid
    known = sum((c.low_usd * c.requests for c in plan.classes if c.low_usd), Decimal(0))
    assert (plan.low_usd, known > 0) == (known, True)


def test_prices_that_differ_make_a_range_that_holds(emulator: Emulator, local: Place) -> None:
    result_of(batch(local, rows_of(1), **BANANA, output_uri=f"{local.uri}/a"))
    (record,) = [name for name in local.names() if name.endswith(".stored.json")]
    dearer = json.loads(local.read(record)) | {"cost_usd": "0.05"}
    local.write(record.replace("a/_deepshi/row-0.1.", "a/_deepshi/row-99.1."), json.dumps(dearer).encode())
    plan = planned(local, rows_of(11), **BANANA, output_uri=f"{local.uri}/a")
    assert (counts(plan), plan.low_usd, plan.high_usd) == ((10, 0, 1, 0, 0), Decimal("0.390"), Decimal("0.50"))
    assert "about $0.390 to $0.50" in plan.summary()


@pytest.mark.slow
def test_the_plan_is_one_line_in_log_report_and_sheet(
    emulator: Emulator, local: Place, caplog: pytest.LogCaptureFixture
) -> None:
    result_of(batch(local, rows_of(3), **BANANA))
    rows = [*rows_of(1, "another boat"), *rows_of(5)[1:], {"key": "big", "prompt": "p", "resolution": "4K"}]
    line = "plan: 3 new, 1 changed, 2 stored; about $0.117 (1 of unknown price); budget $5.00"
    with caplog.at_level(logging.INFO):
        ti, err = ended(batch(local, rows, **BANANA, max_cost_usd="5.00"), run_id="tuesday")
    assert err is None
    assert [record.getMessage() for record in caplog.records].count(line) == 1
    assert (ti.plans[0].summary(), ti.sheets[-1].plan) == (line, line)
    (known, unknown) = ti.plans[0].classes
    assert (known.price_class, known.requests, known.low_usd) == (
        "generate nano-banana-2 n=1 resolution=1K",
        3,
        Decimal("0.039"),
    )
    assert unknown.requests == 1
    assert unknown.low_usd is None


@pytest.mark.parametrize("way", ["blocking", "deferred"])
def test_plan_only_neither_sends_nor_stores_anything(remembering: Emulator, local: Place, way: str) -> None:
    result_of(batch(local, rows_of(4)))
    operator = batch(local, rows_of(10), plan_only="{{ params.plan }}", deferrable=way == "deferred")
    if way == "deferred":
        operator.plan_only = True
        ti, _ = deferred(operator, run_id="tuesday")
    else:
        ti = TaskInstance(task_id="catalog", run_id="tuesday")
        execute(operator, ti, {"plan": True})
    (plan,) = ti.plans
    assert (counts(plan), plan.low_usd, plan.high_usd) == ((6, 0, 4, 0, 0), 6 * PRICE, 6 * PRICE)
    result = ti.xcoms["return_value"]
    assert (result["rows"], result["created"], result["skipped"], result["cost_usd"]) == (10, 0, 10, 0.0)
    assert (posts(remembering), str(ti.sheets[-1].cost_usd)) == (4, "0")
    assert result["manifest_uri"] is None
    assert len([name for name in local.names() if name.startswith("manifest-")]) == 1
    buys = TaskInstance(task_id="catalog", run_id="tuesday")
    execute(batch(local, rows_of(10), plan_only="{{ params.plan }}"), buys, {"plan": False})
    assert posts(remembering) == 10


@pytest.mark.slow
def test_the_command_line_and_a_dry_run_print_the_same_plan(
    remembering: Emulator,
    local: Place,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = f"{local.uri}/catalog"
    result_of(batch(local, rows_of(4), output_uri=out))
    before, bought = local.names(), posts(remembering)
    file = tmp_path / "rows.csv"
    file.write_text("key,prompt\n" + "".join(f"{row['key']},{row['prompt']}\n" for row in rows_of(10)))
    defaults = [f"--default={field}" for field in ("model=deepshi-banana-pro", "width=64", "height=48")]
    assert main(["plan", str(file), "--output-uri", out, *defaults]) == 0
    printed = capsys.readouterr().out.splitlines()[-2:]  # Airflow logs to stdout in this process
    assert printed == [
        f"plan: 6 new, 0 changed, 4 stored; about ${6 * PRICE:f}",
        f"  6 at ${PRICE:f}  generate deepshi-banana-pro n=1 width=64 height=48",
    ]
    assert main(["plan", str(file), "--output-uri", out, *defaults, "--max-cost-usd", "0.000001"]) == 1
    capsys.readouterr()
    assert main(["plan", str(file), "--output-uri", out, *defaults, "--json"]) == 0
    out_of_log = capsys.readouterr().out
    assert json.loads(out_of_log[out_of_log.index("{\n") :])["new"] == 6
    capsys.readouterr()
    batch(local, rows_of(10), output_uri=out).dry_run()
    log = capsys.readouterr().out
    assert all(line in log for line in printed)
    assert (local.names(), posts(remembering)) == (before, bought)


def test_a_dry_run_of_one_picture_shows_its_cost(
    remembering: Emulator, local: Place, caplog: pytest.LogCaptureFixture
) -> None:
    operator = generate(output_uri=f"{local.uri}/boat")
    with caplog.at_level(logging.INFO):
        operator.dry_run()
        execute(operator, TaskInstance(task_id="boat"))
        operator.dry_run()
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("plan: ")]
    assert lines[0] == "plan: 1 new, 0 changed, 0 stored; an unknown amount (1 of unknown price)"
    assert lines[-1] == "plan: 0 new, 0 changed, 1 stored; about $0"
    assert posts(remembering) == 1


def test_a_plan_for_a_function_of_one_picture_buys_nothing(remembering: Emulator, local: Place) -> None:
    with DAG("functions", schedule=None):

        @task.deepshi_image(width=64, height=48, output_uri=f"{local.uri}/boat", plan_only="{{ params.plan }}")
        def boat() -> str:
            return "a red boat"

        operator = cast(Any, boat()).operator
    ti = TaskInstance(task_id="boat")
    execute(operator, ti, {"plan": "true"})
    assert (counts(ti.plans[0]), posts(remembering)) == ((1, 0, 0, 0, 0), 0)
    again = TaskInstance(task_id="boat")
    execute(operator, again, {"plan": "false"})
    assert (again.plans, posts(remembering)) == ([], 1)
    with pytest.raises(AirflowFailException, match="plan_only: true or false is needed, got 'perhaps'"):
        execute(operator, TaskInstance(task_id="boat"), {"plan": "perhaps"})


@pytest.mark.slow
def test_a_batch_certainly_over_its_budget_buys_nothing(emulator: Emulator, local: Place) -> None:
    result_of(batch(local, rows_of(2), **BANANA))
    rows = rows_of(12)
    ti, err = ended(batch(local, rows, **BANANA, max_cost_usd="0.2"), run_id="tuesday")
    assert isinstance(err, AirflowFailException)
    assert str(err).startswith(
        "Nothing was bought: the batch costs at least $0.390, and $0.2 of max_cost_usd $0.2 are left. "
        "start_over_budget=True buys what fits. Raise max_cost_usd and clear the task to continue; "
        "10 of 12 rows were not started"
    )
    assert (posts(emulator), len(state(local, "claim")), ti.plans[0].low_usd) == (2, 2, Decimal("0.390"))
    ti, err = ended(
        batch(local, rows, **BANANA, max_cost_usd="0.2", start_over_budget=True), run_id="tuesday", try_number=2
    )
    assert "$0.195 of max_cost_usd $0.2 are spent" in str(err)
    assert posts(emulator) == 7
    exactly = batch(local, rows, **BANANA, max_cost_usd="0.390")
    assert result_of(exactly, run_id="tuesday", try_number=3)["created"] == 10


def test_costs_of_earlier_tries_reduce_the_budget(emulator: Emulator, local: Place) -> None:
    ended(batch(local, rows_of(10), **BANANA, max_cost_usd="0.2"))
    assert taken(emulator) == Decimal("0.195")
    ti, err = ended(batch(local, rows_of(10), **BANANA, max_cost_usd="0.3"), try_number=2)
    assert "the batch costs at least $0.195, and $0.105 of max_cost_usd $0.3 are left" in str(err)
    assert ti.plans[0].summary().endswith("budget $0.3, $0.195 of it spent")
    assert taken(emulator) == Decimal("0.195")


def test_a_plan_over_the_budget_is_reported_and_does_not_fail(
    emulator: Emulator, local: Place, caplog: pytest.LogCaptureFixture
) -> None:
    result_of(batch(local, rows_of(1), **BANANA))
    plan = planned(local, rows_of(10), **BANANA, max_cost_usd="0.2")
    assert plan.low_usd == Decimal("0.351")
    assert "Nothing was bought: the batch costs at least $0.351" in caplog.text


def test_rows_that_preflight_or_max_resends_refuse_cost_nothing(emulator: Emulator, local: Place) -> None:
    emulator.fault("cut", times=2, charged=True, prompt="lost")
    rows = [{"key": "lost", "prompt": "lost"}, *rows_of(3), {"key": "wide", "prompt": "p", "width": 9_000}]
    fields: dict[str, Any] = {"preflight": "error", "max_resends": 0, "on_error": "partial"}
    plan = planned(local, rows, **fields)
    assert counts(plan) == (4, 0, 0, 1, 0)
    assert result_of(batch(local, rows, **fields))["failed"] == 2
    assert counts(planned(local, rows, **fields)) == (0, 0, 3, 2, 0)
    assert counts(planned(local, rows, **{**fields, "max_resends": 1})) == (1, 0, 3, 1, 0)


def test_an_attempt_counts_once_although_a_fallback_equals_the_request(emulator: Emulator, local: Place) -> None:
    emulator.fault("cut", charged=True, prompt="lost")
    fields: dict[str, Any] = {"fallbacks": [{"seed": None}], "max_resends": 0, "on_error": "partial"}
    rows = [{"key": "lost", "prompt": "lost"}]
    assert result_of(batch(local, rows, **fields))["failed"] == 1
    assert counts(planned(local, rows, **fields)) == (0, 0, 0, 1, 0)
    assert counts(planned(local, rows, **{**fields, "max_resends": 1})) == (1, 0, 0, 0, 0)
    assert result_of(batch(local, rows, **{**fields, "max_resends": 1}), try_number=2)["created"] == 1


def test_rows_for_a_fallback_are_planned_at_its_price(emulator: Emulator, local: Place) -> None:
    fallbacks = [{"model": "nano-banana-2", "resolution": "1K", "width": None, "height": None}]
    fields: dict[str, Any] = {"model": "no-such-model", "fallbacks": fallbacks, "preflight": "error"}
    result_of(batch(local, rows_of(2), **fields))
    plan = planned(local, rows_of(5), **fields)
    assert (counts(plan), plan.low_usd) == ((3, 0, 2, 0, 0), Decimal("0.117"))


def test_deleted_or_replaced_images_are_planned_again(emulator: Emulator, local: Place) -> None:
    result_of(batch(local, rows_of(4)))
    local.delete("row-1-0.png")
    assert counts(planned(local, rows_of(4))) == (0, 1, 3, 0, 0)
    assert counts(planned(local, rows_of(4), reuse=False)) == (0, 4, 0, 0, 0)
    assert counts(planned(local, [])) == (0, 0, 0, 0, 0)


@pytest.mark.slow
def test_a_plan_compares_edits_and_a_batch_leaves_them_open(emulator: Emulator, local: Place, tmp_path: Path) -> None:
    inputs = LocalPlace(tmp_path / "inputs")
    result_of(batch(inputs, rows_of(3)))
    images = [f"{inputs.uri}/row-{number}-0.png" for number in range(3)]
    edits = [row | {"images": image} for row, image in zip(rows_of(3, "blue"), images, strict=True)]
    fields: dict[str, Any] = {"model": "deepshi-image-1"}
    assert counts(planned(local, edits, **fields)) == (3, 0, 0, 0, 0)
    result_of(batch(local, edits, **fields))
    inputs.write("row-1-0.png", inputs.read("row-2-0.png"))
    missing = [*edits, {"key": "none", "prompt": "p", "images": f"{inputs.uri}/nowhere.png"}]
    assert counts(planned(local, edits, **fields)) == (0, 1, 2, 0, 0)
    ti, _ = ended(batch(local, missing, **fields), run_id="tuesday")
    (plan,) = ti.plans
    assert counts(plan) == (1, 0, 0, 0, 3)
    assert plan.low_usd <= (ti.sheets[-1].cost_usd or 0) <= (plan.high_usd or 0)
    assert "3 not compared" in plan.summary()


def test_a_plan_updates_no_asset(remembering: Emulator, local: Place) -> None:
    operator = batch(local, rows_of(2), plan_only=True, outlets=[Asset("catalog")])
    ti = TaskInstance(task_id="catalog")
    with pytest.raises(AirflowSkipException, match="plan_only: nothing was bought"):
        execute(operator, ti)
    assert (counts(ti.plans[0]), posts(remembering)) == ((2, 0, 0, 0, 0), 0)


def test_the_prices_of_a_connection_are_listed(
    remembering: Emulator, local: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prices"]) == 0
    assert capsys.readouterr().out == "0 price classes, by recent payments\n"
    result_of(batch(local, rows_of(3), **BANANA))
    capsys.readouterr()
    assert main(["prices"]) == 0
    (line, summary) = capsys.readouterr().out.splitlines()[-2:]
    assert line.startswith("$0.039  20")
    assert line.endswith("  generate nano-banana-2 n=1 resolution=1K")
    assert summary.startswith("1 price class,")
    assert main(["prices", "--json"]) == 0
    (price,) = json.loads(capsys.readouterr().out)
    assert (price["cost_usd"], price["lowest_usd"]) == ("0.039", "0.039")
    assert posts(remembering) == 3
