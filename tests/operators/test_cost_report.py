"""The cost report of a run: its sources, its files, and invalid arguments."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.sdk.execution_time.context import set_current_context

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.costs.sheet import XCOM_KEY, CostSheet
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import BudgetExceeded, DeepshiError, StorageFailed, TasksFailed
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.operators.cost_report import DeepshiCostReportOperator
from deepshi_provider.operators.images import DeepshiGenerateImageOperator, DeepshiGenerateImagesOperator
from deepshi_provider.reports.page import rounded
from tests.services.forks import start_module
from tests.support.batches import PRICE, rows_of
from tests.support.counts import taken
from tests.support.places import LocalPlace, Place
from tests.support.tasks import TaskInstance, context_of, execute
from tests.support.waiting import wait_until

SMALL: dict[str, Any] = {"width": 64, "height": 48, "preflight": "off"}


@dataclass(kw_only=True)
class ReportInstance(TaskInstance):
    """The report's task instance, which reads the XComs of other tasks."""

    others: Sequence[TaskInstance] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)

    def get_task_states(self, *, dag_id: str, task_ids: list[str], run_ids: list[str]) -> dict[str, dict[str, str]]:
        assert (dag_id, run_ids) == (self.dag_id, [self.run_id])
        known = {f"{task_id}{end}": task_id for task_id in task_ids for end in ("", "_0", "_1")}
        return {self.run_id: {name: state for name, state in self.states.items() if name in known}}

    def xcom_pull(self, *, task_ids: list[str], key: str) -> list[Any]:
        assert key == XCOM_KEY
        found: list[Any] = []
        for task_id in task_ids:
            sheets: list[Any] = [ti.sheets[-1].as_xcom() for ti in self.others if ti.task_id == task_id and ti.sheets]
            found += sheets or [None]
        return found


