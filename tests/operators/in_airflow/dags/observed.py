"""Tasks for the tests of metrics, lineage and links."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector
from airflow.sdk import DAG, Asset, Context, Metadata, task

from deepshi_provider.operators.images import (
    DeepshiEditImageOperator,
    DeepshiGenerateImageOperator,
    DeepshiGenerateImagesOperator,
)

SMALL: dict[str, Any] = {"width": 64, "height": 48}
ON_S3: dict[str, Any] = {
    "output_uri": "s3://images/{{ run_id }}/{{ ti.task_id }}",
    "output_conn_id": "s3_test",
}


STOCK = Asset("stock")


def keep_hook_lineage(context: Context) -> None:
    """Write the content of Airflow's lineage collector at the end of the task to a file."""
    collected = get_hook_lineage_collector().collected_assets  # type: ignore[no-untyped-call] # it is not annotated
    uris = {side: [info.asset.uri for info in getattr(collected, side)] for side in ("inputs", "outputs")}
    Path(os.environ["HOOK_LINEAGE"], context["ti"].task_id).write_text(json.dumps(uris))


with DAG(
    "observed",
    schedule=None,
    default_args={"on_success_callback": keep_hook_lineage, "on_failure_callback": keep_hook_lineage},
):
    # Model and operation distinguish the metrics of the tasks.
    blocking = DeepshiGenerateImageOperator(
        task_id="blocking", prompt="a blocking boat", model="grok-imagine", n=2, **ON_S3
    )
    DeepshiGenerateImageOperator(
        task_id="deferred", prompt="a deferred boat", model="deepshi-image-1", deferrable=True, **SMALL, **ON_S3
    )
    DeepshiEditImageOperator(
        task_id="edited",
        prompt="make it blue",
        images=blocking.output,
        model="deepshi-image-1",
        deferrable=True,
        **SMALL,
        **ON_S3,
    )
    DeepshiGenerateImageOperator(task_id="local", prompt="a local boat", **SMALL)
    for name, is_deferred in (("lost", False), ("lost_deferred", True)):
        DeepshiGenerateImageOperator(
            task_id=name, prompt="a lost boat", max_resends=0, deferrable=is_deferred, **SMALL, **ON_S3
        )
    DeepshiGenerateImagesOperator(
        task_id="few",
        requests=[{"key": key, "prompt": f"a {key} boat"} for key in ("red", "green", "refused")],
        **SMALL,
        **ON_S3,
    )
    DeepshiGenerateImagesOperator(
        task_id="many",
        requests=[{"prompt": f"one of many boats, {number}"} for number in range(60)],
        model="flux-2-pro",
        deferrable=True,
        **SMALL,
        **ON_S3,
    )


with DAG("deliveries", schedule=None):

    @task(outlets=[STOCK])
    def deliver() -> Any:
        """Publish new products."""
        mug = {"key": "007", "prompt": "a delivered mug"}
        rows: Any = [mug, {"key": "lamp", "prompt": "a 'delivered' lamp \u2615"}]
        yield Metadata(STOCK, {"requests": rows})

    deliver()

with DAG("delivered", schedule=STOCK):
    EVENT = "(triggering_asset_events.values() | first | last)"
    for name, requests in (("as_text", f"{{{{ {EVENT}.extra }}}}"), ("as_json", f"{{{{ {EVENT}.extra | tojson }}}}")):
        DeepshiGenerateImagesOperator(task_id=name, requests=requests, deferrable=name == "as_json", **SMALL)

with DAG("delivered_native", schedule=STOCK, render_template_as_native_obj=True):
    DeepshiGenerateImagesOperator(task_id="as_event", requests=f"{{{{ {EVENT} }}}}", **SMALL)
