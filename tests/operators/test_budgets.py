"""Budgets per day and month, compared with the server's ledger, and notifications about them."""

from __future__ import annotations

import asyncio
import email
import email.policy
import importlib
import json
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowTaskTimeout, TaskDeferred
from airflow.providers.http.operators.http import HttpOperator
from airflow.sdk import DAG, BaseNotifier, BaseOperator
from airflow.sdk.execution_time.context import set_current_context
from airflow.sdk.execution_time.timeout import TimeoutPosix

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.costs.budget_state import WindowState
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import BudgetExceeded, DeepshiError, StorageFailed
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.jobs import run_job, window_states
from deepshi_provider.jobs.job import Job
from deepshi_provider.jobs.outcome import ImageOutcome
from deepshi_provider.triggers.images import DeepshiImagesTrigger
from tests.services.forks import last_line_of, start_module
from tests.services.mail import MailServer
from tests.support.answering import Answer, answering
from tests.support.batches import BANANA, batch, deferred, ended, rows_of
from tests.support.counts import posts, taken
from tests.support.jobs import make_job
from tests.support.places import Place
from tests.support.tasks import TaskInstance, context_of, execute, generate
from tests.support.waiting import until, wait_until

PRICE = Decimal("0.039")

Connect = Callable[..., None]

#: The code of the docs page on budgets.
example = importlib.import_module("docs.examples.budgets")


