"""What a task reports to OpenLineage; imported only when its provider asks.

The facet's schema is docs/schemas/DeepshiImagesRunFacet.json.
"""

from __future__ import annotations

from typing import Any

import attr
from airflow.providers.common.compat.openlineage.facet import Dataset, RunFacet
from airflow.providers.openlineage.extractors import OperatorLineage

from deepshi_provider.operators.lineage import dataset_of
from deepshi_provider.reports.lineage import Lineage

#: The facet's name in events.
FACET = "deepshi_images"


@attr.define(kw_only=True)
class DeepshiImagesRunFacet(RunFacet):
    """Images and costs of a task run; field names are those of the task's XComs.

    :param operation: ``generate``, ``edit`` or ``batch``.
    :param models: the cost sheet's ``models``: costs and images per model.
    :param images: ``{"uri", "sha256", "model", "width", "height"}`` of the first 50.
    :param image_count: number of all images, including reused ones.
    :param cost_usd: of the task instance over all its tries, as text, exact; ``None`` if the API reported no cost. A
        lower bound if ``untold`` or ``unknown_outcomes`` is not 0.
    :param untold: paid requests whose cost the API did not report, or not all of it.
    :param saved_usd: the original cost of the reused images.
    :param unknown_outcomes: attempts that may have been paid for and are not in ``cost_usd``.
    :param may_have_cost_usd: their possible cost in addition to ``cost_usd``, as text; ``None`` if unknown.
    """

    operation: str
    models: list[dict[str, Any]]
    images: list[dict[str, Any]]
    image_count: int
    cost_usd: str | None
    untold: int
    saved_usd: str
    unknown_outcomes: int
    may_have_cost_usd: str | None

    @staticmethod
    def _get_schema() -> str:
        return "urn:airflow-provider-deepshi:DeepshiImagesRunFacet:1-0-0"


def operator_lineage(lineage: Lineage) -> OperatorLineage[Any, Any]:
    """Return datasets and the run facet."""
    costs = lineage.costs.model_dump(mode="json")
    shown = ("operation", "models", "cost_usd", "untold", "saved_usd", "unknown_outcomes", "may_have_cost_usd")
    facet = DeepshiImagesRunFacet(
        images=list(lineage.images), image_count=lineage.image_count, **{name: costs[name] for name in shown}
    )
    return OperatorLineage(
        inputs=[_dataset(uri) for uri in lineage.inputs],
        outputs=[_dataset(uri) for uri in lineage.outputs],
        run_facets={FACET: facet},
    )


def _dataset(uri: str) -> Dataset:
    namespace, name = dataset_of(uri)
    return Dataset(namespace=namespace, name=name)
