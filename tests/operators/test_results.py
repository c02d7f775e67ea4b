"""The results and reported costs of a task; stored images are not bought again."""

from __future__ import annotations

import hashlib
import io
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import BaseHook
from PIL import Image

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import DeepshiError, InvalidResponse, OutcomeUnknown, StorageFailed
from deepshi_provider.operators.images import DeepshiGenerateImageOperator
from tests.support.batches import batch, deferred
from tests.support.calls import image_file
from tests.support.counts import posts, taken
from tests.support.places import Place, document, images, state
from tests.support.tasks import EDITS, GENERATIONS, TaskInstance, edit, execute, generate, run_try


def exact(number: Any) -> Decimal:
    """Return the exact decimal of a JSON number."""
    assert isinstance(number, float)
    return Decimal(repr(number))


def at(place: Place, **fields: Any) -> DeepshiGenerateImageOperator:
    return generate(output_uri=place.uri, output_conn_id=place.conn_id, **fields)


def failing(operator: DeepshiGenerateImageOperator, kind: type[BaseException], **identity: Any) -> TaskInstance:
    ti = TaskInstance(task_id=operator.task_id, **identity)
    with pytest.raises(kind):
        execute(operator, ti)
    assert "return_value" not in ti.xcoms
    return ti


# ------------------------------------------------------------------ the contract