@pytest.fixture
def connect(emulator: Emulator, place: Place, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Sets up the connection with budgets and ``place`` as its ``output_uri``."""

    def connect(**extra: Any) -> None:
        store = {"output_conn_id": place.conn_id} if place.conn_id else {}
        connection = emulator.connection_json(output_uri=place.uri, budget_time_zone=noon(), **store, **extra)
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", connection)

    return connect


def noon() -> str:
    """A time zone in which it is about noon, so that no test crosses midnight."""
    hours = datetime.now(timezone.utc).hour - 12
    return f"Etc/GMT{hours:+d}" if hours else "UTC"  # these names have inverted signs


def job(place: Place, task: str, **more: Any) -> Job:
    """A picture of $0.039 in the task's own directory."""
    fields = {"prompt": task, "model": "nano-banana-2", "resolution": "1K", "width": None, "height": None}
    where = {"output_uri": f"{place.uri}/{task}", "runs_uri": place.uri, "runs_conn_id": place.conn_id}
    owner = {"task_id": task, **more.pop("owner", {})}
    return make_job(place, fields=fields, owner=owner, **{**where, **more})


async def states(group: str | None = None) -> list[WindowState]:
    return await window_states(DeepshiHook(), group)


def picture(place: Place, task_id: str, **fields: Any) -> Any:
    where = {"output_uri": f"{place.uri}/{task_id}", "output_conn_id": place.conn_id}
    return generate(task_id=task_id, preflight="off", **BANANA, **where, **fields)


def test_a_spent_daily_budget_stops_all_tasks_and_the_error_names_its_end(
    emulator: Emulator, place: Place, connect: Connect
) -> None:
    connect(max_cost_usd_per_day="0.08")
    for task in ("a", "b"):
        execute(picture(place, task), TaskInstance(task_id=task, run_id=f"run of {task}"))
    with pytest.raises(AirflowFailException, match=r"\$0.078 of max_cost_usd_per_day \$0.08 are spent on 20") as raised:
        execute(picture(place, "c"), TaskInstance(task_id="c"))
    (state,) = asyncio.run(states())
    assert f"starts again at {state.resets_at}" in str(raised.value)
    assert (state.spent_usd, state.left_usd) == (2 * PRICE, Decimal("0.002"))
    assert posts(emulator) == 2
    again = TaskInstance(task_id="a", run_id="run of a", try_number=2)
    assert execute(picture(place, "a"), again)["reused"], "what is stored is never refused"
    assert asyncio.run(states()) == [state], "and counts once"


def test_a_batch_and_its_plan_respect_the_daily_budget(emulator: Emulator, place: Place, connect: Connect) -> None:
    connect(max_cost_usd_per_day="0.2", max_cost_usd_per_month="5")
    catalog = {"output_uri": f"{place.uri}/catalog"}
    ti, err = ended(batch(place, rows_of(10), **BANANA, **catalog))
    assert "$0.195 of max_cost_usd_per_day $0.2 are spent on" in str(err)
    assert (taken(emulator), posts(emulator)) == (Decimal("0.195"), 5)
    ti, err = ended(batch(place, rows_of(10), **BANANA, **catalog), run_id="tuesday")
    assert "the batch costs at least $0.195, and $0.005 of max_cost_usd_per_day $0.2 are left" in str(err)
    assert [(b.name, b.spent_usd) for b in ti.plans[0].budgets] == [
        ("max_cost_usd_per_day", Decimal("0.195")),
        ("max_cost_usd_per_month", Decimal("0.195")),
    ]
    assert posts(emulator) == 5


def test_a_budget_group_is_a_template_and_has_its_own_limits(
    emulator: Emulator, place: Place, connect: Connect
) -> None:
    connect(budget_groups={"team-a": {"max_cost_usd_per_day": "0.05"}})
    ti = TaskInstance(task_id="a")
    execute(picture(place, "a", budget_group="team-{{ params.team }}"), ti, {"team": "a"})
    assert {(sheet.deepshi_conn_id, sheet.budget_group) for sheet in ti.sheets} == {("deepshi_default", "team-a")}
    with pytest.raises(AirflowFailException, match="max_cost_usd_per_day of budget group 'team-a'"):
        execute(picture(place, "b", budget_group="team-{{ params.team }}"), TaskInstance(task_id="b"), {"team": "a"})
    execute(picture(place, "c", budget_group="team-{{ params.team }}"), TaskInstance(task_id="c"), {"team": "b"})
    execute(picture(place, "d", budget_group=""), TaskInstance(task_id="d"))
    assert posts(emulator) == 3


def test_purchases_of_a_hook_in_a_task_count(emulator: Emulator, place: Place, connect: Connect) -> None:
    connect(max_cost_usd_per_day="1")
    request = GenerateRequest(model="deepshi-banana-pro", prompt="a boat", width=64, height=48)
    with set_current_context(context_of(TaskInstance(task_id="script"))):
        for _ in range(2):
            DeepshiHook().generate(request).close()
    (state,) = asyncio.run(states())
    assert state.spent_usd == taken(emulator) > 0


def test_a_spent_budget_stops_hooks_in_tasks_too(emulator: Emulator, place: Place, connect: Connect) -> None:
    connect(max_cost_usd_per_day="0.05")
    execute(picture(place, "a"), TaskInstance(task_id="a"))
    request = GenerateRequest(model="nano-banana-2", prompt="a boat", resolution="1K", stream=True)
    cheap = GenerateRequest(model="deepshi-banana-pro", prompt="a boat", width=64, height=48)
    ti = TaskInstance(task_id="script")
    with set_current_context(context_of(ti)):
        with pytest.raises(BudgetExceeded, match=r"\$0.039 of max_cost_usd_per_day \$0.05 are spent on") as raised:
            DeepshiHook().generate(request)
        DeepshiHook().generate(cheap).close()
    assert (raised.value.charged, posts(emulator)) == ("no", 2)
    assert asyncio.run(states())[0].spent_usd == taken(emulator)
    DeepshiHook().generate(request).close()
    assert posts(emulator) == 3, "outside a task, nothing is counted or refused"


def test_a_hook_sends_nothing_if_the_budget_cannot_be_read(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"output_uri": local.uri, "max_cost_usd_per_month": "1"}
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(**extra))
    folder = Path(local.uri.removeprefix("file://"))
    folder.mkdir()
    (folder / "_deepshi_spending").write_text("not a directory")
    request = GenerateRequest(model="deepshi-banana-pro", prompt="a boat", width=64, height=48)
    with set_current_context(context_of(TaskInstance(task_id="script"))), pytest.raises(StorageFailed):
        DeepshiHook().generate(request)
    assert posts(emulator) == 0


