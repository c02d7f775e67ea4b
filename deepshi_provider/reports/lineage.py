"""Inputs and outputs of a task, as plain data for lineage and links."""

from __future__ import annotations

from typing import Any, NamedTuple

from deepshi_provider.costs.sheet import CostSheet

#: Maximum number of images listed one by one; if there are more, only their directory is. Airflow allows 100 per task.
MOST = 50


class Lineage(NamedTuple):
    """Inputs, outputs and costs of a task.

    :param costs: cost sheet of the task instance over all its tries.
    :param inputs: URIs.
    :param outputs: URIs.
    :param images: ``{"uri", "sha256", "model", "width", "height"}`` of the first :data:`MOST` images; the hash and the
        pixels are ``None`` for all but the first image of a batch's row.
    :param image_count: number of all images, including reused ones; for a batch of more than :data:`MOST` images, the
        number of its rows, each of which may have several images.
    """

    costs: CostSheet
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    images: tuple[dict[str, Any], ...] = ()
    image_count: int = 0
