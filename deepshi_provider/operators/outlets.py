"""Asset events of an image task's outlets: images, cost and manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from airflow.sdk import Asset, AssetAlias, Context

from deepshi_provider.api.texts import storable


def add_asset_events(
    context: Context,
    outlets: Iterable[Any],
    images: Callable[[], list[dict[str, Any]]],
    sums: dict[str, Any],
    labels: dict[str, Any],
) -> None:
    """Add the result to the asset events of a task's outlets.

    :param images: returns ``{"uri", …}`` for each image; each :class:`AssetAlias` gets one asset per image.
    :param sums: becomes the ``extra`` of the event of each :class:`Asset`.
    :param labels: ``{"map_index", "key", "metadata"}``, added to every event; a row's own key takes precedence.
    """
    events = context["outlet_events"]
    for outlet in outlets:
        if isinstance(outlet, AssetAlias):
            for image in images():
                events[outlet].add(Asset(image["uri"]), extra=storable({**labels, **image}))
        elif isinstance(outlet, Asset):
            events[outlet].extra.update(storable({**sums, **labels}))
