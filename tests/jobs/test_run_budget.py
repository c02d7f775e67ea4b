"""The limit on what the tasks of a DAG run may spend together, and how they share their spending."""

from __future__ import annotations

import asyncio
import json
import socket
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from deepshi_provider.costs.price_class import PriceRange
from deepshi_provider.costs.tally import Tally
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.directories import STORES
from deepshi_provider.hooks.jobs import run_job as run
from deepshi_provider.jobs.job import Job
from deepshi_provider.journal.account import Account
from deepshi_provider.journal.entries import Owner
from deepshi_provider.journal.lease import Times
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.run_costs import RunCosts, RunEntry, read_entries
from deepshi_provider.store.store import in_time
from tests.services.forks import last_line_of, start_module
from tests.support.batches import BANANA, batch, ended, lines_of, rows_of
from tests.support.counts import error, posts, taken
from tests.support.jobs import make_job
from tests.support.places import LocalPlace, Place
from tests.support.tasks import TaskInstance, execute, generate
from tests.support.waiting import until

#: Price of a picture in USD.
PRICE = Decimal("0.039")
RUN_KEY = Owner(dag_id="shop", run_id="monday", task_id="").run_key


def job(place: Place, task: str, **more: Any) -> Job:
    """A picture of $0.039 in the task's own directory."""
    fields = {"prompt": task, "model": "nano-banana-2", "resolution": "1K", "width": None, "height": None}
    where: dict[str, Any] = {"output_uri": f"{place.uri}/{task}", "runs_uri": place.uri, "runs_conn_id": place.conn_id}
    owner = {"task_id": task, **more.pop("owner", {})}
    return make_job(place, fields=fields, owner=owner, **where, **more)


def entries(place: Place) -> list[str]:
    """Return the sums in the names of the run's entries."""
    names = [name.rpartition("/")[2] for name in place.names() if name.startswith(f"_deepshi_runs/{RUN_KEY}/")]
    return sorted(name.partition(".")[2].removesuffix(".json") for name in names)


async def test_a_cancel_that_arrives_as_a_report_ends_is_not_lost() -> None:
    """Before Python 3.12, ``asyncio.wait_for`` drops it, and the request would be sent."""
    went_on = False

    async def report() -> None:
        asyncio.get_running_loop().call_soon(task.cancel)

    async def reported_and_sent() -> None:
        nonlocal went_on
        await in_time(report(), 60)
        await asyncio.sleep(0.01)
        went_on = True

    task = asyncio.create_task(reported_and_sent())
    await asyncio.wait([task])
    assert (task.cancelled(), went_on) == (True, False)


async def test_each_task_leaves_one_entry_with_its_sum_in_the_name(emulator: Emulator, place: Place) -> None:
    for task in ("a", "b"):
        await run(job(place, task))
    assert entries(place) == ["0.039", "0.039"]
    found = await read_entries(STORES.at(place.uri, place.conn_id), RUN_KEY)
    assert {(e.owner.task_id, e.cost_usd, e.output_uri) for e in found} == {
        (task, PRICE, f"{place.uri}/{task}") for task in ("a", "b")
    }


async def test_task_over_the_limit_of_its_run_sends_nothing(emulator: Emulator, place: Place) -> None:
    for task in ("a", "b"):
        assert (await run(job(place, task, max_run_cost_usd="0.08"))).status == "success"
    refused = await run(job(place, "c", max_run_cost_usd="0.08"))
    failure = error(refused)
    assert (failure["type"], failure["charged"], refused.retry, refused.sends) == ("BudgetExceeded", "no", False, 0)
    assert "$0.078 of max_run_cost_usd $0.08 are spent by this DAG run, $0 of them by this task" in failure["message"]
    assert "and the next picture costs $0.039. Raise max_run_cost_usd" in failure["message"]
    assert (posts(emulator), taken(emulator)) == (2, 2 * PRICE)
    assert (await run(job(place, "c", max_run_cost_usd="0.117"))).status == "success", "met exactly"


async def test_another_run_has_its_own_limit(emulator: Emulator, local: Place) -> None:
    await run(job(local, "a", max_run_cost_usd="0.039"))
    other = await run(job(local, "b", max_run_cost_usd="0.039", owner={"run_id": "tuesday"}))
    assert (other.status, posts(emulator)) == ("success", 2)


