"""From Airflow 3.3, a ``Retry-After`` longer than the hook waits sets the start of the task's next try."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from airflow.sdk.execution_time import task_runner

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import DeepshiError, RateLimited
from deepshi_provider.hooks.jobs import run_job
from deepshi_provider.operators.images import DeepshiGenerateImageOperator
from deepshi_provider.operators.retry import RETRY_AFTER
from tests.support.batches import batch, rows_of
from tests.support.counts import posts
from tests.support.jobs import make_job
from tests.support.places import Place
from tests.support.tasks import TaskInstance, context_of, generate


@pytest.fixture(autouse=True)
def patience(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook waits at most 5 s."""
    connection = emulator.connection_json(max_retries=1, max_retry_wait=5)
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", connection)


def delay_after(operator: Any, error: BaseException) -> float | None:
    """Seconds that Airflow's task runner asks the scheduler to wait; ``None`` means the task's ``retry_delay``."""
    server = SimpleNamespace(should_retry=True, max_tries=1)
    ti = SimpleNamespace(
        task=operator, try_number=1, _ti_context_from_server=server, _failure_metrics_emitted=True, stats_tags={}
    )
    context = context_of(TaskInstance(task_id="boat"), task=operator)
    if RETRY_AFTER is None:  # Airflow 3.1 and 3.2
        assert not hasattr(task_runner, "_handle_current_task_failed")
        return None
    handle: Any = vars(task_runner)["_handle_current_task_failed"]  # Airflow calls this after a failure
    message, _ = handle(ti, error, structlog.get_logger("test"), context)
    delay: float | None = getattr(message, "retry_delay_seconds", None)
    return delay


def failed(operator: Any) -> DeepshiError:
    context = context_of(TaskInstance(task_id="boat"))
    with pytest.raises(DeepshiError) as caught:
        operator.execute(context)
    return caught.value


IF_IT_CAN = {True: 600.0, False: None}[RETRY_AFTER is not None]


@pytest.mark.parametrize("retry_after", [600, 5.5])
def test_a_long_retry_after_sets_the_start_of_the_next_try(
    emulator: Emulator, local: Place, retry_after: float
) -> None:
    emulator.fault("status", status=429, retry_after=retry_after, times=9)
    operator = generate(output_uri=local.uri, retries=1, preflight="off")
    error = failed(operator)
    assert (type(error), posts(emulator)) == (RateLimited, 1)
    assert delay_after(operator, error) == (retry_after if RETRY_AFTER else None)


def test_a_deferred_task_and_a_batch_obey_it_too(emulator: Emulator, local: Place) -> None:
    emulator.fault("status", status=503, retry_after=600, times=9)
    outcome = asyncio.run(run_job(make_job(local)))
    operator = generate(output_uri=local.uri)
    with pytest.raises(DeepshiError) as caught:
        operator.execute_complete(context_of(TaskInstance(task_id="boat")), outcome.as_event(None))
    assert delay_after(operator, caught.value) == IF_IT_CAN
    emulator.clear_faults()
    emulator.fault("status", status=429, retry_after=600, times=9)
    rows = batch(local, rows_of(2))
    assert delay_after(rows, failed(rows)) == IF_IT_CAN


def test_other_errors_keep_the_retry_delay_of_the_task(emulator: Emulator, local: Place) -> None:
    operator = generate(output_uri=local.uri)
    for error in (RateLimited("slow", retry_after=5), RateLimited("slow"), ValueError("x")):
        assert delay_after(operator, error) is None


def test_a_retry_after_of_years_is_limited(emulator: Emulator, local: Place) -> None:
    error = RateLimited("slow", retry_after=1e12)
    assert delay_after(generate(output_uri=local.uri), error) == (86_400.0 if RETRY_AFTER else None)


def test_a_users_policy_is_kept_and_mapped_tasks_have_ours() -> None:
    own = object()
    assert RETRY_AFTER is None or generate(retry_policy=own).retry_policy is own
    mapped = DeepshiGenerateImageOperator.partial(task_id="boats").expand(prompt=["a", "b"])
    made: Any = mapped.unmap({"prompt": "a"})
    assert getattr(made, "retry_policy", None) is RETRY_AFTER