def test_connection_is_looked_up_once_for_a_try(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    look_up = BaseHook.aget_connection

    async def counted(_: type[BaseHook], conn_id: str) -> Any:
        looked_up.append(conn_id)
        return await look_up(conn_id)

    monkeypatch.setattr(BaseHook, "aget_connection", classmethod(counted))
    run_try(at(local))
    assert looked_up == ["deepshi_default"]


def test_return_value_of_a_generation(emulator: Emulator, place: Place) -> None:
    begun = time.time()
    ti = run_try(at(place))
    (request,) = emulator.requests()
    picture = emulator.picture(request["id"])
    assert place.read("image-0.png") == picture
    value = ti.xcoms["return_value"]
    assert begun - 1 <= value["created"] <= time.time()
    (manifest,) = state(place, "manifest")
    cost = taken(emulator)
    assert value == {
        "images": [
            {
                "uri": f"{place.uri}/image-0.png",
                "index": 0,
                "media_type": "image/png",
                "width": 64,
                "height": 48,
                "size_bytes": len(picture),
                "sha256": hashlib.sha256(picture).hexdigest(),
                "revised_prompt": None,
            }
        ],
        "model": "deepshi-banana-pro",
        "size": "64x48",
        "created": value["created"],
        "cost_usd": float(cost),
        "usage": {
            "prompt_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 0, "cached_read_tokens": 0, "image_tokens": 0},
            "completion_tokens": 3,
            "completion_tokens_details": {"reasoning_tokens": 0, "image_tokens": 3},
            "total_tokens": 6,
            "cost": {"total_cost": float(cost)},
        },
        "sends": 1,
        "unknown_outcomes": 0,
        "reused": False,
        "fallback": None,
        "warnings": [],
        "manifest_uri": f"{place.uri}/{manifest}",
        "map_index": -1,
        "key": None,
        "metadata": None,
    }
    assert exact(value["cost_usd"]) == exact(ti.xcoms["cost_usd"]) == cost > 0
    assert set(ti.xcoms) == {"return_value", "cost_usd"}
    assert type(value["usage"]["total_tokens"]) is int


def test_several_pictures_of_another_kind(emulator: Emulator, place: Place) -> None:
    operator = at(place, model="gpt-image-2", n=3, width=None, height=None, quality="low", output_format="webp")
    value = run_try(operator).xcoms["return_value"]
    names = [f"image-{index}.webp" for index in range(3)]
    assert [image["uri"] for image in value["images"]] == [f"{place.uri}/{name}" for name in names]
    assert images(place) == names
    assert [image["index"] for image in value["images"]] == [0, 1, 2]
    assert {image["revised_prompt"] for image in value["images"]} == {"A detailed picture of a red boat"}
    for name, fields in zip(names, value["images"], strict=True):
        with Image.open(io.BytesIO(place.read(name))) as image:
            assert (image.format, image.size) == ("WEBP", (fields["width"], fields["height"]))
    assert exact(value["cost_usd"]) == taken(emulator) == Decimal("0.0330000003")
    assert emulator.requests()[0]["stream"] is False


@pytest.mark.parametrize(
    ("n", "stream", "sent"), [(1, None, True), (2, None, False), (1, False, False), (2, True, True)]
)
def test_one_picture_is_streamed_by_default(
    emulator: Emulator, local: Place, n: int, stream: bool | None, sent: bool
) -> None:
    run_try(at(local, model="flux-2-pro", n=n, stream=stream))
    assert emulator.requests()[0]["stream"] is sent


def test_edit_accepts_the_xcom_of_a_generation_unchanged(emulator: Emulator, place: Place) -> None:
    made = run_try(at(place, model="flux-2-pro", n=2)).xcoms["return_value"]
    uri = f"{place.uri}/blue"
    ti = run_try(edit(images=made, output_uri=uri, output_conn_id=place.conn_id))
    sent = emulator.requests()[1]
    assert sent["path"] == EDITS
    assert [image["field"] for image in sent["images"]] == ["image[]"] * 2
    assert [image["sha256"] for image in sent["images"]] == [image["sha256"] for image in made["images"]]
    assert ti.xcoms["return_value"]["images"][0]["uri"] == f"{uri}/image-0.png"
    assert exact(ti.xcoms["cost_usd"]) == Decimal(emulator.requests()[1]["cost_usd"])


@pytest.mark.parametrize(("form", "known"), [("number", True), ("string", True), ("absent", False)])
def test_cost_is_null_only_if_the_api_did_not_report_it(
    emulator: Emulator, local: Place, form: str, known: bool
) -> None:
    emulator.settings(cost_form=form)
    ti = run_try(at(local))
    expected = taken(emulator) if known else None
    for cost in (ti.xcoms["cost_usd"], ti.xcoms["return_value"]["cost_usd"]):
        assert (None if cost is None else exact(cost)) == expected


def test_cost_is_the_sum_over_all_tries_including_failed_ones(emulator: Emulator, place: Place) -> None:
    emulator.fault("not_an_image")
    emulator.fault("cut", charged=False)
    operator = at(place, max_resends=5)
    first = failing(operator, InvalidResponse)
    price = taken(emulator)
    assert exact(first.xcoms["cost_usd"]) == price > 0
    second = failing(operator, OutcomeUnknown, try_number=2)
    assert exact(second.xcoms["cost_usd"]) == price
    third = run_try(operator, try_number=3)
    assert exact(third.xcoms["cost_usd"]) == taken(emulator) == 2 * price
    assert exact(third.xcoms["return_value"]["cost_usd"]) == price
    fourth = run_try(operator, try_number=4)
    assert exact(fourth.xcoms["cost_usd"]) == 2 * price
    assert fourth.xcoms["return_value"]["cost_usd"] == 0
    assert posts(emulator) == 3


def test_try_that_fails_for_free_reports_the_costs_of_earlier_ones(emulator: Emulator, local: Place) -> None:
    emulator.fault("not_an_image")
    failing(at(local), InvalidResponse)
    emulator.fault("status", status=402)
    refused = failing(at(local), Exception, try_number=2)
    assert exact(refused.xcoms["cost_usd"]) == taken(emulator) > 0
    mistaken = failing(at(local, width="abc"), Exception, try_number=3)
    assert exact(mistaken.xcoms["cost_usd"]) == taken(emulator)
    assert posts(emulator) == 2


# ------------------------------------------------------------------ reuse


def test_same_task_again_costs_nothing(emulator: Emulator, place: Place) -> None:
    first = run_try(at(place)).xcoms
    before = place.read("image-0.png")
    again = run_try(at(place), try_number=2).xcoms
    assert posts(emulator) == 1
    assert again["cost_usd"] == first["cost_usd"]
    differing = {"cost_usd": 0.0, "sends": 0, "reused": True, "manifest_uri": again["return_value"]["manifest_uri"]}
    assert again["return_value"] == {**first["return_value"], **differing}
    assert place.read("image-0.png") == before
    assert len(state(place, "claim")) == len(state(place, "record")) == 1


def test_other_runs_and_tasks_share_a_directory(emulator: Emulator, place: Place) -> None:
    first = run_try(at(place)).xcoms
    for identity in ({"run_id": "tuesday"}, {"dag_id": "another"}, {"map_index": 3}):
        again = run_try(at(place), **identity).xcoms
        assert again["return_value"]["reused"] is True
        assert again["return_value"]["images"] == first["return_value"]["images"]
        assert again["cost_usd"] == 0
    assert run_try(at(place, task_id="other")).xcoms["return_value"]["reused"] is True
    assert posts(emulator) == 1


def test_reuse_can_be_turned_off(emulator: Emulator, place: Place) -> None:
    run_try(at(place))
    anew = run_try(at(place, reuse=False), try_number=2).xcoms
    assert (posts(emulator), anew["return_value"]["reused"], anew["return_value"]["sends"]) == (2, False, 1)
    assert exact(anew["cost_usd"]) == taken(emulator)
    assert place.read("image-0.png") == emulator.picture(emulator.requests()[1]["id"])


CHANGES: list[dict[str, Any]] = [
    {"prompt": "a blue boat"},
    {"model": "flux-2-pro"},
    {"width": 65},
    {"height": 49},
    {"seed": 7},
    {"output_format": "png"},
    {"aspect_ratio": "1:1"},
    {"resolution": "1K"},
    {"image_size": "auto"},
    {"quality": "low"},
    {"extra_params": {"style": "flat"}},
    {"model": "flux-2-pro", "n": 2},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_any_change_of_the_request_causes_a_purchase(emulator: Emulator, local: Place, change: dict[str, Any]) -> None:
    run_try(at(local, preflight="off"))
    changed = at(local, preflight="off", **change)
    assert run_try(changed, try_number=2).xcoms["return_value"]["reused"] is False
    assert posts(emulator) == 2
    assert run_try(changed, try_number=3).xcoms["return_value"]["reused"] is True
    assert posts(emulator) == 2


@pytest.mark.parametrize("change", [{"stream": False}, {"max_resends": 0}, {"generation_timeout": 9}, {"n": "1"}])
def test_changes_that_do_not_affect_the_picture_cause_no_purchase(
    emulator: Emulator, local: Place, change: dict[str, Any]
) -> None:
    run_try(at(local))
    assert run_try(at(local, **change), try_number=2).xcoms["return_value"]["reused"] is True
    assert posts(emulator) == 1


def test_other_account_buys_for_itself(emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_OTHER", emulator.connection_json())
    run_try(at(local))
    other = run_try(at(local, deepshi_conn_id="deepshi_other"), try_number=2)
    assert (other.xcoms["return_value"]["reused"], posts(emulator)) == (False, 2)


def test_edit_is_bought_again_if_and_only_if_an_input_image_changed(
    emulator: Emulator, local: Place, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    one.write_bytes(image_file("png"))
    two.write_bytes(image_file("png", colour="blue"))

    def reused(sources: list[Path], try_number: int) -> bool:
        operator = edit(images=[str(path) for path in sources], output_uri=local.uri)
        return bool(run_try(operator, try_number=try_number).xcoms["return_value"]["reused"])

    assert not reused([one, two], 1)
    moved = one.rename(tmp_path / "moved.png")
    assert reused([moved, two], 2), "what it is called does not matter"
    assert not reused([two, moved], 3), "the order does"
    assert not reused([moved], 4)
    moved.write_bytes(image_file("png", colour="green"))
    assert not reused([moved], 5)
    assert emulator.stats()["by_path"][EDITS] == 4
    assert GENERATIONS not in emulator.stats()["by_path"]


@pytest.mark.parametrize("damage", [None, b"", b"half"])
def test_missing_or_truncated_image_is_bought_again_and_its_cost_still_counts(
    emulator: Emulator, place: Place, damage: bytes | None
) -> None:
    run_try(at(place, max_resends=0))
    price = taken(emulator)
    if damage is None:
        place.delete("image-0.png")
    else:
        place.write("image-0.png", damage)
    again = run_try(at(place, max_resends=0), try_number=2).xcoms
    assert (again["return_value"]["reused"], again["return_value"]["unknown_outcomes"]) == (False, 0)
    assert (posts(emulator), exact(again["cost_usd"])) == (2, 2 * price)
    assert place.read("image-0.png") == emulator.picture(emulator.requests()[1]["id"])


def test_another_picture_of_the_same_length_is_not_reused(emulator: Emulator, place: Place) -> None:
    emulator.settings(picture_bytes=5000)
    run_try(at(place, prompt="A"), run_id="1")
    run_try(at(place, prompt="B"), run_id="2")
    value = run_try(at(place, prompt="A"), run_id="3").xcoms["return_value"]
    assert (value["reused"], posts(emulator)) == (False, 3)
    assert hashlib.sha256(place.read("image-0.png")).hexdigest() == value["images"][0]["sha256"]
    assert place.read("image-0.png") == emulator.picture(emulator.requests()[2]["id"])
    assert run_try(at(place, prompt="A"), run_id="4").xcoms["return_value"]["reused"] is True
    assert posts(emulator) == 3


def test_unreadable_record_fails_the_task_and_buys_nothing(emulator: Emulator, place: Place) -> None:
    run_try(at(place))
    (record,) = state(place, "record")
    place.write(record, b"{")
    ti = failing(at(place), StorageFailed, try_number=2)
    assert (posts(emulator), ti.xcoms) == (1, {"cost_usd": None})


def test_manifest_and_xcom_agree(emulator: Emulator, place: Place) -> None:
    value = run_try(at(place)).xcoms["return_value"]
    manifest = document(place, value["manifest_uri"].removeprefix(f"{place.uri}/"))
    assert manifest["images"] == value["images"]
    assert Decimal(manifest["cost_usd"]) == Decimal(manifest["costs"]["cost_usd"]) == taken(emulator)
    assert emulator.api_key not in str(manifest)


@pytest.mark.slow
def test_images_of_32_mib_are_stored_completely(emulator: Emulator, local: Place) -> None:
    emulator.settings(picture_bytes=32 * 2**20)
    (image,) = run_try(at(local)).xcoms["return_value"]["images"]
    assert image["size_bytes"] == 32 * 2**20
    assert hashlib.sha256(local.read("image-0.png")).hexdigest() == image["sha256"]


def test_failure_is_the_providers_own_exception_if_a_retry_may_help(emulator: Emulator, local: Place) -> None:
    emulator.fault("broken_base64")
    ti = TaskInstance(task_id="boat")
    with pytest.raises(DeepshiError) as raised:
        execute(at(local), ti)
    assert (type(raised.value), raised.value.charged) == (InvalidResponse, "yes")
    assert raised.value.cost_usd == taken(emulator)
    assert images(local) == []


def test_two_tasks_of_a_run_cannot_overwrite_each_other(emulator: Emulator, local: Place) -> None:
    run_try(at(local, task_id="boat"))
    before = local.read("image-0.png")
    with pytest.raises(AirflowFailException, match="task boat of this run uses the same output directory"):
        run_try(at(local, task_id="house", prompt="a house"))
    assert (posts(emulator), local.read("image-0.png")) == (1, before)
    assert run_try(at(local, task_id="house", prompt="a house"), run_id="tuesday").xcoms["return_value"]["sends"] == 1


def test_directory_that_was_moved_is_reused_where_it_is(emulator: Emulator, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    run_try(generate(output_uri=old.as_uri()))
    old.rename(new)
    again = run_try(generate(output_uri=new.as_uri()), run_id="tuesday").xcoms["return_value"]
    assert (again["reused"], again["images"][0]["uri"], posts(emulator)) == (True, f"{new.as_uri()}/image-0.png", 1)


# ------------------------------------------------------------------ Airflow's database

ODD = "a\0b"
"""PostgreSQL's JSON has no NUL characters."""


def test_labels_can_be_stored_in_any_database(emulator: Emulator, local: Place) -> None:
    ti = run_try(at(local, key=ODD, metadata={ODD: [ODD]}))
    assert (ti.xcoms["return_value"]["key"], posts(emulator)) == ("ab", 1)


@pytest.mark.parametrize("is_deferred", [False, True])
def test_rows_whose_keys_have_nul_characters_are_bought_and_reported(
    emulator: Emulator, local: Place, is_deferred: bool
) -> None:
    rows = [{"key": f"{number}\0", "prompt": f"mug {number}", "n": 2} for number in range(2)]
    operator = batch(local, rows, deferrable=is_deferred, width=None, height=None, model="grok-imagine")
    ti = deferred(operator)[0] if is_deferred else run_try(operator)
    assert ti.xcoms["return_value"]["created"] == 2
    assert [image.key for image in ti.sheets[-1].images] == ["0", "0", "1", "1"]
