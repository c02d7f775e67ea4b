"""Metrics of single requests, as a StatsD server receives them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from airflow.sdk._shared.observability.metrics.base_stats_logger import NoStatsLogger
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics.stats_utils import get_stats_factory

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.client import metrics
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import DeepshiError, OutcomeUnknown, RateLimited
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.services.statsd import Metric, StatsD
from tests.support.tasks import generate, run_try
from tests.support.waiting import wait_for

MODEL = "deepshi-banana-pro"


@pytest.fixture
def statsd(monkeypatch: pytest.MonkeyPatch) -> Iterator[StatsD]:
    """The server that receives this process's metrics."""
    with StatsD() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        logger = get_stats_factory()()
        stats.initialize(factory=lambda: logger, export_legacy_names=False)
        yield server
        logger.statsd.close()
    stats.initialize(factory=NoStatsLogger, export_legacy_names=False)


@pytest.fixture
def hook(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> DeepshiHook:
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(max_retries=1, max_retry_wait=0.02))
    return DeepshiHook()


def boat(model: str = MODEL, n: int = 1) -> GenerateRequest:
    return GenerateRequest(model=model, n=n, prompt="a boat", width=64, height=48)


def sums(found: list[Metric]) -> Counter[tuple[str, str, str]]:
    """Sums of counters and numbers of timings, by name, model and outcome."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for metric in found:
        key = metric.name.removeprefix("deepshi."), metric.tags["model"], metric.tags["outcome"]
        counted[key] += int(metric.value) if metric.kind == "c" else 1
    return counted


def test_success_counts_images_and_cost(statsd: StatsD, emulator: Emulator, hook: DeepshiHook) -> None:
    hook.generate(boat(model="grok-imagine", n=3)).close()
    paid = Decimal(emulator.requests()[0]["cost_usd"])
    statsd.wait_for("deepshi.cost_micro_usd", among={})
    found = statsd.metrics(among={"operation": "generate"})
    assert sums(found) == {
        ("request.duration", "grok-imagine", "success"): 1,
        ("images", "grok-imagine", "success"): 3,
        ("cost_micro_usd", "grok-imagine", "success"): metrics.micro_usd(paid),
    }
    assert {frozenset(metric.tags) for metric in found} == {frozenset({"model", "operation", "outcome"})}
    (duration,) = (metric.value for metric in found if metric.kind == "ms")
    assert 0 < duration < 60_000


def test_a_retry_and_both_requests_are_counted(statsd: StatsD, emulator: Emulator, hook: DeepshiHook) -> None:
    emulator.fault("status", status=429, retry_after=0)
    hook.generate(boat()).close()
    statsd.wait_for("deepshi.cost_micro_usd", among={})
    counted = sums(statsd.metrics(among={}))
    assert (counted.pop(("cost_micro_usd", MODEL, "success")) > 0, counted) == (
        True,
        {
            ("request.duration", MODEL, "RateLimited"): 1,
            ("retries", MODEL, "RateLimited"): 1,
            ("request.duration", MODEL, "success"): 1,
            ("images", MODEL, "success"): 1,
        },
    )


def test_lost_answer_is_an_unknown_outcome_and_no_cost(statsd: StatsD, emulator: Emulator, hook: DeepshiHook) -> None:
    emulator.fault("cut")
    with pytest.raises(OutcomeUnknown):
        hook.generate(boat())
    statsd.wait_for("deepshi.unknown_outcomes", among={})
    assert sums(statsd.metrics(among={})) == {
        ("request.duration", MODEL, "OutcomeUnknown"): 1,
        ("unknown_outcomes", MODEL, "OutcomeUnknown"): 1,
    }


async def test_cancelled_request_is_an_unknown_outcome(statsd: StatsD, emulator: Emulator, hook: DeepshiHook) -> None:
    emulator.fault("silence")
    request = asyncio.create_task(hook.agenerate(boat()))
    await asyncio.to_thread(wait_for, "the request", 30, emulator.requests, 0.01)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    statsd.wait_for("deepshi.unknown_outcomes", among={})
    assert sums(statsd.metrics(among={})) == {
        ("request.duration", MODEL, "Cancelled"): 1,
        ("unknown_outcomes", MODEL, "Cancelled"): 1,
    }


def test_cost_of_an_unusable_paid_picture_is_counted(statsd: StatsD, emulator: Emulator, hook: DeepshiHook) -> None:
    emulator.fault("not_an_image")
    with pytest.raises(DeepshiError):
        hook.generate(boat())
    paid = Decimal(emulator.requests()[0]["cost_usd"])
    statsd.wait_for("deepshi.cost_micro_usd", among={})
    assert sums(statsd.metrics(among={})) == {
        ("request.duration", MODEL, "InvalidResponse"): 1,
        ("cost_micro_usd", MODEL, "InvalidResponse"): metrics.micro_usd(paid),
    }


def test_reused_images_count_without_a_request(statsd: StatsD, emulator: Emulator, images_dir: Path) -> None:
    operator = generate(output_uri=images_dir.as_uri())
    run_try(operator)
    run_try(operator, run_id="tuesday")
    statsd.wait_for("deepshi.reused", among={})
    counted = sums(statsd.metrics(among={}))
    assert (counted["reused", MODEL, "success"], counted["request.duration", MODEL, "success"]) == (1, 1)
    assert emulator.stats()["posts"] == 1


@pytest.mark.parametrize("model", ["no-such-model-1", "no-such-model-2"])
def test_refused_model_is_no_tag(statsd: StatsD, emulator: Emulator, hook: DeepshiHook, model: str) -> None:
    with pytest.raises(DeepshiError):
        hook.generate(boat(model=model))
    assert statsd.wait_for("deepshi.request.duration", among={}).tags["model"] == "other"


@pytest.mark.parametrize(
    ("model", "tag"),
    [
        ("gpt-image-1.5", "gpt-image-1.5"),
        ("vendor/model:free", "vendor/model:free"),
        ("a,b=c", "other"),
        ("{{ x }}", "other"),
        ("m" * 64, "m" * 64),
        ("m" * 65, "other"),
        ("modèle", "other"),
    ],
)
def test_names_that_are_no_valid_tag_become_other(model: str, tag: str) -> None:
    assert metrics.model_tag(model) == tag
    assert metrics.model_tag(model, RateLimited("later")) == tag


@pytest.mark.parametrize(
    ("cost", "micro"),
    [("0.000135", 135), ("0.0000005", 1), ("0.0000004", 0), ("12.3456789", 12_345_679), ("0", 0), (None, 0)],
)
def test_cost_is_rounded_to_micro_dollars(cost: str | None, micro: int) -> None:
    assert metrics.micro_usd(None if cost is None else Decimal(cost)) == micro


def test_broken_metrics_do_not_fail_a_paid_request(emulator: Emulator, hook: DeepshiHook) -> None:
    class Broken(NoStatsLogger):
        @classmethod
        def incr(cls, *args: object, **kwargs: object) -> None:
            raise RuntimeError("the metrics server is on fire")

        timing = incr

    stats.initialize(factory=Broken, export_legacy_names=False)
    try:
        with hook.generate(boat()) as result:
            assert result.cost_usd == Decimal(emulator.requests()[0]["cost_usd"])
    finally:
        stats.initialize(factory=NoStatsLogger, export_legacy_names=False)
