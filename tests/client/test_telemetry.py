"""The spans of requests, as OpenTelemetry's in-memory exporter receives them."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import ContentRefused
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.jobs import run_job
from tests.support.batches import batch, result_of, rows_of
from tests.support.jobs import make_job
from tests.support.places import Place

PROMPT = "a secret boat"


class _Breakable(SpanProcessor):
    """An exporter that can be made to fail."""

    broken = False

    def on_start(self, span: object, parent_context: object = None) -> None:
        if self.broken:
            raise RuntimeError("no more spans")

    def on_end(self, span: ReadableSpan) -> None:
        if self.broken:
            raise RuntimeError("no more spans")


@pytest.fixture(scope="module")
def provider() -> Iterator[TracerProvider]:
    """The only tracer provider of this process."""
    provider = TracerProvider()
    trace.set_tracer_provider(provider)
    yield provider
    provider.shutdown()


@pytest.fixture
def spans(provider: TracerProvider) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
def hook(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> DeepshiHook:
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(max_retries=1, max_retry_wait=0.02))
    return DeepshiHook()


def test_request_has_a_span_that_follows_the_conventions(
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
        "gen_ai.usage.cost": float(entry["cost_usd"]),
        "langfuse.observation.cost_details": json.dumps({"total": float(entry["cost_usd"])}),
    }
    assert isinstance(port, int)
    assert (span.name, span.kind) == ("generate_content grok-imagine", SpanKind.CLIENT)
    assert (span.status.status_code, span.parent) == (StatusCode.UNSET, task.get_span_context())


def test_a_collector_gets_cost_as_a_number_and_the_task_under_airflows_names(
    emulator: Emulator, hook: DeepshiHook, provider: TracerProvider, local: Place
) -> None:
    """OpenTelemetry's exporter sends, as in Airflow, and the server parses the protocol's messages."""
    received: list[ExportTraceServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{server.server_port}/v1/traces")
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        outcome = asyncio.run(run_job(make_job(local, owner={"map_index": 3, "try_number": 2})))
        exporter.shutdown()  # type: ignore[no-untyped-call] # it is not annotated; the provider keeps it
        server.shutdown()
    (span,) = [s for request in received for r in request.resource_spans for c in r.scope_spans for s in c.spans]
    attributes = {attribute.key: attribute.value for attribute in span.attributes}
    assert attributes["gen_ai.usage.cost"].WhichOneof("value") == "double_value"
    assert attributes["gen_ai.usage.cost"].double_value == float(outcome.cost_usd or 0) > 0
    details = json.loads(attributes["langfuse.observation.cost_details"].string_value)
    assert details["total"] == float(outcome.cost_usd or 0)
    assert attributes["deepshi.cost_usd"].string_value == str(outcome.cost_usd)
    assert [attributes[f"airflow.{name}"].string_value for name in ("dag_id", "task_id", "dag_run.run_id")] == [
        "shop",
        "boat",
        "monday",
    ]
    assert [attributes[f"airflow.task_instance.{name}"].int_value for name in ("try_number", "map_index")] == [2, 3]


def test_spans_of_a_batch_name_its_task(emulator: Emulator, spans: InMemorySpanExporter, local: Place) -> None:
    result_of(batch(local, rows_of(3), max_concurrency=2))
    found = [dict(span.attributes or {}) for span in spans.get_finished_spans()]
    assert [attributes["airflow.task_id"] for attributes in found] == ["catalog"] * 3


def test_each_attempt_has_its_span(emulator: Emulator, hook: DeepshiHook, spans: InMemorySpanExporter) -> None:
    emulator.fault("status", status=503)
    hook.generate(GenerateRequest(model="grok-imagine", prompt=PROMPT)).close()
    first, second = spans.get_finished_spans()
    attributes = dict(first.attributes or {})
    assert (attributes["error.type"], attributes["http.response.status_code"]) == ("ServerFailed", 503)
    assert attributes["deepshi.charged"] == "no"
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
