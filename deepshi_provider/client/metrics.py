"""What requests cost, how long they take and how they end, as counters and timings.

They go to a sink that an adapter chooses for its asyncio task or thread; without one they go nowhere. They count what
this process did and are lost with it, so they are for dashboards and alerts; what was paid is in the records.
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

#: The outcome of a request that brought images; any other outcome is the name of an exception.
SUCCESS = "success"
#: The outcome of a request that was stopped while it was under way.
CANCELLED = "Cancelled"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}", re.ASCII)
Kind = Literal["incr", "timing"]
#: Sends one metric: its kind, name, value and tags.
Sink = Callable[[Kind, str, "int | timedelta", "dict[str, str]"], None]

#: Where the metrics of this asyncio task or thread go.
SINK: ContextVar[Sink | None] = ContextVar("deepshi_metrics", default=None)


def model_tag(model: str, error: DeepshiError | None = None) -> str:
    """Return a model's name as a tag, or ``other`` if the API refused it: templates can render anything."""
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
    """Count one request that has ended, in whichever way.

    :param images: pictures that came.
    :param cost_usd: what was taken, as far as the API reported it.
    """
    outcome = CANCELLED if cancelled else type(error).__name__ if error else SUCCESS
    tags = _tags(request, outcome, error)
    _send("timing", "request.duration", timedelta(seconds=seconds), tags)
    _send("incr", "images", images, tags)
    _send("incr", "cost_micro_usd", micro_usd(cost_usd), tags)
    _send("incr", "unknown_outcomes", int(cancelled or (error is not None and error.charged == "unknown")), tags)


def retried(request: GenerateRequest, error: DeepshiError) -> None:
    """Count that a request is sent again after a failure that was surely free."""
    _send("incr", "retries", 1, _tags(request, type(error).__name__, error))


def reused(request: GenerateRequest, images: int) -> None:
    """Count images that were there already and cost nothing."""
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
    except Exception:  # a metrics backend fails in ways of its own, and must not fail a paid request
        log.warning("The metric deepshi.%s was not sent", name, exc_info=True)
