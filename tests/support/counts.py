"""What the server counted, and what a job that failed recorded."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.jobs.outcome import ImageOutcome


def posts(emulator: Emulator) -> int:
    """Paid requests that the server has seen, refused ones included."""
    return int(emulator.stats()["posts"])


def taken(emulator: Emulator) -> Decimal:
    """What the server has taken from the balance, in USD."""
    return Decimal(emulator.stats()["cost_usd"])


def error(manifest: ImageOutcome) -> dict[str, Any]:
    """The error of a job that failed."""
    assert manifest.status == "failed"
    assert manifest.error is not None
    return manifest.error
