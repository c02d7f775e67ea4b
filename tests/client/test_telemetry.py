"""What the spans around requests say, kept by OpenTelemetry's own exporter for tests."""

from __future__ import annotations

from decimal import Decimal

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import ContentRefused
from deepshi_provider.hooks.deepshi import DeepshiHook

PROMPT = "a secret boat"


class _Breakable(SpanProcessor):
    """Fails when it is told to."""

    broken = False

    def on_start(self, span: object, parent_context: object = None) -> None:
        if self.broken:
            raise RuntimeError("no more spans")

    def on_end(self, span: ReadableSpan) -> None:
        if self.broken:
            raise RuntimeError("no more spans")


@pytest.fixture(scope="module")
def provider() -> TracerProvider:
    """The tracer provider of this process; there can be only one."""
    provider = TracerProvider()
    trace.set_tracer_provider(provider)
    return provider


@pytest.fixture
def spans(provider: TracerProvider) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
def hook(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> DeepshiHook:
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(max_retries=1, max_retry_wait=0.02))
    return DeepshiHook()


def test_request_has_a_span_by_the_conventions(
    emulator: Emulator, hook: DeepshiHook, spans: InMemorySpanExporter
) -> None:
    with trace.get_tracer("a task").start_as_current_span("task") as task:
        hook.generate(GenerateRequest(model="grok-imagine", prompt=PROMPT, n=2, seed=7)).close()
    span = spans.get_finished_spans()[0]
    (entry,) = emulator.requests()
    attributes = dict(span.attributes or {})
    tokens = [attributes.pop(f"gen_ai.usage.{side}_tokens") for side in ("input", "output")]
    assert all(isinstance(count, int) for count in tokens)
    port = attributes.pop("server.port")
    assert attributes == {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "deepshi",
        "gen_ai.request.model": "grok-imagine",
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.seed": 7,
        "gen_ai.response.model": "grok-imagine",
        "gen_ai.output.type": "image",
        "server.address": "127.0.0.1",
        "deepshi.operation": "generate",
        "deepshi.images": 2,
        "deepshi.cost_usd": entry["cost_usd"],
    }
    assert isinstance(port, int)
    assert (span.name, span.kind) == ("generate_content grok-imagine", SpanKind.CLIENT)
    assert (span.status.status_code, span.parent) == (StatusCode.UNSET, task.get_span_context())


def test_each_sending_has_its_span(emulator: Emulator, hook: DeepshiHook, spans: InMemorySpanExporter) -> None:
    emulator.fault("status", status=503)
    hook.generate(GenerateRequest(model="grok-imagine", prompt=PROMPT)).close()
    first, second = spans.get_finished_spans()
    told = dict(first.attributes or {})
    assert (told["error.type"], told["http.response.status_code"]) == ("ServerFailed", 503)
    assert told["deepshi.charged"] == "no"
    assert "error.type" not in (second.attributes or {})
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)


def test_neither_prompt_nor_key_nor_message_is_in_a_span(
    emulator: Emulator, hook: DeepshiHook, spans: InMemorySpanExporter
) -> None:
    message = f"refused: {PROMPT} with key sk-bf-emulator"
    emulator.fault("status", status=400, code="content_policy_violation", message=message)
    with pytest.raises(ContentRefused):
        hook.generate(GenerateRequest(model="grok-imagine", prompt=PROMPT))
    hook.generate(GenerateRequest(model="grok-imagine", prompt=PROMPT)).close()
    written = "".join(span.to_json() for span in spans.get_finished_spans())
    assert written.count('"name": "generate_content grok-imagine"') == 2
    assert PROMPT not in written
    assert "sk-bf-" not in written
    assert "refused" not in written


def test_broken_tracing_does_not_fail_a_paid_request(
    emulator: Emulator, hook: DeepshiHook, provider: TracerProvider
) -> None:
    breakable = _Breakable()
    provider.add_span_processor(breakable)
    breakable.broken = True
    try:
        with hook.generate(GenerateRequest(model="grok-imagine", prompt=PROMPT)) as result:
            assert result.cost_usd == Decimal(emulator.requests()[0]["cost_usd"])
    finally:
        breakable.broken = False
