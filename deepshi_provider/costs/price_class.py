"""Price classes: what requests of the same price have in common."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import NamedTuple

from deepshi_provider.api.requests import EditRequest, GenerateRequest

#: Fields that determine the price, together with operation, model and number of input images. The prompt does not.
_PRICED = ("n", "width", "height", "aspect_ratio", "resolution", "image_size", "quality")
#: Maximum characters of a price class; longer ones are cut and end with a hash.
_LONGEST_CLASS = 200


class PriceRange(NamedTuple):
    """The lowest and highest cost of a price class, in USD."""

    low: Decimal
    high: Decimal

    def widened(self, cost_usd: Decimal) -> PriceRange:
        """Return the range extended to include a cost."""
        return PriceRange(min(self.low, cost_usd), max(self.high, cost_usd))


def price_class(request: GenerateRequest) -> str:
    """Return the price class of a request, such as ``generate nano-banana-2 n=1 resolution=1K``."""
    fields = {name: getattr(request, name) for name in _PRICED}
    inputs = {"images": len(request.images)} if isinstance(request, EditRequest) else {}
    parts = [f"{name}={value}" for name, value in (fields | inputs).items() if value is not None]
    name = " ".join([request.operation, request.model, *parts])
    if len(name) <= _LONGEST_CLASS:
        return name
    return f"{name[:_LONGEST_CLASS]} {hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
