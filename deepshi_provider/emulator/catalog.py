"""The models that the emulator offers.

**Every price, cap and restriction below is invented.** The names and sizing styles are the API's;
the numbers only have the right order of magnitude, and many decimal places so that sums are a
real test.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

from .models import Model, Price, Sizing


def per_pixels(price: str, pixels: int) -> Price:
    """Return a price of ``price`` USD for ``pixels``, in proportion, to 12 decimal places."""

    def cost(sizing: Sizing, _quality: str) -> Decimal:
        exact = Decimal(price) * sizing.pixels / pixels
        return exact.quantize(Decimal("1e-12"), rounding=ROUND_HALF_EVEN)

    return cost


def per_tier(prices: dict[str, str]) -> Price:
    """Return a price by resolution tier or preset; ``""`` stands for all others."""
    return lambda sizing, _quality: Decimal(prices.get(sizing.tier or "", prices[""]))


def flat(price: str) -> Price:
    """Return the same price for every picture."""
    return lambda _sizing, _quality: Decimal(price)


def by_quality(low: str, medium: str, high: str) -> Price:
    """Return a price by quality; pictures that are not square cost 50 % more."""
    prices = {"low": Decimal(low), "medium": Decimal(medium), "high": Decimal(high)}

    def cost(sizing: Sizing, quality: str) -> Decimal:
        factor = Decimal(1) if sizing.width == sizing.height else Decimal("1.5")
        return prices[quality] * factor

    return cost


GPT_PRESETS = {
    "auto": (1024, 1024),
    "1024x1024": (1024, 1024),
    "1536x1024": (1536, 1024),
    "1024x1536": (1024, 1536),
}
SEEDREAM_PRESETS = {
    "auto_2K": (2048, 2048),
    "auto_4K": (4096, 4096),
    "1024x1024": (1024, 1024),
    "2048x2048": (2048, 2048),
    "2560x1440": (2560, 1440),
    "1440x2560": (1440, 2560),
}

IMAGE_MODELS = (
    Model(
        id="deepshi-banana-pro",
        style="pixels",
        price=per_pixels("0.000135", 512 * 512),
        max_prompt=8_000,
        max_n=1,
        has_seed=True,
    ),
    Model(
        id="deepshi-image-1",
        style="pixels",
        price=per_pixels("0.0041007", 1024 * 1024),
        max_prompt=16_000,
        max_n=1,
        max_images=5,
        image_price=Decimal("0.000300000017"),
    ),
    Model(
        id="flux-2-pro",
        style="pixels",
        price=per_pixels("0.030000000001", 1024 * 1024),
        max_prompt=10_000,
        max_n=2,
        max_images=8,
        image_price=Decimal("0.015"),
        formats=("png", "jpeg"),
        has_seed=True,
    ),
    Model(
        id="nano-banana-2",
        style="tier",
        price=per_tier({"2K": "0.0585", "4K": "0.117", "": "0.039"}),
        max_prompt=32_000,
        max_images=14,
        formats=("png",),
    ),
    Model(
        id="nano-banana-pro",
        style="tier",
        price=per_tier({"2K": "0.150000000003", "4K": "0.24", "": "0.134000000007"}),
        max_prompt=50_000,
        max_n=2,
        max_images=14,
        image_price=Decimal("0.0011"),
        formats=("png", "jpeg"),
    ),
    Model(
        id="grok-imagine-quality",
        style="tier",
        price=per_tier({"2K": "0.0712345678", "": "0.0512345678"}),
        max_prompt=12_000,
        max_images=3,
        tiers=("1K", "2K"),
        formats=("jpeg",),
    ),
    Model(
        id="grok-imagine",
        style="ratio",
        price=flat("0.0200000009"),
        max_prompt=8_000,
        max_images=1,
        formats=("jpeg",),
    ),
    Model(
        id="seedream-4.5",
        style="preset",
        price=per_tier({"auto_4K": "0.0800001", "": "0.0400001"}),
        max_prompt=10_000,
        max_images=10,
        image_price=Decimal("0.0000001"),
        presets=SEEDREAM_PRESETS,
        has_seed=True,
    ),
    Model(
        id="gpt-image-1.5",
        style="preset",
        price=by_quality("0.009", "0.034", "0.133"),
        max_prompt=32_000,
        max_images=10,
        image_price=Decimal("0.002"),
        presets=GPT_PRESETS,
        has_quality=True,
    ),
    Model(
        id="gpt-image-2",
        style="preset",
        price=by_quality("0.0110000001", "0.0420000001", "0.1670000001"),
        max_prompt=32_000,
        max_images=14,
        image_price=Decimal("0.0023"),
        presets=GPT_PRESETS,
        has_quality=True,
        revises=True,
    ),
)

IMAGE_MODELS_BY_ID = {model.id: model for model in IMAGE_MODELS}
TEXT_MODELS = ("deepshi-chat-large", "deepshi-chat-small", "deepshi-embed-1")