async def test_reused_images_are_never_refused(emulator: Emulator, local: Place) -> None:
    await run(job(local, "a"))
    again = await run(job(local, "a", max_run_cost_usd="0", owner={"try_number": 2}))
    assert (again.status, again.reused, posts(emulator)) == ("success", True, 1)


async def test_store_that_cannot_be_listed_does_not_count_as_nothing_spent(emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "_deepshi_runs").write_text("no directory")
    place = LocalPlace(tmp_path)
    refused = await run(job(place, "a", max_run_cost_usd="1"))
    assert (error(refused)["type"], refused.retry, posts(emulator)) == ("StorageFailed", True, 0)
    assert "the spending of this DAG run could not be read" in error(refused)["message"]
    assert (await run(job(place, "a"))).status == "success", "without a limit, telling the run fails no task"


async def test_next_try_corrects_the_entry_of_a_killed_process(emulator: Emulator, local: Place) -> None:
    await run(job(local, "a"))
    (name,) = [name for name in local.names() if name.startswith("_deepshi_runs/")]
    local.write(name.replace(".0.039.", ".0."), local.read(name))
    local.delete(name)
    await run(job(local, "a", owner={"try_number": 2}))
    assert entries(local) == ["0", "0.039"], "the greatest counts"
    refused = await run(job(local, "b", max_run_cost_usd="0.039"))
    assert error(refused)["type"] == "BudgetExceeded"


async def test_failed_tries_count(emulator: Emulator, local: Place) -> None:
    emulator.fault("not_an_image")
    assert (await run(job(local, "a"))).status == "failed"
    assert entries(local) == ["0.039"]
    refused = await run(job(local, "a", max_run_cost_usd="0.039", owner={"try_number": 2}))
    assert (error(refused)["type"], posts(emulator)) == ("BudgetExceeded", 1)


@pytest.mark.slow
async def test_two_processes_at_once_overshoot_by_what_is_in_flight(emulator: Emulator, place: Place) -> None:
    """Both check the limit before either has paid; later tasks are refused."""
    emulator.settings(latency=3)
    jobs = [job(place, task, max_run_cost_usd="0.039").model_dump_json() for task in ("a", "b")]
    with (
        start_module("tests.support.run_job", jobs[0]) as first,
        start_module("tests.support.run_job", jobs[1]) as second,
    ):
        await until("an end", lambda: first.poll() is not None and second.poll() is not None, timeout=300)
    in_flight = emulator.stats()["peak_in_flight"]
    assert taken(emulator) <= Decimal("0.039") + (in_flight - 1) * PRICE
    assert error(await run(job(place, "c", max_run_cost_usd="0.039")))["type"] == "BudgetExceeded"
    assert posts(emulator) <= 2


