"""The names of datasets in lineage, the images of batches, and that lineage fails no paid task."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.jobs.outcome import ImageOutcome
from deepshi_provider.journal.entries import Owner
from deepshi_provider.operators.images import DeepshiGenerateImageOperator
from deepshi_provider.operators.lineage import dataset_of, report_lineage
from deepshi_provider.reports.lineage import Lineage
from tests.jobs.test_postcheck import WIDE
from tests.support.batches import batch, rows_of
from tests.support.counts import posts
from tests.support.places import Place
from tests.support.tasks import TaskInstance, context_of, run_try

FORMATS = pytest.mark.parametrize("manifest_format", ["jsonl", "parquet"])


class Careless(DeepshiGenerateImageOperator):
    """An operator whose inputs raise an error."""

    def input_uris(self) -> list[str]:
        raise RuntimeError("nobody knows")


@pytest.mark.parametrize(
    ("uri", "dataset"),
    [
        ("s3://bucket/a/b.png", ("s3://bucket", "a/b.png")),
        ("s3://bucket/a?b#c.png", ("s3://bucket", "a?b#c.png")),
        ("gs://bucket/a.png", ("gs://bucket", "a.png")),
        ("file:///data/a.png", ("file", "/data/a.png")),
        ("s3://bucket", ("s3://bucket", "/")),
    ],
)
def test_datasets_are_named_as_openlineage_specifies(uri: str, dataset: tuple[str, str]) -> None:
    assert dataset_of(uri) == dataset


def test_inputs_are_listed_once_and_without_secrets() -> None:
    owner = Owner(dag_id="d", run_id="r", task_id="t")
    costs = CostSheet(ended=True, operation="edit", dag_id="d", run_id="r", task_id="t")
    inputs = ["s3://conn@bucket/a.png", "s3://bucket/a.png", "/data/b.png", "https://me:pw@host/c.png?X-Signature=1"]
    lineage = report_lineage(
        "unused", ImageOutcome(status="failed", owner=owner, manifest_uri=""), costs, lambda: inputs
    )
    assert lineage.inputs == ("s3://bucket/a.png", "file:///data/b.png", "https://host/c.png")


def test_failing_lineage_fails_no_paid_task(emulator: Emulator, images_dir: Path) -> None:
    operator = Careless(task_id="boat", prompt="a boat", width=64, height=48, output_uri=images_dir.as_uri())
    ti = run_try(operator)
    assert (posts(emulator), len(ti.xcoms["return_value"]["images"])) == (1, 1)


def lineage_of(place: Place, requests: list[dict[str, Any]], **fields: Any) -> tuple[Lineage, set[str]]:
    """Run a batch, which may fail; return its lineage and the names of its links."""
    operator = batch(place, requests, **fields).prepare_for_execution()
    context = context_of(TaskInstance(task_id="catalog"))
    operator.render_template_fields(context)
    with contextlib.suppress(AirflowFailException):
        operator.execute(context)
    assert operator.lineage
    return operator.lineage, {link.name for link in operator.operator_extra_links}


@FORMATS
def test_lineage_of_a_batch_has_its_images_and_its_manifest(
    emulator: Emulator, local: Place, manifest_format: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        *rows_of(2),
        {"key": "two", "prompt": "cups", "model": "flux-2-pro", "n": 2},
        {"key": "bad", "prompt": "no"},
    ]
    emulator.fault("status", status=400, prompt="no", code="PROMPT_TOO_LONG")
    lineage, _ = lineage_of(local, rows, manifest_format=manifest_format, on_error="partial")
    (manifest,) = [name for name in local.names() if name.startswith("manifest-")]
    names = ["row-0-0.png", "row-1-0.png", "two-0.png", "two-1.png"]
    assert lineage.outputs == tuple(f"{local.uri}/{name}" for name in (*names, manifest))
    assert [image["uri"] for image in lineage.images] == [f"{local.uri}/{name}" for name in names]
    assert lineage.image_count == 4
    first, *_, last = lineage.images
    assert (len(first.pop("sha256")), first) == (
        64,
        {"uri": f"{local.uri}/row-0-0.png", "model": "deepshi-banana-pro", "width": 64, "height": 48},
    )
    assert (last["sha256"], last["model"], last["width"]) == (None, "flux-2-pro", None)
    assert [r for r in caplog.records if r.exc_info or "lineage" in r.getMessage()] == []


@FORMATS
def test_lineage_has_paid_images_of_rows_that_failed(emulator: Emulator, local: Place, manifest_format: str) -> None:
    wide = {"key": "wide", "prompt": "a boat", **WIDE}
    lineage, _ = lineage_of(local, [wide], manifest_format=manifest_format, on_mismatch="fail")
    assert [image["uri"] for image in lineage.images] == [f"{local.uri}/wide-0.png"]
    assert (lineage.image_count, posts(emulator)) == (1, 1)


@pytest.mark.s3
@FORMATS
def test_a_batch_has_links_to_its_images(emulator: Emulator, s3_place: Place, manifest_format: str) -> None:
    _, links = lineage_of(s3_place, rows_of(1), manifest_format=manifest_format)
    assert links == {"Image", "Image directory"}