@pytest.fixture
def server(emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The emulator, with a connection that stores images in ``local``."""
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(output_uri=local.uri))
    return emulator


def dag(**report: Any) -> DAG:
    """A DAG with a single picture, a batch and a report."""
    with DAG("shop", schedule=None) as made:
        boat = DeepshiGenerateImageOperator(task_id="boat", prompt="a red boat", **SMALL)
        catalog = DeepshiGenerateImagesOperator(task_id="catalog", requests=rows_of(10), **SMALL)
        [boat, catalog] >> DeepshiCostReportOperator(task_id="report", **report)
    return made


def operator_of(made: DAG, task_id: str) -> Any:
    """An operator of a DAG, with its type."""
    return made.task_dict[task_id]


def done(made: DAG, *task_ids: str, **identity: Any) -> list[TaskInstance]:
    """Run these tasks."""
    instances = [TaskInstance(task_id=task_id, **identity) for task_id in task_ids]
    for ti in instances:
        execute(operator_of(made, ti.task_id), ti)
    return instances


def report_on(
    made: DAG, others: Sequence[TaskInstance], ti: ReportInstance | None = None, **identity: Any
) -> tuple[dict[str, Any], ReportInstance]:
    """Run the report and return its result."""
    ti = ti or ReportInstance(task_id="report", others=others, **identity)
    operator = operator_of(made, "report").prepare_for_execution()
    context = context_of(ti, dag=made)
    operator.render_template_fields(context)
    value: dict[str, Any] = operator.execute(context)
    return value, ti


def written(place: Place, ending: str, run_id: str = "monday") -> str:
    return place.read(f"shop/{run_id}/report/report.{ending}").decode()


def test_result_and_xcom_have_the_total(server: Emulator, local: Place) -> None:
    made = dag()
    value, ti = report_on(made, done(made, "boat", "catalog"))
    assert value == {
        "cost_usd": float(taken(server)),
        "untold": 0,
        "images": 11,
        "reused": 0,
        "saved_usd": 0.0,
        "unknown_outcomes": 0,
        "may_have_cost_usd": 0.0,
        "json_uri": f"{local.uri}/shop/monday/report/report.json",
        "csv_uri": f"{local.uri}/shop/monday/report/report.csv",
        "html_uri": f"{local.uri}/shop/monday/report/report.html",
    }
    assert ti.xcoms == {"run_cost_usd": float(taken(server))}, "no cost_usd: the report costs nothing"
    assert Decimal(json.loads(written(local, "json"))["cost_usd"]) == taken(server)


def test_the_report_has_the_plans_of_batches(server: Emulator, local: Place) -> None:
    made = dag()
    report_on(made, done(made, "boat", "catalog"))
    line = "plan: 10 new, 0 changed, 0 stored"
    plans = [instance["sheet"]["plan"] for instance in json.loads(written(local, "json"))["instances"]]
    assert [str(plan).startswith(line) for plan in plans] == [False, True]
    assert f"catalog, {line}" in written(local, "html")


def test_savings_by_reuse_equal_the_cost_of_the_pictures(server: Emulator, local: Place) -> None:
    made = dag()
    for task_id in ("boat", "catalog"):
        operator_of(made, task_id).output_uri = f"{local.uri}/all/{task_id}"
    done(made, "boat", "catalog")
    value, _ = report_on(made, done(made, "boat", "catalog", run_id="tuesday"), run_id="tuesday")
    assert (value["cost_usd"], value["images"], value["reused"]) == (0.0, 0, 11)
    report = json.loads(written(local, "json", "tuesday"))
    assert Decimal(report["saved_usd"]) == taken(server) == 11 * PRICE
    assert [model["reused"] for model in report["models"]] == [11]
    assert "Nothing was paid." in written(local, "html", "tuesday")


def test_task_without_a_sheet_has_not_run(server: Emulator, local: Place) -> None:
    made = dag()
    report_on(made, done(made, "boat"))
    tasks = {task["task_id"]: task["status"] for task in json.loads(written(local, "json"))["tasks"]}
    assert tasks == {"boat": "ended", "catalog": "not run"}
    lines = list(csv.DictReader(io.StringIO(written(local, "csv"))))
    assert [(line["task_id"], line["status"]) for line in lines] == [("boat", "ended"), ("catalog", "not run")]


def test_a_report_may_be_limited_to_named_tasks(server: Emulator, local: Place) -> None:
    made = dag(task_ids="boat")
    value, _ = report_on(made, done(made, "boat", "catalog"))
    assert (value["images"], value["cost_usd"]) == (1, float(PRICE))


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["sheet", "everything"])
def test_costs_of_a_killed_task_are_summed_from_its_records(server: Emulator, local: Place, lost: str) -> None:
    """Its process leaves the sheet pushed at its start, or nothing if it was cleared at that moment."""
    server.settings(latency=0.4)
    fields = {"task_id": "catalog", "requests": rows_of(40), "max_concurrency": 3, **SMALL}
    process = start_module("tests.support.run_operator", json.dumps(fields))
    wait_until(lambda: server.stats()["charged_requests"] >= 5)
    server.settings(hold=True)
    wait_until(lambda: server.stats()["in_flight"] == 3)
    with process:
        process.kill()
    server.settings(hold=False)
    wait_until(lambda: server.stats()["in_flight"] == 0)
    ti = TaskInstance(task_id="catalog")
    begun = CostSheet(ended=False, operation="batch", dag_id="shop", run_id="monday", task_id="catalog")
    ti.sheets = [begun.model_copy(update={"output_uri": f"{local.uri}/shop/monday/catalog"})]
    value, _ = report_on(dag(), [ti] if lost == "sheet" else [])
    records = [name for name in local.names() if name.endswith(".stored.json")]
    report = json.loads(written(local, "json"))
    assert Decimal(report["cost_usd"]) == len(records) * PRICE > 0
    assert 0 < report["unknown_outcomes"] <= 3
    assert Decimal(report["may_have_cost_usd"]) == report["unknown_outcomes"] * PRICE
    assert Decimal(report["cost_usd"]) <= taken(server) <= (len(records) + report["unknown_outcomes"]) * PRICE
    assert value["images"] == len(records)
    assert {task["task_id"]: task["status"] for task in report["tasks"]} == {"boat": "not run", "catalog": "not ended"}


def test_limit_fails_the_task_after_the_report_is_written(server: Emulator, local: Place) -> None:
    made = dag(max_cost_usd="{{ 0.00001 }}")
    with pytest.raises(AirflowFailException) as caught:
        report_on(made, done(made, "boat", "catalog"))
    total = f"{taken(server):f}"
    assert f"This run has cost ${total}, more than max_cost_usd $0.00001. Report: {local.uri}/shop" in str(caught.value)
    assert f"Over the limit: ${total}" in written(local, "html")


def test_limit_that_is_met_exactly_does_not_fail(server: Emulator, local: Place) -> None:
    made = dag(max_cost_usd=f"{11 * PRICE:f}", warn_cost_usd=f"{11 * PRICE:f}")
    value, _ = report_on(made, done(made, "boat", "catalog"))
    assert value["cost_usd"] == float(11 * PRICE)


def test_failed_tasks_fail_the_report_after_it_is_written(server: Emulator, local: Place) -> None:
    made = dag()
    states = {"boat": "success", "catalog_0": "failed", "catalog_1": "upstream_failed"}
    ti = ReportInstance(task_id="report", others=done(made, "boat"), states=states)
    with pytest.raises(TasksFailed) as caught:
        report_on(made, [], ti)
    error = caught.value
    assert AirflowFailException in type(error).__mro__
    assert str(error).startswith("2 image task(s) failed: catalog[0], catalog[1]. This run has cost $")
    assert (error.cost_usd, error.may_have_cost_usd) == (PRICE, Decimal(0))
    assert ti.xcoms == {"run_cost_usd": float(PRICE)}
    assert json.loads(written(local, "json"))["failed"] == ["catalog[0]", "catalog[1]"]
    assert "Failed: catalog[0], catalog[1]" in written(local, "html")
    value, _ = report_on(dag(fail_on_failed_tasks=False), [], ti)
    assert value["cost_usd"] == float(PRICE), "it can be switched off"


@pytest.mark.slow
@pytest.mark.parametrize("fault", [("cut", {}), ("status", {"status": 402}), None], ids=str)
def test_a_failed_task_in_which_a_hook_bought_or_tried_to_fails_the_report(
    server: Emulator, local: Place, fault: tuple[str, dict[str, Any]] | None
) -> None:
    """Whether the purchase failed or something after it. Other tasks may fail: they are not the report's."""
    made = dag()
    for task_id in ("script", "other"):
        made.add_task(EmptyOperator(task_id=task_id))
        made.get_task(task_id) >> made.get_task("report")
    script = TaskInstance(task_id="script")
    if fault:
        server.fault(fault[0], **fault[1])
    with set_current_context(context_of(script)), contextlib.suppress(DeepshiError):
        DeepshiHook().generate(GenerateRequest(model="deepshi-banana-pro", prompt="x", width=64, height=48)).close()
    tried, states = done(made, "boat", "catalog"), {"boat": "success", "script_0": "failed", "other": "failed"}

    ti = ReportInstance(task_id="report", others=[*tried, script], states=states)
    with pytest.raises(TasksFailed, match=r"^1 image task\(s\) failed: script\[0\]\. This run has cost"):
        report_on(made, [], ti)
    assert json.loads(written(local, "json"))["failed"] == ["script[0]"]
    report_on(made, [], ReportInstance(task_id="report", others=[*tried, script], states={"other": "failed"}))
    named = dag(task_ids=["boat"])
    named.add_task(EmptyOperator(task_id="script"))
    report_on(named, [], ReportInstance(task_id="report", others=[*tried, script], states=states))


@pytest.mark.parametrize("asked", [{}, {"task_ids": ["boat", "script"]}], ids=["all tasks", "named tasks"])
def test_a_hooks_purchases_with_another_connection_count(
    server: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_EU", server.connection_json())
    made = dag(**asked)
    made.add_task(EmptyOperator(task_id="script"))
    script = TaskInstance(task_id="script", map_index=None)
    request = GenerateRequest(model="deepshi-banana-pro", prompt="x", width=64, height=48)
    with set_current_context(context_of(script)):
        for conn_id in ("deepshi_default", "deepshi_eu", "deepshi_eu"):
            DeepshiHook(conn_id).generate(request).close()
    value, _ = report_on(made, [*done(made, "boat"), script])
    assert (value["cost_usd"], value["images"]) == (float(taken(server)), 4)
    assert value["cost_usd"] == float(4 * PRICE)


def test_what_a_hook_lost_counts_although_its_next_try_used_another_connection(
    server: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_EU", server.connection_json())
    made = dag()
    made.add_task(EmptyOperator(task_id="script"))
    request = GenerateRequest(model="deepshi-banana-pro", prompt="x", width=64, height=48)
    server.fault("cut", charged=False)
    with set_current_context(context_of(TaskInstance(task_id="script", map_index=None))), pytest.raises(DeepshiError):
        DeepshiHook().generate(request)
    script = TaskInstance(task_id="script", map_index=None, try_number=2)
    with set_current_context(context_of(script)):
        DeepshiHook("deepshi_eu").generate(request).close()
    value, _ = report_on(made, [script])
    assert (value["cost_usd"], value["unknown_outcomes"]) == (float(taken(server)), 1)


def test_an_exceeded_limit_and_a_failed_task_are_reported_together(server: Emulator, local: Place) -> None:
    made = dag(max_cost_usd=0)
    ti = ReportInstance(task_id="report", others=done(made, "boat"), states={"catalog": "failed"})
    with pytest.raises(BudgetExceeded, match=r"more than max_cost_usd .* failed: catalog"):
        report_on(made, [], ti)


def test_sums_with_costs_that_were_not_reported_are_lower_bounds(
    server: Emulator, local: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    made = dag()
    (boat,) = done(made, "boat")
    server.settings(cost_form="absent")
    value, _ = report_on(made, [boat, *done(made, "catalog")])
    bounds = f"at least ${PRICE:f}, up to about ${11 * PRICE:f}"
    assert (value["cost_usd"], value["untold"], value["may_have_cost_usd"]) == (float(PRICE), 10, float(10 * PRICE))
    assert f"This run has cost {bounds} (10 unreported costs) for 11 images" in capsys.readouterr().out
    page = written(local, "html")
    assert f"This run has cost {bounds} (10 unreported costs)." in page
    assert f"<td>{bounds}</td>" in page, "of the model"
    assert f"<td>at least $0.00, up to about ${(10 * PRICE).normalize():f}</td>" in page, "of the task"
    report = json.loads(written(local, "json"))
    assert [(task["cost_usd"], task["untold"]) for task in report["tasks"]] == [(f"{PRICE:f}", 0), (None, 10)]
    lines = list(csv.DictReader(io.StringIO(written(local, "csv"))))
    assert [(line["cost_usd"], line["untold"]) for line in lines] == [(f"{PRICE:f}", "0"), ("", "10")]
    assert Decimal(report["cost_usd"]) + Decimal(report["may_have_cost_usd"]) == taken(server)


def test_external_values_are_escaped(server: Emulator, local: Place) -> None:
    made = dag()
    evil = "<script>alert('x')</script>\"&"
    operator_of(made, "catalog").requests = [{"key": evil, "prompt": evil}]
    (ti,) = done(made, "catalog")
    entry = ti.sheets[-1].models[0].model_copy(update={"model": evil})
    ti.sheets.append(ti.sheets[-1].model_copy(update={"models": [entry]}))
    report_on(made, [ti])
    page = written(local, "html")
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&#34;&amp;" in page
    assert [image.key for image in ti.sheets[-1].images] == [evil]


def test_missing_pictures_are_left_out(server: Emulator, local: Place) -> None:
    made = dag()
    instances = done(made, "boat", "catalog")
    (boat,) = [name for name in local.names() if name.endswith("/boat/image-0.png")]
    local.delete(boat)
    local.write(next(name for name in local.names() if name.endswith("row-0-0.png")), b"\x89PNG\r\n\x1a\nno picture")
    report_on(made, instances)
    assert written(local, "html").count("data:image/webp;base64,") == 8 - 1


def test_report_without_any_task_is_a_report(server: Emulator, local: Place) -> None:
    with DAG("shop", schedule=None) as made:
        DeepshiCostReportOperator(task_id="report", max_cost_usd=0)
    value, ti = report_on(made, [])
    assert (value["cost_usd"], value["images"], ti.xcoms["run_cost_usd"]) == (0.0, 0, 0.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task_ids": ["boat", "ship"]}, "task_ids: this DAG has no task ship"),
        ({"max_cost_usd": "much"}, "max_cost_usd: an amount in USD is needed, got 'much'"),
        ({"warn_cost_usd": "-1"}, "warn_cost_usd: an amount in USD is needed"),
        ({"deepshi_conn_id": "nowhere"}, "The connection 'nowhere' is not defined"),
        ({"output_uri": "s3://bucket/x", "output_conn_id": "nowhere"}, "The connection 'nowhere' of the object store"),
    ],
)
def test_invalid_arguments_are_reported_and_not_retried(
    server: Emulator, local: Place, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(AirflowFailException, match=message):
        report_on(dag(**fields), [])


def test_report_without_a_directory_is_an_error(emulator: Emulator) -> None:
    with pytest.raises(AirflowFailException, match="No output directory for the report"):
        report_on(dag(), [])


def test_unreadable_records_do_not_count_as_nothing(server: Emulator, local: Place) -> None:
    made = dag()
    (ti,) = done(made, "boat")
    ti.sheets[-1] = ti.sheets[0]
    assert not ti.sheets[0].ended
    (record,) = [name for name in local.names() if name.endswith(".stored.json")]
    local.write(record, b"{")
    with pytest.raises(StorageFailed, match="cannot be read; restore or delete it"):
        report_on(made, [ti])


def test_pages_work_from_any_place(server: Emulator, tmp_path: Path) -> None:
    elsewhere = LocalPlace(tmp_path / "reports")
    made = dag(output_uri=f"{elsewhere.uri}/{{{{ run_id }}}}")
    report_on(made, done(made, "boat"))
    assert elsewhere.names() == ["monday/report.csv", "monday/report.html", "monday/report.json"]


def test_the_page_links_to_airflow_and_shows_the_budgets(
    server: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/below/")
    connection = server.connection_json(output_uri=local.uri, max_cost_usd_per_day=f"{100 * PRICE:f}")
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", connection)
    made = dag()
    report_on(made, done(made, "boat", "catalog"))
    page = written(local, "html")
    run = "https://airflow.example/below/dags/shop/runs/monday"
    for address in (run, f"{run}/tasks/boat", f"{run}/tasks/catalog"):
        assert f'<a href="{address}">' in page
    assert "of max_cost_usd_per_day" in page
    assert 'width="11.0"' in page


def test_without_an_address_of_airflow_the_page_has_no_links(server: Emulator, local: Place) -> None:
    made = dag()
    report_on(made, done(made, "boat"))
    assert "<a " not in written(local, "html")


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "$0.00"),
        ("0.000540000001", "$0.00054"),
        ("0.00123456", "$0.001235"),
        ("12.3456", "$12.35"),
        ("1234.5", "$1,234.50"),
    ],
)
def test_money_is_rounded_as_on_the_page_of_costs(amount: str, shown: str) -> None:
    assert rounded(Decimal(amount)) == shown
