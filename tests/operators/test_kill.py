"""Killing a running task closes its connection at once and leaves its claim."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.operators.images import DeepshiGenerateImageOperator
from tests.services.s3_proxy import S3Proxy
from tests.support.counts import posts
from tests.support.places import Place, images, state
from tests.support.tasks import TaskInstance, context_of, execute, generate, run_try
from tests.support.waiting import wait_until


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def rendered(place: Place, **fields: Any) -> tuple[DeepshiGenerateImageOperator, TaskInstance]:
    """An operator as the task runner has it, so that a test can kill it."""
    operator = generate(output_uri=place.uri, output_conn_id=place.conn_id, preflight="off", **fields)
    ti = TaskInstance(task_id="boat")
    copy = operator.prepare_for_execution()
    copy.render_template_fields(context_of(ti))
    return copy, ti


def test_kill_ends_the_request_at_once(emulator: Emulator, place: Place, thread: ThreadPoolExecutor) -> None:
    emulator.settings(latency=300)
    operator, ti = rendered(place)
    running: Future[Any] = thread.submit(operator.execute, context_of(ti))
    wait_until(lambda: emulator.stats()["in_flight"] == 1)
    operator.on_kill()
    with pytest.raises(AirflowException, match=r"was killed.*the claim is kept") as killed:
        running.result(timeout=60)
    assert not isinstance(killed.value, AirflowFailException), "a retry is wanted"
    wait_until(lambda: emulator.stats()["disconnects"] == 1)
    assert len(state(place, "claim")) == 1
    assert state(place, "record") == state(place, "lease") == images(place) == []
    assert ti.xcoms == {"cost_usd": 0.0}
    emulator.settings(latency=0)
    # A kill leaves an attempt with unknown outcome: max_resends decides.
    with pytest.raises(AirflowFailException, match="max_resends is 0"):
        execute(
            generate(output_uri=place.uri, output_conn_id=place.conn_id, max_resends=0),
            TaskInstance(task_id="boat", try_number=2),
        )
    assert posts(emulator) == 1
    again = run_try(generate(output_uri=place.uri, output_conn_id=place.conn_id), try_number=3)
    assert (again.xcoms["return_value"]["unknown_outcomes"], posts(emulator)) == (1, 2)


def test_kill_by_a_signal_in_the_main_thread(emulator: Emulator, local: Place) -> None:
    """Like Airflow's task runner, whose SIGTERM handler calls ``on_kill`` inside ``execute``."""
    emulator.settings(latency=30)
    operator, ti = rendered(local)
    main = threading.main_thread().ident
    assert main == threading.get_ident()

    def kill() -> None:
        wait_until(lambda: emulator.stats()["in_flight"] == 1)
        signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: operator.on_kill())
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(AirflowException, match="was killed"):
            operator.execute(context_of(ti))
    finally:
        killer.join()
        signal.signal(signal.SIGUSR1, before)
    wait_until(lambda: emulator.stats()["disconnects"] == 1)
    assert len(state(local, "claim")) == 1


def test_killed_task_reports_the_costs_of_its_earlier_tries(
    emulator: Emulator, local: Place, thread: ThreadPoolExecutor
) -> None:
    emulator.fault("not_an_image")
    with pytest.raises(Exception, match="cannot be used"):
        execute(generate(output_uri=local.uri), TaskInstance(task_id="boat"))
    emulator.settings(latency=30)
    operator, ti = rendered(local)
    ti.try_number = 2
    running: Future[Any] = thread.submit(operator.execute, context_of(ti))
    wait_until(lambda: emulator.stats()["in_flight"] == 1)
    operator.on_kill()
    with pytest.raises(AirflowException):
        running.result(timeout=120)
    assert ti.xcoms == {"cost_usd": float(emulator.stats()["cost_usd"])}
    assert ti.xcoms["cost_usd"] > 0


@pytest.mark.s3
def test_kill_while_the_store_is_unavailable_counts_the_request(
    emulator: Emulator, s3_place: Place, proxy: S3Proxy, thread: ThreadPoolExecutor
) -> None:
    emulator.settings(latency=300)
    operator, ti = rendered(s3_place)
    operator.output_conn_id = proxy.conn_id
    running: Future[Any] = thread.submit(operator.execute, context_of(ti))
    wait_until(lambda: emulator.stats()["in_flight"] == 1)
    proxy.no_listing = ""
    operator.on_kill()
    with pytest.raises(AirflowException, match="was killed"):
        running.result(timeout=120)
    assert ti.xcoms == {"cost_usd": 0.0}
    sheet = ti.sheets[-1]
    assert (sheet.unknown_outcomes, sheet.cost_usd, sheet.may_have_cost_usd) == (1, Decimal(0), None)
    assert [(model.model, model.unknown_outcomes) for model in sheet.models] == [("deepshi-banana-pro", 1)]


def test_kill_before_anything_was_sent_sends_nothing(emulator: Emulator, local: Place) -> None:
    operator, ti = rendered(local)
    operator.on_kill()
    with pytest.raises(AirflowException, match="was killed"):
        operator.execute(context_of(ti))
    assert (posts(emulator), local.names()) == (0, [])


def test_kill_after_the_end_does_nothing(emulator: Emulator, local: Place) -> None:
    operator, ti = rendered(local)
    operator.execute(context_of(ti))
    operator.on_kill()
    assert images(local) == ["image-0.png"]


@pytest.mark.s3
def test_kill_after_payment_stores_the_image_first(
    emulator: Emulator, s3_place: Place, proxy: S3Proxy, thread: ThreadPoolExecutor
) -> None:
    proxy.refuse = r"image-0\.png"
    operator, ti = rendered(s3_place)
    operator.output_conn_id = proxy.conn_id
    running: Future[Any] = thread.submit(operator.execute, context_of(ti))
    wait_until(lambda: proxy.refused)
    operator.on_kill()
    time.sleep(0.3)
    assert not running.done(), "a paid image is not thrown away"
    proxy.refuse = None
    with pytest.raises(AirflowException, match="was killed"):
        running.result(timeout=120)
    assert images(s3_place) == ["image-0.png"]
    assert ti.xcoms == {"cost_usd": float(emulator.stats()["cost_usd"])}
    again = run_try(generate(output_uri=s3_place.uri, output_conn_id=s3_place.conn_id), try_number=2)
    assert (again.xcoms["return_value"]["reused"], posts(emulator)) == (True, 1)
