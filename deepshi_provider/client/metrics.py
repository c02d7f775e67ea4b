"""Metrics of requests: cost, duration and outcome, as counters and timings.

They go to a sink that an adapter sets for its asyncio task or thread; without one they are dropped. They count the
requests of this process and are lost with it, so use them for dashboards and alerts; the records hold the costs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextvars import ContextVar
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.exceptions import DeepshiError, InvalidRequest

log = logging.getLogger(__name__)

#: The outcome of a request that returned images; other outcomes are names of exceptions.
SUCCESS = "success"
#: The outcome of a request that was cancelled while it was under way.
CANCELLED = "Cancelled"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}", re.ASCII)
Kind = Literal["incr", "timing"]
#: Sends one metric: its kind, name, value and tags.
Sink = Callable[[Kind, str, "int | timedelta", "dict[str, str]"], None]

#: Where the metrics of this asyncio task or thread go.
SINK: ContextVar[Sink | None] = ContextVar("deepshi_metrics", default=None)


def model_tag(model: str, error: DeepshiError | None = None) -> str:
    """Return a model's name as a tag, or ``other`` if the API refused it, since templates can render anything."""
    accepted = type(error) is not InvalidRequest and _NAME.fullmatch(model)
    return model if accepted else "other"


def ended(
    request: GenerateRequest,
    seconds: float,
    *,
    images: int = 0,
    cost_usd: Decimal | None = None,
    error: DeepshiError | None = None,
    cancelled: bool = False,
) -> None:
    """Count one request that has ended with any outcome.

    :param images: number of images received.
    :param cost_usd: the cost, as far as the API reported it.
    """
    outcome = CANCELLED if cancelled else type(error).__name__ if error else SUCCESS
    tags = _tags(request, outcome, error)
    _send("timing", "request.duration", timedelta(seconds=seconds), tags)
    _send("incr", "images", images, tags)
    _send("incr", "cost_micro_usd", micro_usd(cost_usd), tags)
    _send("incr", "unknown_outcomes", int(cancelled or (error is not None and error.charged == "unknown")), tags)


def retried(request: GenerateRequest, error: DeepshiError) -> None:
    """Count a retry of a request after a failure that was certainly free."""
    _send("incr", "retries", 1, _tags(request, type(error).__name__, error))


def reused(request: GenerateRequest, images: int) -> None:
    """Count images that were already stored and cost nothing."""
    _send("incr", "reused", images, _tags(request, SUCCESS, None))


def micro_usd(cost_usd: Decimal | None) -> int:
    """Return a cost in millionths of a dollar, rounded half up: counters are integers."""
    return int((cost_usd or Decimal(0)).scaleb(6).quantize(Decimal(1), ROUND_HALF_UP))


def _tags(request: GenerateRequest, outcome: str, error: DeepshiError | None) -> dict[str, str]:
    return {"model": model_tag(request.model, error), "operation": request.operation, "outcome": outcome}


def _send(kind: Kind, name: str, value: int | timedelta, tags: dict[str, str]) -> None:
    sink = SINK.get()
    if sink is None or not value:
        return
    try:
        sink(kind, f"deepshi.{name}", value, tags)
    except Exception:  # a metrics backend may raise anything, and must not fail a paid request
        log.warning("The metric deepshi.%s could not be sent", name, exc_info=True)
