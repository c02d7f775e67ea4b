"""Tables on the pages match the code."""

from __future__ import annotations

import inspect
import re
from decimal import Decimal

import pytest

from deepshi_provider import exceptions
from deepshi_provider.client.settings import Settings
from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.get_provider_info import get_provider_info
from deepshi_provider.operators.cost_report import DeepshiCostReportOperator
from deepshi_provider.operators.images import (
    DeepshiEditImageOperator,
    DeepshiGenerateImageOperator,
    DeepshiGenerateImagesOperator,
)
from deepshi_provider.operators.lifecycle import ImageTask
from tests.docs.pages import DOCS, ROOT, table


def names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def tree(kind: type[DeepshiError]) -> list[type[DeepshiError]]:
    return [found for child in kind.__subclasses__() for found in (child, *tree(child))]


def test_each_exception_is_explained() -> None:
    listed = [name for row in table(DOCS / "errors.md", "exception") for name in names(row[0])]
    assert set(listed) == {kind.__name__ for kind in tree(DeepshiError) if kind.__module__ == exceptions.__name__}


@pytest.mark.parametrize("row", table(DOCS / "errors.md", "exception"), ids=lambda row: f"{row[0]} {row[2]}")
def test_errors_are_charged_and_retried_as_on_the_page(row: list[str]) -> None:
    (name,) = names(row[0])
    kind = getattr(exceptions, name)
    _, _, charged, retried, advice = row
    assert (retried != "no") == kind.retryable
    assert charged == kind.default_charged or name in ("ServerFailed", "StorageFailed", "RowsFailed")
    assert (retried == "within `max_resends`") == (charged in ("yes", "unknown") and kind.retryable)
    assert advice


def test_each_field_of_the_connection_is_explained() -> None:
    rows = {names(row[0])[0]: row for row in table(DOCS / "connection.md", "key")}
    (connection_type,) = get_provider_info()["connection-types"]
    assert list(rows) == list(connection_type["conn-fields"])
    for name, (_, _, default) in rows.items():
        known = Settings.model_fields[name].default
        shown = {"none": None, "the store's own defaults": None, "true": True, "UTC": "UTC"}.get(default)
        assert known == (Decimal(default) if re.fullmatch(r"[\d.]+", default) else shown), name


def test_each_parameter_is_explained() -> None:
    rows = table(DOCS / "generate.md", "parameter")
    listed = {name for row in rows for name in names(row[0])}
    parameters = set(inspect.signature(ImageTask.__init__).parameters) - {"self", "kwargs"}
    assert listed == parameters
    for row in rows:
        (name, *others) = names(row[0])
        default = inspect.signature(ImageTask.__init__).parameters[name].default
        if not others and name not in ("prompt", "output_uri", "output_conn_id", "deferrable"):
            assert row[1].strip("`").strip('"') == str(default)


@pytest.mark.parametrize(
    "operator",
    [
        DeepshiGenerateImageOperator,
        DeepshiEditImageOperator,
        DeepshiGenerateImagesOperator,
        DeepshiCostReportOperator,
    ],
)
def test_each_operator_is_on_the_pages(operator: type) -> None:
    assert any(operator.__name__ in page.read_text() for page in DOCS.glob("*.md"))


def test_each_example_is_listed() -> None:
    listed = re.findall(r"\(\.\./dags_examples/(\w+\.py)\)", (DOCS / "examples.md").read_text())
    files = (ROOT / "dags_examples").glob("*.py")
    assert sorted(listed) == sorted(
        path.name for path in files if re.search(r"^(@dag|with DAG)", path.read_text(), re.M)
    )
