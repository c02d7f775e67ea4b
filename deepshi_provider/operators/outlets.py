"""Asset events of an image task's outlets: images, cost and manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from airflow.sdk import Asset, AssetAlias, Context


def add_asset_events(
    context: Context,
    outlets: Iterable[Any],
    images: Callable[[], list[dict[str, Any]]],
    sums: dict[str, Any],
    labels: dict[str, Any],
) -> None:
    """Put the result into the asset events of a task's outlets.

    :param images: returns ``{"uri", …}`` of each image; each :class:`AssetAlias` gets one asset for each of them.
    :param sums: becomes the ``extra`` of the event of each :class:`Asset`.
    :param labels: ``{"map_index", "key", "metadata"}``, added to every event; a row's own key counts more.
    """
    events = context["outlet_events"]
    for outlet in outlets:
        if isinstance(outlet, AssetAlias):
            for image in images():
                events[outlet].add(Asset(image["uri"]), extra={**labels, **image})
        elif isinstance(outlet, Asset):
            events[outlet].extra.update({**sums, **labels})
