"""Reads the server's counts, and the error of a failed job."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.jobs.outcome import ImageOutcome


def posts(emulator: Emulator) -> int:
    """Return the number of paid requests that the server has received, including refused ones."""
    return int(emulator.stats()["posts"])


def taken(emulator: Emulator) -> Decimal:
    """Return the server's charges, in USD."""
    return Decimal(emulator.stats()["cost_usd"])


def error(manifest: ImageOutcome) -> dict[str, Any]:
    """Return the error of a failed job."""
    assert manifest.status == "failed"
    assert manifest.error is not None
    return manifest.error
