"""An edit of an upstream result edits the images of that result, and no others that were stored in their place."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from airflow.triggers.base import TriggerEvent
from PIL import Image

from deepshi_provider.api.requests import EditRequest
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.triggers.images import DeepshiImagesTrigger
from tests.support.batches import batch, ended, result_of
from tests.support.counts import posts, taken
from tests.support.places import Place
from tests.support.tasks import TaskInstance, context_of, edit, execute, generate

SAYS = r"image-0\.png is not the image that its task reported"


def drawn(place: Place) -> dict[str, Any]:
    value = execute(generate(output_uri=place.uri, output_conn_id=place.conn_id), TaskInstance(task_id="boat"))
    return dict(value)


def replace(place: Place) -> None:
    data = io.BytesIO()
    Image.new("RGB", (64, 48), "green").save(data, "PNG")
    place.write("image-0.png", data.getvalue())


def edited(place: Place, images: Any, **fields: Any) -> Any:
    ti = TaskInstance(task_id="blue")
    operator = edit(images=images, output_uri=f"{place.uri}/edited", output_conn_id=place.conn_id, **fields)
    return execute(operator, ti)


FORMS: dict[str, Any] = {
    "result": lambda value: value,
    "image": lambda value: value["images"][0],
    "list": lambda value: [value],
    "json": json.dumps,
    "python": str,
}


@pytest.mark.parametrize("form", FORMS)
def test_an_image_that_was_replaced_is_not_edited(emulator: Emulator, place: Place, form: str) -> None:
    images = FORMS[form](drawn(place))
    edited(place, images)
    sent, paid = posts(emulator), taken(emulator)
    replace(place)
    with pytest.raises(AirflowFailException, match=SAYS) as caught:
        edited(place, images)
    assert "Nothing was sent" in str(caught.value)
    assert (posts(emulator), taken(emulator), sent) == (2, paid, 2)
    edited(place, images=f"{place.uri}/image-0.png")
    assert posts(emulator) == 3, "a URI stands for what is there"


def test_a_deferred_edit_checks_too(emulator: Emulator, local: Place) -> None:
    """The job, which the triggerer reads, has the hashes."""
    value = drawn(local)
    operator = edit(images=value, output_uri=f"{local.uri}/edited", deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context_of(TaskInstance(task_id="blue")))
    replace(local)
    _, arguments = deferred.value.trigger.serialize()

    async def first() -> TriggerEvent:
        return await anext(aiter(DeepshiImagesTrigger(**arguments).run()))

    event = asyncio.run(first()).payload
    assert (event["status"], event["error"]["type"], event["error"]["charged"]) == ("failed", "InvalidRequest", "no")
    assert posts(emulator) == 1


def test_rows_of_a_batch_check_too(emulator: Emulator, local: Place) -> None:
    value = drawn(local)
    rows: list[Any] = [
        {"key": "a", "prompt": "blue", "images": value},
        {"key": "b", "prompt": "blue", "images": [f"{local.uri}/image-0.png"]},
        {"key": "c", "prompt": "red"},
    ]
    replace(local)
    fields: dict[str, Any] = {"output_uri": f"{local.uri}/edited", "on_error": "partial"}
    assert result_of(batch(local, rows, **fields))["failed"] == 1
    assert posts(emulator) == 3
    _, error = ended(batch(local, rows[2:], images=value, output_uri=f"{local.uri}/all"))
    assert "1 of 1 rows failed (c: InvalidRequest)" in str(error)
    assert posts(emulator) == 3


def test_images_of_a_fallback_are_checked(emulator: Emulator, local: Place) -> None:
    value = drawn(local)
    other = execute(generate(output_uri=f"{local.uri}/other"), TaskInstance(task_id="other"))
    replace(local)
    emulator.fault("status", status=403)
    fallbacks = [{"model": "flux-2-pro", "images": value}]
    with pytest.raises(AirflowFailException, match=SAYS):
        edited(local, other, fallbacks=fallbacks)
    assert posts(emulator) == 2, "before the first request is sent"


def test_a_hook_checks_the_hashes_that_it_is_given(emulator: Emulator, local: Place) -> None:
    value = drawn(local)
    request = EditRequest(model="deepshi-image-1", prompt="blue", images=value["images"])
    assert request.images == [value["images"][0]["uri"]]
    assert "sha256" not in str(request.wire_fields())
    plain = EditRequest(model="deepshi-image-1", prompt="blue", images=request.images)
    assert request.fingerprint("a", ["b"]) == plain.fingerprint("a", ["b"])
    replace(local)
    with pytest.raises(InvalidRequest, match=SAYS):
        DeepshiHook().edit(request)
    assert posts(emulator) == 1


@pytest.mark.parametrize("sha256", [None, "", "unknown", 5, "A"])
def test_a_result_without_a_hash_is_edited(emulator: Emulator, local: Place, sha256: Any) -> None:
    value = drawn(local)
    image = value["images"][0]
    known = image["sha256"]
    image["sha256"] = known.upper() if sha256 == "A" else sha256
    edited(local, value)
    assert posts(emulator) == 2
