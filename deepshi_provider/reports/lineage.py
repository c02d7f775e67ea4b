"""What a task read and made, as lineage and links show it: plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deepshi_provider.costs.sheet import CostSheet

#: Most images that are named one by one; of more, only their directory is. Airflow takes 100 for a whole task.
MOST = 50


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What a task read and made, and what it has cost.

    :param costs: of the task instance over all its tries.
    :param inputs: URIs.
    :param outputs: URIs.
    :param images: ``{"uri", "sha256", "model", "width", "height"}`` of the first :data:`MOST` images; the hash and the
        pixels are ``None`` for all but the first image of a batch's row.
    :param image_count: of all images, those that were reused included; if they are more than :data:`MOST`, of a batch's
        rows, each of which may have several.
    """

    costs: CostSheet
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    images: tuple[dict[str, Any], ...] = ()
    image_count: int = 0
