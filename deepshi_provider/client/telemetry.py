"""Records a span and metrics for each request, by OpenTelemetry's conventions for generative AI.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/

Spans contain no prompts, no keys, and no messages of the server, which may quote them.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from decimal import Decimal
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from deepshi_provider import __version__
from deepshi_provider.api.received import Received
from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.client import metrics
from deepshi_provider.client.settings import PORTS
from deepshi_provider.exceptions import DeepshiError

trace: Any
try:
    trace = importlib.import_module("opentelemetry.trace")
except ImportError:  # Airflow installs it, but it is optional here
    trace = None

log = logging.getLogger(__name__)

#: The convention's operation for both generating and editing images.
_OPERATION = "generate_content"

#: Attributes of the task that sends the requests.
_task: ContextVar[Mapping[str, str | int]] = ContextVar("task")


@contextlib.contextmanager
def of_task(attributes: Mapping[str, str | int]) -> Iterator[None]:
    """Set these attributes on the spans of all requests inside the ``with`` block."""
    token = _task.set(attributes)
    try:
        yield
    finally:
        _task.reset(token)


class Observed:
    """Context manager around one request. Its own errors never affect the request.

    :param base_url: the server's URL, for the span.
    """

    def __init__(self, request: GenerateRequest, base_url: str) -> None:
        self._request = request
        self._base_url = base_url
        self._received: Received | None = None
        self._begun = 0.0
        self._span: Any = None
        self._in_span = contextlib.ExitStack()

    def __enter__(self) -> Observed:
        self._begun = time.monotonic()
        with _harmless():
            self._start_span()
        return self

    def received(self, received: Received) -> Received:
        """Record the answer on the span, and return it."""
        self._received = received
        return received

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self._begun
        error = value if isinstance(value, DeepshiError) else None
        with _harmless():
            self._count(seconds, error)
        with _harmless():
            self._end_span(error, kind)

    def _count(self, seconds: float, error: DeepshiError | None) -> None:
        if error:
            metrics.ended(self._request, seconds, cost_usd=error.cost_usd, error=error)
        elif self._received:
            answer = self._received.answer
            metrics.ended(self._request, seconds, images=len(self._received.images), cost_usd=answer.cost_usd)
        else:  # cancelled
            metrics.ended(self._request, seconds, cancelled=True)

    def _start_span(self) -> None:
        if trace is None:
            return
        request, url = self._request, urlsplit(self._base_url)
        attributes = {
            "gen_ai.operation.name": _OPERATION,
            "gen_ai.provider.name": "deepshi",
            "gen_ai.request.model": request.model,
            "gen_ai.output.type": "image",
            "server.address": url.hostname,
            "server.port": url.port or PORTS.get(url.scheme),
            "deepshi.operation": request.operation,
            "gen_ai.request.choice.count": request.n if request.n > 1 else None,
            "gen_ai.request.seed": request.seed,
            **_task.get({}),
        }
        tracer = trace.get_tracer("deepshi_provider", __version__)
        self._span = self._in_span.enter_context(
            tracer.start_as_current_span(
                f"{_OPERATION} {request.model}",
                kind=trace.SpanKind.CLIENT,
                attributes=_given(attributes),
                record_exception=False,
                set_status_on_exception=False,
            )
        )

    def _end_span(self, error: DeepshiError | None, kind: type[BaseException] | None) -> None:
        if self._span is None:
            return
        with self._in_span:
            self._span.set_attributes(_end_attributes(self._received, error))
            if kind is not None:
                self._span.set_attribute("error.type", kind.__name__)
                self._span.set_status(trace.Status(trace.StatusCode.ERROR))


def _end_attributes(received: Received | None, error: DeepshiError | None) -> dict[str, Any]:
    """Return the span attributes that are known when a request has ended."""
    ended: dict[str, Any] = {}
    if received:
        answer = received.answer
        usage = answer.usage or {}
        ended = {
            "gen_ai.response.model": answer.model,
            "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
            "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
            "deepshi.images": len(received.images),
            **_cost(answer.cost_usd),
        }
    elif error:
        ended = {
            "http.response.status_code": error.status_code,
            "deepshi.charged": error.charged,
            **_cost(error.cost_usd),
        }
    return _given(ended)


def _cost(cost_usd: Decimal | None) -> dict[str, Any]:
    """Return the attributes of a cost: exact as text, as a number, and in Langfuse's form."""
    if cost_usd is None:
        return {}
    number = float(cost_usd)
    return {
        "deepshi.cost_usd": str(cost_usd),
        "gen_ai.usage.cost": number,
        "langfuse.observation.cost_details": json.dumps({"total": number}),
    }


def _given(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if isinstance(value, str | int | float)}


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except Exception:
        log.warning("The metrics or the span of a request could not be recorded", exc_info=True)
