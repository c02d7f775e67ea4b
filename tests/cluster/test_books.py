"""What ``make cluster`` says of two sums."""

from __future__ import annotations

from decimal import Decimal

from tests.cluster.books import comparison


def test_sums_that_differ_are_said_to_differ() -> None:
    assert comparison(Decimal("0.10"), Decimal("0.1")) == "Tasks say $0.10, the server took $0.1."
    assert comparison(Decimal("0.229342"), Decimal("0.141540")) == (
        "Tasks say $0.229342, the server took $0.141540. They differ by $0.087802."
    )
