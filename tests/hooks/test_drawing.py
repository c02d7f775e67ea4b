"""``draw`` stores what it buys and stays within the limits of its task."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from airflow.sdk.execution_time.context import set_current_context
from airflow.sdk.execution_time.timeout import TimeoutPosix

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import BudgetExceeded, InvalidRequest, OutcomeUnknown, StorageFailed
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.services.s3_proxy import S3Proxy
from tests.support.counts import posts, taken
from tests.support.places import LocalPlace, Place, S3Place
from tests.support.tasks import TaskInstance, context_of
from tests.support.waiting import wait_until

BOAT: dict[str, Any] = {"prompt": "a boat", "width": 64, "height": 48}


def draw(ti: TaskInstance, **arguments: Any) -> dict[str, Any]:
    with set_current_context(context_of(ti)):
        return DeepshiHook().draw(**{**BOAT, **arguments})


def test_the_limit_counts_earlier_tries_and_what_may_have_been_paid(emulator: Emulator, directory: Place) -> None:
    price = Decimal(str(draw(TaskInstance(task_id="illustrator"))["cost_usd"]))
    second = TaskInstance(task_id="illustrator", try_number=2)
    emulator.fault("cut", charged=False)
    with pytest.raises(OutcomeUnknown):
        draw(second, prompt="another", max_cost_usd=2 * price)
    with pytest.raises(BudgetExceeded, match=f"have spent \\${2 * price:f}"):
        draw(second, prompt="a third", max_cost_usd=2.5 * float(price))
    assert posts(emulator) == 2


async def test_the_limit_holds_if_several_are_drawn_at_once(emulator: Emulator, directory: Place) -> None:
    price = Decimal("0.000001582031")
    with set_current_context(context_of(TaskInstance(task_id="illustrator"))):
        hook = DeepshiHook()
        calls = (
            asyncio.to_thread(hook.draw, f"boat {n}", width=64, height=48, max_cost_usd=float(3 * price))
            for n in range(8)
        )
        ends = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["BudgetExceeded"] * 5 + ["dict"] * 3
    assert (posts(emulator), taken(emulator)) == (3, 3 * price)


def test_a_picture_that_has_arrived_is_stored_before_a_timeout_ends_the_task(
    emulator: Emulator, local: LocalPlace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(output_uri=local.uri))
    caplog.set_level(logging.WARNING)
    emulator.settings(hold=True)
    main = threading.get_ident()

    def interrupt() -> None:
        wait_until(lambda: emulator.stats()["in_flight"] == 1)
        (probed,) = {path.parent for path in local.path.rglob("_deepshi")}
        shutil.rmtree(probed)
        probed.write_text("in the way")
        emulator.settings(hold=False)
        wait_until(lambda: "trying again in" in caplog.text)
        signal.pthread_kill(main, signal.SIGALRM)
        probed.unlink()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with TimeoutPosix(1000, "over"), pytest.raises(AirflowTaskTimeout):  # type: ignore[no-untyped-call]
            draw(TaskInstance(task_id="illustrator"))
    finally:
        thread.join()
    assert (posts(emulator), [Path(name).suffix for name in local.names()].count(".png")) == (1, 1)


@pytest.mark.s3
def test_nothing_is_bought_while_earlier_purchases_cannot_be_read(
    emulator: Emulator, s3_place: S3Place, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = emulator.connection_json(output_uri=s3_place.uri, output_conn_id=proxy.conn_id)
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", connection)
    price = float(draw(TaskInstance(task_id="illustrator"))["cost_usd"])
    second = TaskInstance(task_id="illustrator", try_number=2)
    proxy.no_listing = "NoSuchBucket"
    for _ in range(2):
        with pytest.raises(StorageFailed):
            draw(second, prompt="another", max_cost_usd=price)
    proxy.no_listing = None
    with pytest.raises(BudgetExceeded):
        draw(second, prompt="another", max_cost_usd=price)
    assert posts(emulator) == 1


def test_nothing_is_bought_if_it_could_not_be_stored(
    emulator: Emulator, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidRequest, match="set output_uri in the extra"):
        draw(TaskInstance(task_id="illustrator"))
    (tmp_path / "file").write_text("no directory")
    connection = emulator.connection_json(output_uri=(tmp_path / "file").as_uri())
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", connection)
    with pytest.raises(StorageFailed):
        draw(TaskInstance(task_id="illustrator"))
    with pytest.raises(InvalidRequest, match="inside a task"):
        DeepshiHook().draw(**BOAT)
    assert posts(emulator) == 0