@pytest.mark.slow
async def test_the_warning_comes_once_with_16_tasks_crossing_together(
    emulator: Emulator, place: Place, connect: Connect
) -> None:
    connect(max_cost_usd_per_day="0.7", max_cost_usd_per_month="0.78")
    await run_job(job(place, "first"))
    emulator.settings(latency=1)
    outcomes = await asyncio.gather(*(run_job(job(place, f"t{number}")) for number in range(16)))
    assert emulator.stats()["peak_in_flight"] > 1
    assert {outcome.status for outcome in outcomes} == {"success"}
    warnings = [warning.name for outcome in outcomes for warning in outcome.budget_warnings]
    assert sorted(warnings) == ["max_cost_usd_per_day", "max_cost_usd_per_month"]
    emulator.settings(latency=0)
    again: list[ImageOutcome] = [await run_job(job(place, name)) for name in ("late", "t1", "later")]
    assert [outcome.budget_warnings for outcome in again] == [[], [], []]


@pytest.mark.parametrize("way", ["blocking", "deferred"])
def test_on_budget_warning_is_called_on_the_worker(
    emulator: Emulator, place: Place, connect: Connect, way: str
) -> None:
    connect(max_cost_usd_per_day="0.2", warn_at="0.5")
    seen: list[Any] = []

    def broken(context: Any) -> None:
        raise RuntimeError("the mail server is down")

    fields = {"on_budget_warning": [broken, seen.append], "start_over_budget": True, "deferrable": way == "deferred"}
    operator = batch(place, rows_of(10), **BANANA, output_uri=f"{place.uri}/catalog", **fields)
    if way == "deferred":
        ti, _ = deferred(operator)
    else:
        ti, err = ended(operator)
        assert "max_cost_usd_per_day" in str(err), "it is called although the task fails"
    (context,) = seen
    state = context["deepshi_budget"]
    assert context["ti"] is ti
    assert (state.name, state.limit_usd, state.spent_usd >= Decimal("0.1")) == (
        "max_cost_usd_per_day",
        Decimal("0.2"),
        True,
    )
    assert f"of max_cost_usd_per_day $0.2 are spent in {state.window}; it starts again at" in state.text


class AsyncNotifier(BaseNotifier):
    """A notifier that Airflow would run in the triggerer."""

    template_fields = ("text",)

    def __init__(self, seen: list[Any]) -> None:
        super().__init__()
        self.text = "{{ deepshi_budget.name }}"
        self.seen = seen

    async def async_notify(self, context: Any) -> None:
        await asyncio.sleep(0)
        self.seen.append(self.text)


def test_callbacks_may_be_asynchronous_and_any_collection(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"output_uri": local.uri, "max_cost_usd_per_day": "0.04", "budget_time_zone": noon()}
    seen: list[Any] = []

    async def awaited(context: Any) -> None:
        await asyncio.sleep(0)
        seen.append(context["deepshi_budget"].name)

    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(**extra))
    callbacks: Any = {awaited: 1, AsyncNotifier(seen): 2}.keys()
    execute(picture(local, "boat", on_budget_warning=callbacks), TaskInstance(task_id="boat"))
    assert seen == ["max_cost_usd_per_day"] * 2


def stopped_after_the_warning(
    operator: BaseOperator, emulator: Emulator, place: Place, stop: Callable[[BaseOperator], None]
) -> TaskInstance:
    """Run one try, and stop it when a warning has been stored and the second request waits; it must fail."""
    ti = TaskInstance(task_id=operator.task_id)
    copy = operator.prepare_for_execution()
    copy.render_template_fields(context_of(ti))

    def watch() -> None:
        wait_until(lambda: posts(emulator) == 2 and any("/warned/" in name for name in place.names()))
        stop(copy)

    thread = threading.Thread(target=watch)
    thread.start()
    timeout = TimeoutPosix(1000, "over")  # type: ignore[no-untyped-call] # Airflow does not annotate it
    with timeout, pytest.raises((AirflowTaskTimeout, AirflowException), match=r"over|was killed"):
        copy.execute(context_of(ti))
    thread.join()
    return ti


