"""What a task instance has paid over all its tries."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from deepshi_provider.costs.sheet import CostSheet, total


class Bill:
    """What a task instance has paid over all its tries.

    :ivar usd: the sum; ``None`` until the store was asked, and if there are costs and none was told.
    :ivar unrecorded: model and cost of each paid sending whose record the failing store did not take.
    :ivar costs: the cost sheet as far as it is known without the store, if the batch was cancelled.
    """

    def __init__(self) -> None:
        self.usd: Decimal | None = None
        self.unrecorded: list[tuple[str, Decimal]] = []
        self.costs: CostSheet | None = None
        self._is_empty = True

    def begin(self, costs: Iterable[Decimal | None]) -> None:
        """Take note of what earlier tries have paid."""
        earlier = list(costs)
        self.usd = total(earlier)
        self._is_empty = not earlier

    def add(self, cost: Decimal | None) -> None:
        """Take note of one sending."""
        self.usd = total([cost] if self._is_empty else [self.usd, cost])
        self._is_empty = False
