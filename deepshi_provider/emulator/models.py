"""Models: the sizes of their pictures, their limits and their prices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from .fields import Fields

Style = Literal["pixels", "tier", "ratio", "preset"]
QUALITIES = ("low", "medium", "high")
DEFAULT_QUALITY = "medium"
MIN_SIDE, MAX_SIDE = 16, 4096
MAX_SEED = 2**32 - 1
TIERS = {"1K": 1, "2K": 2, "4K": 4}
RATIOS = ("1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "21:9")


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """The size of the pictures, in pixels, and its name in the price list."""

    width: int
    height: int
    tier: str | None = None

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def pixels(self) -> int:
        """Number of pixels of one picture."""
        return self.width * self.height


Price = Callable[[Sizing, str], Decimal]
"""Sizing and quality -> USD for one picture."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """One image model.

    :param formats: the accepted output formats; the first is the default.
    :param max_n: pictures per request.
    :param max_prompt: characters.
    :param max_images: input images of an edit; 0 = it cannot edit.
    :param price: USD for one picture.
    :param image_price: USD for one input image of an edit.
    :param presets: ``image_size`` -> pixels; the first is the default.
    :param revises: whether answers contain a ``revised_prompt``.
    """

    id: str
    style: Style
    price: Price
    max_prompt: int
    max_n: int = 4
    max_images: int = 0
    image_price: Decimal = Decimal(0)
    formats: tuple[str, ...] = ("png", "jpeg", "webp")
    ratios: tuple[str, ...] = RATIOS
    tiers: tuple[str, ...] = ("1K", "2K", "4K")
    presets: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    has_quality: bool = False
    has_seed: bool = False
    revises: bool = False

    def sizing(self, fields: Fields) -> Sizing:
        """Return the size from the fields of this model's style; other fields are ignored."""
        if self.style == "pixels":
            width = fields.integer("width", MIN_SIDE, MAX_SIDE, self.id)
            height = fields.integer("height", MIN_SIDE, MAX_SIDE, self.id)
            return Sizing(width=width or 1024, height=height or 1024)
        if self.style == "preset":
            preset = fields.choice("image_size", self.presets, self.id) or next(iter(self.presets))
            width, height = self.presets[preset]
            return Sizing(width=width, height=height, tier=preset)
        ratio = fields.choice("aspect_ratio", self.ratios, self.id) or "1:1"
        tier = None
        if self.style == "tier":
            tier = fields.choice("resolution", self.tiers, self.id) or self.tiers[0]
        width, height = proportioned(ratio, TIERS[tier or "1K"])
        return Sizing(width=width, height=height, tier=tier)

    def cost(self, sizing: Sizing, quality: str, *, n: int, input_images: int) -> Decimal:
        """Return the price of a whole request, in USD."""
        return n * self.price(sizing, quality) + input_images * self.image_price


def proportioned(ratio: str, scale: int) -> tuple[int, int]:
    """Return width and height for about ``(1024 x scale)²`` pixels, both multiples of 16."""
    across, down = (int(part) for part in ratio.split(":"))
    width = round(1024 * scale * (across / down) ** 0.5 / 16) * 16
    height = round(1024 * scale * (down / across) ** 0.5 / 16) * 16
    return width, height
