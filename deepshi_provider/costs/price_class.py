"""What requests of one price have in common."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import NamedTuple

from deepshi_provider.api.requests import EditRequest, GenerateRequest

#: Fields that set the price, with the operation, the model and the number of input images; the prompt does not.
_PRICED = ("n", "width", "height", "aspect_ratio", "resolution", "image_size", "quality")
#: Longest name of a price class, in characters; what is longer ends with a hash.
_LONGEST_CLASS = 200


class PriceRange(NamedTuple):
    """What requests of one price class have cost, in USD."""

    low: Decimal
    high: Decimal

    def widened(self, cost_usd: Decimal) -> PriceRange:
        """Return the range with one more cost in it."""
        return PriceRange(min(self.low, cost_usd), max(self.high, cost_usd))


def price_class(request: GenerateRequest) -> str:
    """Return what requests of one price have in common, such as ``generate nano-banana-2 n=1 resolution=1K``."""
    fields = {name: getattr(request, name) for name in _PRICED}
    inputs = {"images": len(request.images)} if isinstance(request, EditRequest) else {}
    parts = [f"{name}={value}" for name, value in (fields | inputs).items() if value is not None]
    name = " ".join([request.operation, request.model, *parts])
    if len(name) <= _LONGEST_CLASS:
        return name
    return f"{name[:_LONGEST_CLASS]} {hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