@pytest.mark.slow
def test_parallel_batches_overshoot_by_what_is_in_flight(
    emulator: Emulator, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = emulator.connection_json(
        output_uri=place.uri, **({"output_conn_id": "s3_test"} if place.conn_id else {})
    )
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", connection)
    emulator.settings(latency=0.3)
    common: dict[str, Any] = {"requests": rows_of(30), "preflight": "off", **BANANA, "max_concurrency": 3}
    processes = []
    for task in ("one", "two"):
        where = {"task_id": task, "output_uri": f"{place.uri}/{task}", "output_conn_id": place.conn_id}
        arguments = json.dumps({**common, **where, "max_run_cost_usd": "0.5", "start_over_budget": True})
        processes.append(start_module("tests.support.run_operator", arguments))
    results = [json.loads(last_line_of(process)) for process in processes]
    assert all("max_run_cost_usd" in result["error"] for result in results)
    costs = [Decimal(result["xcoms"]["deepshi_cost"]["cost_usd"]) for result in results]
    assert sum(costs) == taken(emulator)
    # 12 fit into the limit; each batch may have up to 3 in flight that the other does not know of yet.
    assert Decimal("0.468") - 3 * PRICE <= taken(emulator) <= Decimal("0.5") + 3 * PRICE
    assert sorted(map(Decimal, entries(place))) == sorted(costs)


def test_a_batch_counts_what_other_tasks_have_spent(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(output_uri=local.uri))
    asyncio.run(run(job(local, "a")))
    catalog = LocalPlace(local.path / "catalog") if isinstance(local, LocalPlace) else local
    ti, err = ended(batch(catalog, rows_of(10), **BANANA, max_run_cost_usd="0.2", start_over_budget=True))
    assert isinstance(err, AirflowFailException)
    assert "$0.195 of max_run_cost_usd $0.2 are spent by this DAG run, $0.156 of them by this task" in str(err)
    assert "Raise max_run_cost_usd and clear the task to continue; 6 of 10 rows were not started" in str(err)
    assert taken(emulator) == Decimal("0.195")
    assert [line["status"] for line in lines_of(catalog)].count("created") == 4
    assert ti.sheets[-1].cost_usd == 4 * PRICE


def test_limit_without_a_place_for_the_runs_is_an_error(emulator: Emulator, local: Place) -> None:
    ti = TaskInstance(task_id="boat")
    with pytest.raises(AirflowFailException, match="max_run_cost_usd needs an output_uri in the extra of connection"):
        execute(generate(output_uri=local.uri, max_run_cost_usd="{{ 1 }}"), ti)
    assert (posts(emulator), ti.xcoms) == (0, {"cost_usd": 0.0})
    assert ti.sheets[-1].cost_usd == Decimal(0)


@pytest.mark.parametrize("amount", ["much", "-1", "nan", "inf"])
def test_invalid_limit_is_an_error(emulator: Emulator, local: Place, amount: str) -> None:
    with pytest.raises(AirflowFailException, match="max_run_cost_usd: an amount in USD is needed"):
        execute(generate(output_uri=local.uri, max_run_cost_usd=amount), TaskInstance(task_id="boat"))
    assert posts(emulator) == 0


@pytest.mark.slow
async def test_store_that_does_not_answer_does_not_delay_a_task(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = Times(run_entry=0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        extra: dict[str, Any] = {
            "endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "region_name": "us-east-1",
        }
        extra["config_kwargs"] = {"retries": {"max_attempts": 0}}
        connection = {"conn_type": "aws", "login": "a", "password": "b", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_S3_SILENT", json.dumps(connection))
        silence = {"runs_uri": "s3://runs", "runs_conn_id": "s3_silent"}
        done = await run(job(local, "a").model_copy(update=silence), times=times)
        assert (done.status, posts(emulator)) == ("success", 1)
        refused = await run(job(local, "b").model_copy(update={**silence, "max_run_cost_usd": PRICE}), times=times)
        assert (error(refused)["type"], posts(emulator)) == ("StorageFailed", 1)


async def test_payments_of_a_second_process_are_reported_at_the_end(local: Place) -> None:
    first = job(local, "a")
    entry = RunEntry(owner=first.owner, operation=first.operation, output_uri=first.output_uri)
    costs = RunCosts(entry, STORES.at(str(first.runs_uri)))
    account = Account(Prices("account"), costs)
    tally = Tally()
    tally.paid("m", "f", PRICE, 1)
    await account.begin(tally)
    await account.add("class", PRICE)
    await account.recount(tally_of(PRICE, PRICE, PRICE))
    assert entries(local) == ["0.117"]
    await account.recount(tally_of(PRICE, PRICE))
    assert entries(local) == ["0.117"]


async def test_what_a_second_process_may_have_paid_for_counts_once_and_not_twice(local: Place) -> None:
    first = job(local, "a")
    entry = RunEntry(owner=first.owner, operation=first.operation, output_uri=first.output_uri)
    prices = Prices("account")
    prices.take({"class": PriceRange(PRICE, PRICE)})
    account = Account(prices, RunCosts(entry, None), 10 * PRICE)
    await account.begin(Tally())
    await account.add("class", None)
    async with account.reserved("class"):  # it has no claim yet
        # The journal has the first as a lost attempt, and two of the other process.
        await account.recount(tally_of(PRICE, None, None, None))
        assert (account.spending.usd, account.spending.possible_usd) == (PRICE, 3 * PRICE)


def tally_of(*costs: Decimal | None) -> Tally:
    """Return the tally of attempts; ``None`` is one with unknown outcome."""
    tally = Tally()
    for number, cost in enumerate(costs):
        if cost is None:
            tally.lost("m", str(number), "class")
        else:
            tally.paid("m", str(number), cost, 1, "class")
    return tally
