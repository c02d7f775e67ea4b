"""Amounts in the report's page."""

from __future__ import annotations

from decimal import Decimal

import pytest

from deepshi_provider.costs.sheet import ModelCosts
from deepshi_provider.reports.page import bounds


@pytest.mark.parametrize(
    ("cost", "extra", "unknown", "words"),
    [
        ("1.5", "0", 0, "$1.50"),
        ("1.5", "0.039", 1, "at least $1.50, up to about $1.539"),
        ("1.5", None, 1, "at least $1.50"),
        ("1.5", "0", 1, "at least $1.50"),
    ],
)
def test_a_range_is_shown_if_its_ends_differ(cost: str, extra: str | None, unknown: int, words: str) -> None:
    costs = ModelCosts(
        model="m",
        cost_usd=Decimal(cost),
        images=1,
        reused=0,
        saved_usd=Decimal(0),
        unknown_outcomes=unknown,
        may_have_cost_usd=None if extra is None else Decimal(extra),
    )
    assert bounds(costs) == words