def ring(_: BaseOperator) -> None:
    """Send the signal of ``execution_timeout``."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)


@pytest.mark.parametrize("stop", [ring, lambda operator: operator.on_kill()], ids=["execution_timeout", "on_kill"])
def test_an_interrupted_task_calls_its_callbacks_once(
    emulator: Emulator, place: Place, connect: Connect, stop: Callable[[BaseOperator], None]
) -> None:
    connect(max_cost_usd_per_day="0.2", warn_at="0.1")
    emulator.fault("silence", prompt="a boat with the number 1", times=1, charged=False)
    seen: list[Any] = []
    fields: dict[str, Any] = {"on_budget_warning": seen.append, "max_concurrency": 1, "output_uri": f"{place.uri}/c"}
    operator = batch(place, rows_of(2), **BANANA, **fields)

    ti = stopped_after_the_warning(operator, emulator, place, stop)

    assert [context["ti"] is ti for context in seen] == [True]
    assert [context["deepshi_budget"].spent_usd for context in seen] == [PRICE]
    assert ti.xcoms["cost_usd"] == float(PRICE), "what was paid for is reported too"
    execute(operator, TaskInstance(task_id="catalog", try_number=2))
    assert len(seen) == 1


@pytest.mark.parametrize("kind", ["single", "batch"])
def test_what_a_lost_triggerer_noticed_is_called_by_the_worker(
    emulator: Emulator, place: Place, connect: Connect, kind: str
) -> None:
    """The first triggerer has bought everything when it dies, so the next one has no purchase that could warn."""
    connect(max_cost_usd_per_day="10", max_cost_usd_per_month="20", warn_at="0.001")
    seen: list[Any] = []
    fields: dict[str, Any] = {"on_budget_warning": seen.append, "deferrable": True}
    operator = picture(place, "boat", **fields)
    if kind == "batch":
        operator = batch(place, rows_of(2), **BANANA, **fields, output_uri=f"{place.uri}/catalog")
    ti = TaskInstance(task_id=operator.task_id)
    copy = operator.prepare_for_execution()
    copy.render_template_fields(context_of(ti))
    with pytest.raises(TaskDeferred) as raised:
        copy.execute(context_of(ti))
    _, arguments = raised.value.trigger.serialize()

    async def triggerer() -> dict[str, Any]:
        payload: dict[str, Any] = (await anext(aiter(DeepshiImagesTrigger(**arguments).run()))).payload
        return payload

    asyncio.run(triggerer())
    sent = posts(emulator)
    payload = asyncio.run(triggerer())
    operator.prepare_for_execution().execute_complete(context_of(ti), payload)

    crossed = ["max_cost_usd_per_day", "max_cost_usd_per_month"]
    assert sorted(context["deepshi_budget"].name for context in seen) == crossed
    execute(picture(place, "other", on_budget_warning=seen.append), TaskInstance(task_id="other"))
    assert posts(emulator) == sent + 1
    assert sorted(context["deepshi_budget"].name for context in seen) == crossed


def test_the_next_try_calls_what_a_killed_try_noticed(emulator: Emulator, place: Place, connect: Connect) -> None:
    """Even if it buys nothing, or fails before it starts."""
    connect(max_cost_usd_per_day="0.04")
    asyncio.run(run_job(job(place, "boat")))  # and then its process was killed
    seen: list[Any] = []
    with pytest.raises(AirflowFailException):
        execute(picture(place, "other", on_budget_warning=seen.append), TaskInstance(task_id="other"))
    assert seen == [], "another task does not call"

    wrong = picture(place, "boat", on_budget_warning=seen.append, extra_params={"width": "wide"})
    with pytest.raises(AirflowFailException, match="width"):
        execute(wrong, TaskInstance(task_id="boat", try_number=2))
    assert len(seen) == 1
    same = picture(place, "boat", prompt="boat", stream=None, on_budget_warning=seen.append)
    again = execute(same, TaskInstance(task_id="boat", try_number=3))
    assert (again["reused"], len(seen), posts(emulator)) == (True, 1, 1)


def test_callbacks_are_called_though_the_store_fails_meanwhile(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"output_uri": f"{local.uri}/runs", "max_cost_usd_per_day": "0.04"}
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(**extra))
    seen: list[Any] = []
    operator = picture(local, "boat", on_budget_warning=seen.append, deferrable=True).prepare_for_execution()
    ti = TaskInstance(task_id="boat")
    outcome = asyncio.run(run_job(job(local, "boat", runs_uri=f"{local.uri}/runs")))
    assert len(outcome.budget_warnings) == 1
    folder = Path(local.uri.removeprefix("file://")) / "runs/_deepshi_spending"
    folder.rename(folder.with_name("lost"))
    folder.write_text("not a directory")

    operator.render_template_fields(context_of(ti))
    operator.finish(context_of(ti), outcome)

    assert [context["deepshi_budget"].spent_usd for context in seen] == [PRICE]


@pytest.fixture
def mail(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    with MailServer() as server:
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", server.connection_json())
        yield server


def letter(mail: MailServer) -> tuple[str, str]:
    """Return subject and text of the only mail."""
    (message,) = mail.messages
    read = email.message_from_string(message, policy=email.policy.default)
    part = read.get_body(("html", "plain"))
    assert part is not None
    return str(read["subject"]), part.get_content()


def test_a_failure_is_mailed_with_cost_budget_and_links(
    emulator: Emulator, local: Place, mail: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"output_uri": local.uri, "max_cost_usd_per_day": "1.00"}
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(**extra))
    execute(picture(local, "known"), TaskInstance(task_id="known"))
    emulator.fault("cut", charged=True)
    operator = picture(local, "boat").prepare_for_execution()
    ti = TaskInstance(task_id="boat", try_number=1)
    context = context_of(ti, task=operator)
    operator.render_template_fields(context)
    with pytest.raises(DeepshiError):
        operator.execute(context)
    example.WithCosts(example.mail)(context)
    subject, text = letter(mail)
    assert subject == "boat has cost at least $0, up to about $0.039 (1 unknown outcome)"
    assert "shop.boat, run monday, try 1, has cost at least $0, up to about $0.039 (1 unknown outcome)" in text
    assert "$0.922 of max_cost_usd_per_day $1.00 left until" in text
    assert f"directory: {local.uri}/boat" in text
    costs = example.task_costs(context)
    assert (costs.cost_usd, costs.may_have_cost_usd, costs.unknown_outcomes) == (Decimal(0), PRICE, 1)


def test_a_warning_is_mailed_by_a_notifier_as_it_is(
    emulator: Emulator, local: Place, mail: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"output_uri": local.uri, "max_cost_usd_per_day": "0.04"}
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(**extra))
    operator = picture(local, "boat", on_budget_warning=example.warning).prepare_for_execution()
    context = context_of(TaskInstance(task_id="boat"), task=operator)
    operator.render_template_fields(context)
    operator.execute(context)
    subject, text = letter(mail)
    assert subject == "A budget is nearly spent"
    assert text.strip().startswith("$0.039 of max_cost_usd_per_day $0.04 are spent in 20")


def test_a_success_is_posted_to_slack(emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    posted: list[bytes] = []

    def ok(_: int, request: bytes) -> Answer:
        posted.append(request)
        return Answer(body=b"ok")

    with answering(ok) as slack:
        connection = json.dumps({"conn_type": "http", "password": f"{slack.base_url}/services/T0/B0"})
        monkeypatch.setenv("AIRFLOW_CONN_SLACK_WEBHOOK", connection)
        operator = picture(local, "boat").prepare_for_execution()
        context = context_of(TaskInstance(task_id="boat"), task=operator)
        operator.render_template_fields(context)
        operator.execute(context)
        example.tell_slack(context)
    (request,) = posted
    assert request.startswith(b"POST /services/T0/B0 ")
    text = json.loads(request.partition(b"\r\n\r\n")[2])["text"]
    assert text.splitlines()[0] == "shop.boat, run monday, try 1, has cost $0.039"
    assert f"image: {local.uri}/boat/image-0.png" in text


def test_a_callback_without_a_sheet_gets_the_known_values(emulator: Emulator, local: Place) -> None:
    class Lost(TaskInstance):
        def xcom_pull(self, **_: Any) -> Any:
            raise ConnectionError("no API server")

    costs = example.task_costs(context_of(Lost(task_id="boat")))
    assert (costs.cost_usd, costs.budgets, costs.links, costs.in_words) == (None, (), {}, "an unknown amount")


class Broken(BaseOperator):
    """An operator whose properties raise, as do those of operators whose connection is not defined."""

    @property
    def hook(self) -> Any:
        raise LookupError("no such connection")

    @property
    def lineage(self) -> Any:
        raise ValueError("not before the task has ended")


class Foreign(BaseOperator):
    """An operator whose attributes have other types than those of image tasks."""

    hook = object()
    lineage = object()


@pytest.mark.parametrize(
    "operator",
    [HttpOperator(task_id="boat", endpoint="x"), Broken(task_id="boat"), Foreign(task_id="boat")],
    ids=["http", "broken", "foreign"],
)
def test_callbacks_of_other_operators_are_called_too(operator: BaseOperator, caplog: pytest.LogCaptureFixture) -> None:
    """``WithCosts`` in ``default_args`` is a callback of all operators."""

    class Silent(TaskInstance):
        def xcom_pull(self, **_: Any) -> None:
            return None

    context = context_of(Silent(task_id="boat"), task=operator)
    seen: list[Any] = []
    example.WithCosts(seen.append)(context)
    (costs,) = [context["deepshi"] for context in seen]
    assert costs.text == "shop.boat, run monday, try 1, has cost an unknown amount"
    assert (costs.cost_usd, costs.budgets) == (None, ())
    assert "A callback failed" not in caplog.text


def test_a_callback_of_a_dag_may_get_no_task(emulator: Emulator) -> None:
    """As from Airflow, if the run has no task instance."""
    seen: list[Any] = []
    with DAG("shop", schedule=None) as dag:
        example.WithCosts(seen.append)({"dag": dag, "run_id": "monday", "reason": "timed_out"})
    assert [context["deepshi"].text for context in seen] == ["shop, run monday, has cost an unknown amount"]


@pytest.mark.slow
def test_four_concurrent_workers_respect_the_daily_budget(emulator: Emulator, place: Place, connect: Connect) -> None:
    connect(max_cost_usd_per_day="0.50")
    emulator.settings(latency=0.3)
    rows: dict[str, Any] = {"requests": rows_of(15), "start_over_budget": True}
    common: dict[str, Any] = {**rows, "preflight": "off", **BANANA, "max_concurrency": 1}
    workers = []
    for number in range(4):
        where = {"task_id": f"worker{number}", "output_uri": f"{place.uri}/{number}", "output_conn_id": place.conn_id}
        workers.append(start_module("tests.support.run_operator", json.dumps({**common, **where})))
    results = [json.loads(last_line_of(worker)) for worker in workers]
    errors = [str(result["error"]) for result in results]
    assert all("max_cost_usd_per_day" in error for error in errors), errors
    in_flight = emulator.stats()["peak_in_flight"]
    assert Decimal("0.50") - 4 * PRICE <= taken(emulator) <= Decimal("0.50") + in_flight * PRICE
    (state,) = asyncio.run(states())
    assert (state.spent_usd, state.may_have_cost_usd) == (taken(emulator), Decimal(0))


@pytest.mark.slow
async def test_killed_workers_lose_nothing_of_the_sum(emulator: Emulator, place: Place, connect: Connect) -> None:
    connect(max_cost_usd_per_day="0.16")
    await run_job(job(place, "known"))
    emulator.settings(latency=300)
    for task in ("a", "b"):
        with start_module("tests.support.run_job", job(place, task).model_dump_json()) as worker:
            await until("a request", lambda: emulator.stats()["in_flight"] == 1)
            worker.kill()
            await until("its end", lambda: emulator.stats()["in_flight"] == 0)
    emulator.settings(latency=0)
    (state,) = await states()
    assert (state.spent_usd, state.may_have_cost_usd) == (PRICE, 2 * PRICE)
    assert (await run_job(job(place, "c"))).status == "success"
    refused = await run_job(job(place, "d"))
    assert refused.error is not None
    assert refused.error["message"].startswith("Not sent: $0.078 and perhaps $0.078 more of max_cost_usd_per_day")
    assert taken(emulator) <= state.limit_usd
    connect(max_cost_usd_per_day="1")
    await run_job(job(place, "a", owner={"try_number": 2}))
    (state,) = await states()
    assert (state.spent_usd, state.may_have_cost_usd) == (3 * PRICE, 2 * PRICE), "the claim still counts"
