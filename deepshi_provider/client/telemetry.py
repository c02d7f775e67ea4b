"""Around each request: a span by OpenTelemetry's conventions for generative AI, and its metrics.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/

Neither prompts nor keys nor the server's messages, which may quote them, are in a span.
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
from deepshi_provider.exceptions import DeepshiError

trace: Any
try:
    trace = importlib.import_module("opentelemetry.trace")
except ImportError:  # Airflow brings it, but nothing here needs it
    trace = None

log = logging.getLogger(__name__)

#: Generating and editing pictures are both this one of the convention's operations.
_OPERATION = "generate_content"


#: Of the task that requests are sent for.
_task: ContextVar[Mapping[str, str | int]] = ContextVar("task")


@contextlib.contextmanager
def of_task(attributes: Mapping[str, str | int]) -> Iterator[None]:
    """Give the spans of all requests inside of the block these attributes."""
    token = _task.set(attributes)
    try:
        yield
    finally:
        _task.reset(token)


class Observed:
    """One request under way; a context manager. Nothing that goes wrong in here reaches the request.

    :param base_url: of the server, for the span.
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
        else:  # stopped from outside
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
            "server.port": url.port or {"http": 80, "https": 443}.get(url.scheme),
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
            self._span.set_attributes(_told(self._received, error))
            if kind is not None:
                self._span.set_attribute("error.type", kind.__name__)
                self._span.set_status(trace.Status(trace.StatusCode.ERROR))


def _told(received: Received | None, error: DeepshiError | None) -> dict[str, Any]:
    """Return the attributes that are known at the end of a request."""
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
    """Return what a request has cost: exact as text, as a number, and as Langfuse reads it."""
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
        log.warning("A request's metrics or span were not kept", exc_info=True)
