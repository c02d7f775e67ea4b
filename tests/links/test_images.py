"""The links of a task, depending on the store of its images."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from airflow.sdk import BaseOperator, BaseOperatorLink

from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.links.images import DeepshiDirectoryLink, DeepshiImageLink
from deepshi_provider.operators.images import DeepshiGenerateImageOperator
from deepshi_provider.reports.lineage import Lineage
from tests.support.places import Place, S3Place
from tests.support.tasks import TaskInstance, context_of, generate

#: Links use only the operator.
KEY: Any = None


def links(uri: str, conn_id: str | None = None) -> tuple[str, str]:
    """The links of a task that made one image."""
    operator = generate()
    costs = CostSheet(
        ended=True,
        operation="generate",
        dag_id="d",
        run_id="r",
        task_id="t",
        output_conn_id=conn_id,
    )
    image: dict[str, Any] = {"uri": uri, "sha256": "0" * 64, "model": "m", "width": 1, "height": 1}
    operator.lineage = Lineage(costs=costs, images=(image,), image_count=1)
    return tuple(link().get_link(operator, ti_key=KEY) for link in (DeepshiImageLink, DeepshiDirectoryLink))  # type: ignore[return-value] # two of them


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> str:
    """A connection to Amazon's S3 with a key; it is never contacted."""
    connection = {"conn_type": "aws", "login": "AKIATEST", "password": "secret", "extra": {"region_name": "us-east-1"}}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_LINKS", json.dumps(connection))
    return "aws_links"


def test_amazons_store_signs_and_has_a_console(aws: str) -> None:
    image, directory = links("s3://bucket/a run/image-0.png", aws)
    parts = urlsplit(image)
    query = parse_qs(parts.query)
    assert (parts.scheme, parts.path.endswith("/a%20run/image-0.png")) == ("https", True)
    assert parts.hostname is not None
    assert parts.hostname.endswith(".amazonaws.com")
    assert (query["X-Amz-Algorithm"], query["X-Amz-Expires"]) == (["AWS4-HMAC-SHA256"], ["604800"])
    assert directory == "https://s3.console.aws.amazon.com/s3/buckets/bucket?prefix=a%20run/"
    assert "secret" not in image


def test_store_without_a_key_has_the_console_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AIRFLOW_CONN_AWS_NOBODY", json.dumps({"conn_type": "aws"}))
    image, directory = links("s3://bucket/run/image-0.png", "aws_nobody")
    assert image == "https://s3.console.aws.amazon.com/s3/object/bucket?prefix=run/image-0.png"
    assert directory == "https://s3.console.aws.amazon.com/s3/buckets/bucket?prefix=run/"


def test_google_has_a_console() -> None:
    assert links("gs://bucket/run/image-0.png") == (
        "https://console.cloud.google.com/storage/browser/_details/bucket/run/image-0.png",
        "https://console.cloud.google.com/storage/browser/bucket/run/",
    )


@pytest.mark.parametrize("uri", ["file:///tmp/image-0.png", "memory://bucket/image-0.png", "sftp://host/a/image-0.png"])
def test_other_stores_have_none(uri: str) -> None:
    assert links(uri) == ("", "")


def test_store_with_a_deleted_connection_has_none_and_fails_nothing() -> None:
    assert links("s3://bucket/run/image-0.png", "gone") == ("", "")


def test_task_without_images_has_none() -> None:
    operator = generate()
    assert DeepshiImageLink().get_link(operator, ti_key=KEY) == ""
    assert DeepshiDirectoryLink().get_link(operator, ti_key=KEY) == ""


def kept_links(kind: type[DeepshiGenerateImageOperator] = DeepshiGenerateImageOperator, **fields: Any) -> list[str]:
    """Return the names of the links that Airflow's task runner stores at the end of a task."""
    task = kind(task_id="t", prompt="a red boat", **fields).prepare_for_execution()
    task.execute(context_of(TaskInstance(task_id=task.task_id)))
    return [link.name for link in task.operator_extra_links]


def test_task_whose_images_are_local_files_keeps_no_empty_links(emulator: Emulator, local: Place) -> None:
    """Airflow stores an XCom for each link, even for an empty one."""
    assert kept_links(output_uri=local.uri) == []


@pytest.mark.s3
def test_task_whose_images_are_in_an_object_store_keeps_both_links(emulator: Emulator, s3_place: S3Place) -> None:
    names = kept_links(output_uri=s3_place.uri, output_conn_id=s3_place.conn_id)
    assert names == ["Image", "Image directory"]


class DocumentationLink(BaseOperatorLink):
    name = "Documentation"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        return "https://example.com"


class WithoutSignedUrl(DeepshiGenerateImageOperator):
    """The class of docs/observability.md: no URL that anyone can open becomes an XCom."""

    operator_extra_links = ()


class WithDocumentation(DeepshiGenerateImageOperator):
    operator_extra_links = (DeepshiDirectoryLink(), DocumentationLink())


@pytest.mark.s3
def test_a_subclass_chooses_its_links(emulator: Emulator, s3_place: S3Place) -> None:
    remote = {"output_uri": s3_place.uri, "output_conn_id": s3_place.conn_id}
    assert kept_links(WithoutSignedUrl, **remote) == []
    assert kept_links(WithDocumentation, **remote) == ["Image directory", "Documentation"]


def test_links_of_a_subclass_stay_where_there_is_no_image_to_open(emulator: Emulator, local: Place) -> None:
    assert kept_links(WithDocumentation, output_uri=local.uri) == ["Documentation"]


def test_all_operators_have_both() -> None:
    names = [link.name for link in DeepshiGenerateImageOperator(task_id="t", prompt="p").operator_extra_links]
    assert names == ["Image", "Image directory"]
