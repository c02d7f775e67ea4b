"""The comparison of two sums in the output of ``make cluster``."""

from __future__ import annotations

from decimal import Decimal

from tests.cluster.books import comparison


def test_the_comparison_names_the_difference_of_sums() -> None:
    assert comparison(Decimal("0.10"), Decimal("0.1")) == "Tasks say $0.10, the server took $0.1."
    assert comparison(Decimal("0.229342"), Decimal("0.141540")) == (
        "Tasks say $0.229342, the server took $0.141540. They differ by $0.087802."
    )
