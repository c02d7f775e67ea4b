"""What a task read and made: reported to Airflow's lineage, and kept for OpenLineage and for links.

The worker reports it in both modes, since Airflow drops lineage from triggers.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.hooks.blocking import run_here
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.directories import STORES
from deepshi_provider.jobs.outcome import BatchOutcome, ImageOutcome
from deepshi_provider.reports.lineage import MOST, Lineage
from deepshi_provider.store.locations import locate

log = logging.getLogger(__name__)


def report_lineage(
    deepshi_conn_id: str, ended: ImageOutcome | BatchOutcome, costs: CostSheet, inputs: Callable[[], Iterable[str]]
) -> Lineage:
    """Report the lineage to Airflow's collector and return it. A failure here does not fail the task.

    :param inputs: returns the task's inputs, as paths or URIs.
    """
    try:
        lineage = _lineage(ended, costs, inputs())
        if not _has_readers():
            return lineage
        hook = DeepshiHook(deepshi_conn_id)
        collector = get_hook_lineage_collector()  # type: ignore[no-untyped-call] # it is not annotated
        for uri in lineage.inputs:
            collector.add_input_asset(hook, uri=uri)
        for uri in lineage.outputs:
            collector.add_output_asset(hook, uri=uri)
    except Exception:  # from Airflow's plugins: the images are paid for and in place, and the task must not fail
        log.warning("The lineage of the images was not reported", exc_info=True)
        return Lineage(costs=costs)
    return lineage


def _has_readers() -> bool:
    """Return whether a plugin reads lineage.

    Airflow's collector loads the assets of all providers even if no plugin does, which takes half of a small task's
    processor time.
    """
    try:
        from airflow.sdk.plugins_manager import get_hook_lineage_readers_plugins
    except ImportError:  # before Airflow 3.2
        return True
    return bool(get_hook_lineage_readers_plugins())


def _lineage(ended: ImageOutcome | BatchOutcome, costs: CostSheet, inputs: Iterable[str]) -> Lineage:
    images, count = _images_of(ended, costs.output_conn_id)
    outputs = [image["uri"] for image in images]
    if outputs and count > MOST:
        outputs = [outputs[0].rpartition("/")[0]]
    if outputs and isinstance(ended, BatchOutcome):
        outputs.append(str(ended.manifest_uri))
    return Lineage(
        costs=costs,
        inputs=tuple(dict.fromkeys(_without_secrets(uri) for uri in islice(inputs, MOST))),
        outputs=tuple(dict.fromkeys(outputs)),
        images=tuple({name: i[name] for name in ("uri", "sha256", "model", "width", "height")} for i in images[:MOST]),
        image_count=count,
    )


def _without_secrets(uri: str) -> str:
    """Return an input's URI without connection id, user and signature."""
    plain = locate(uri).uri
    return plain.partition("?")[0] if plain.startswith(("http://", "https://")) else plain


def _images_of(ended: ImageOutcome | BatchOutcome, conn_id: str | None) -> tuple[list[dict[str, Any]], int]:
    """Return the first images, one more than the report holds, and the number of all images."""
    if isinstance(ended, ImageOutcome):
        return [{**image.model_dump(), "model": ended.model} for image in ended.images], ended.image_count
    rows = ended.image_count
    if not ended.manifest_uri or not rows + ended.failed:
        return [], 0
    store, name = STORES.object_at(ended.manifest_uri, conn_id)
    images = run_here(store.process(name, functools.partial(_first_images, name)))
    return images, max(rows, len(images))


def _first_images(name: str, file: BinaryIO) -> list[dict[str, Any]]:
    """Return the first images of a manifest, also those of rows that failed although their images came."""
    from deepshi_provider.batch.manifest_file import all_lines  # not for single requests

    unknown = {"sha256": None, "width": None, "height": None}
    images = (
        {
            "model": line["model"],
            **({about: line[about] for about in unknown} if uri == line["uri"] else unknown),
            "uri": uri,
        }
        for line in all_lines(name, file, ("uri", "model", *unknown))
        for uri in line["uris"]
    )
    return list(islice(images, MOST + 1))


def dataset_of(uri: str) -> tuple[str, str]:
    """Return an object's namespace and name by OpenLineage's rules.

    https://openlineage.io/docs/spec/naming
    """
    parts = urlsplit(uri, allow_fragments=False)
    if parts.scheme == "file":
        return "file", parts.path
    # An object key may contain "?".
    key = uri.split("://", 1)[1].partition("/")[2]
    return f"{parts.scheme}://{parts.netloc}", key or "/"
