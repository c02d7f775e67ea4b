"""Combines the figures of several runs."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

Row = dict[str, Any]


def middle(rows: Iterable[Row], key: str) -> float:
    """Return the median of a figure."""
    return float(median(row[key] for row in rows))


def ratio(rows: Iterable[Row], others: Iterable[Row], key: str) -> float:
    """Return the median of the ratios within each run; both have one row per run, in the runs' order."""
    return median(float(row[key]) / max(float(other[key]), 1e-9) for row, other in zip(rows, others, strict=True))
