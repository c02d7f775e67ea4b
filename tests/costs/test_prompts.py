"""Requests are in records and cost sheets, unless prompts are turned off."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from deepshi_provider.costs.sheet import LONGEST_PROMPT, CostSheet, SheetImage
from deepshi_provider.emulator.testing import Emulator
from tests.support.batches import PRICE, batch
from tests.support.places import LocalPlace, Place, document, state
from tests.support.tasks import TaskInstance, edit, execute, generate

SECRET = "the prompt that nobody is to keep"
#: A model whose answers have a ``revised_prompt``, which contains the prompt.
REVISING: dict[str, Any] = {"model": "gpt-image-2", "image_size": "1024x1024", "width": None, "height": None}


def records(place: Place) -> list[dict[str, Any]]:
    return [document(place, name) for name in state(place, "stored")]


def last_sheet(operator: Any, **identity: Any) -> CostSheet:
    ti = TaskInstance(task_id=operator.task_id, **identity)
    execute(operator, ti)
    return CostSheet.model_validate(json.loads(json.dumps(ti.sheets[-1].as_xcom())))


def everything(place: LocalPlace) -> str:
    return "".join(path.read_text(errors="replace") for path in place.path.rglob("*.json*"))


def test_a_record_has_its_request(emulator: Emulator, local: LocalPlace) -> None:
    first = last_sheet(generate(output_uri=local.uri, seed=7))
    (image,) = first.images
    assert (image.prompt, image.cost_usd, image.of, image.reused) == ("a red boat", PRICE, 1, False)
    assert re.fullmatch(r"1\.[0-9a-f]{16}", image.attempt or "")
    asked = {"prompt": "a red boat", "model": "deepshi-banana-pro", "n": 1, "width": 64, "height": 48, "seed": 7}
    assert [record["request"] for record in records(local)] == [asked]
    edited = last_sheet(edit(images=[image.uri], output_uri=f"{local.uri}/e"))
    assert edited.sources == [image.uri]


def test_a_row_has_its_rendered_prompt_and_its_own_price(emulator: Emulator, local: LocalPlace) -> None:
    rows = [{"key": key, "colour": key} for key in ("red", "blue")]
    sheet = last_sheet(batch(local, rows, prompt="a {colour} boat"))
    assert [(image.key, image.prompt, image.cost_usd) for image in sheet.images] == [
        ("red", "a red boat", PRICE),
        ("blue", "a blue boat", PRICE),
    ]
    again = last_sheet(batch(local, rows, prompt="a {colour} boat"), run_id="tuesday")
    assert [(image.prompt, image.reused, image.cost_usd) for image in again.images] == [
        ("a red boat", True, PRICE),
        ("a blue boat", True, PRICE),
    ]


@pytest.mark.parametrize("kind", ["single", "batch", "batch by connection"])
def test_a_prompt_that_is_not_kept_is_nowhere(
    emulator: Emulator, local: LocalPlace, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind != "batch":
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(keep_prompts=False))
    if kind == "single":
        sheet = last_sheet(generate(output_uri=local.uri, prompt=SECRET, **REVISING))
    else:
        sheet = last_sheet(batch(local, [{"key": "a"}], prompt=SECRET, manifest_prompts=kind != "batch", **REVISING))
    assert [image.prompt for image in sheet.images] == [None]
    assert SECRET not in sheet.model_dump_json()
    (record,) = records(local)
    assert ("prompt" in record["request"], record["request"]["image_size"]) == (False, "1024x1024")
    assert [image["revised_prompt"] for image in record["images"]] == [None]
    if kind != "batch by connection":  # its manifest has prompts
        assert SECRET not in everything(local)


def test_a_prompt_that_was_kept_is_in_no_result_once_prompts_are_not(
    emulator: Emulator, local: LocalPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = generate(output_uri=local.uri, prompt=SECRET, **REVISING)
    first = execute(operator, TaskInstance(task_id="boat"))
    assert SECRET in first["images"][0]["revised_prompt"]
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(keep_prompts=False))
    again = execute(operator, TaskInstance(task_id="boat", run_id="tuesday"))
    assert (again["reused"], again["images"][0]["sha256"]) == (True, first["images"][0]["sha256"])
    assert SECRET not in json.dumps(again)
    assert SECRET not in Path(unquote(urlsplit(again["manifest_uri"]).path)).read_text()


def test_costs_without_an_image_are_listed_separately(emulator: Emulator, local: LocalPlace) -> None:
    emulator.fault("not_an_image")
    operator = generate(output_uri=local.uri)
    with pytest.raises(Exception, match="image"):
        execute(operator, TaskInstance(task_id="boat"))
    (model,) = last_sheet(operator, try_number=2).models
    assert (model.cost_usd, model.failed_usd, model.images) == (2 * PRICE, PRICE, 1)


def test_prompts_are_cut_before_images_are_left_out() -> None:
    begun: dict[str, Any] = {"ended": True, "operation": "batch", "dag_id": "d", "run_id": "r", "task_id": "t"}
    images = [
        SheetImage(
            uri=f"s3://bucket/{n}/{'x' * 240}", media_type="image/png", width=1, height=1, prompt="a" * LONGEST_PROMPT
        )
        for n in range(8)
    ]
    value = CostSheet(**begun, images=images, cost_usd=Decimal(1)).as_xcom()
    assert len(value["images"]) == 8
    assert {len(image["prompt"]) for image in value["images"]} == {60}


def test_characters_that_a_database_cannot_store_are_left_out(emulator: Emulator, local: LocalPlace) -> None:
    sheet = last_sheet(generate(output_uri=local.uri, prompt="a \0 boat"))
    assert [image.prompt for image in sheet.images] == ["a  boat"]
