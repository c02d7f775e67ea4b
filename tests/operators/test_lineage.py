"""The names of datasets in lineage, and that lineage fails no paid task."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.jobs.outcome import ImageOutcome
from deepshi_provider.journal.entries import Owner
from deepshi_provider.operators.images import DeepshiGenerateImageOperator
from deepshi_provider.operators.lineage import dataset_of, report_lineage
from tests.support.counts import posts
from tests.support.tasks import run_try


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
