"""A choice is about the images that were shown: as their store has them, not as XComs and manifests report them."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from PIL import Image

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.operators.review import DeepshiReviewOperator
from deepshi_provider.reports.review import XCOM_KEY, Review, ReviewImage
from tests.support.batches import batch
from tests.support.places import Place
from tests.support.tasks import TaskInstance, context_of, execute, generate

BANANA = {"model": "nano-banana-2", "width": None, "height": None}


@dataclass(kw_only=True)
class ReviewInstance(TaskInstance):
    """A task instance that can also read its XComs."""

    task_id: str = "review"

    def xcom_pull(self, *, key: str, **_: Any) -> Any:
        return self.xcoms[key]


def drawn(place: Place, kind: str, run_id: str = "monday", prompt: str = "a red boat") -> Any:
    """Make two images in a directory that all runs share; return what a review gets."""
    common: dict[str, Any] = {"output_uri": place.uri, "output_conn_id": place.conn_id, "preflight": "off"}
    if kind == "batch":
        rows = [{"key": "boat", "prompt": prompt, "n": 2}]
        return execute(batch(place, rows, **BANANA), TaskInstance(task_id="catalog", run_id=run_id))
    result = execute(generate(prompt=prompt, n=2, **BANANA, **common), TaskInstance(task_id="boat", run_id=run_id))
    return [image["uri"] for image in result["images"]] if kind == "uris" else result


def review_of(place: Place, images: Any) -> DeepshiReviewOperator:
    return DeepshiReviewOperator(task_id="review", images=images, output_conn_id=place.conn_id)


def stored(place: Place) -> list[ReviewImage]:
    """Return the images of the directory as a person sees them now."""
    names = [name for name in place.names() if name.endswith(".png")]
    return [
        ReviewImage(uri=f"{place.uri}/{name}", media_type="image/png", sha256=sha256(place.read(name)))
        for name in names
    ]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def answer(operator: DeepshiReviewOperator, seen: list[ReviewImage], *options: str) -> tuple[dict[str, Any], Any]:
    """Answer a review of the seen images; return the task's result and the review's XCom."""
    ti = ReviewInstance()
    ti.xcom_push(XCOM_KEY, Review(images=seen, output_conn_id=operator.output_conn_id).as_xcom())
    event = {
        "chosen_options": list(options),
        "responded_by_user": {"id": "admin", "name": "admin"},
        "responded_at": datetime.now(timezone.utc),
        "params_input": {},
        "timedout": False,
    }
    return operator.execute_complete(context_of(ti), event), ti.xcoms[XCOM_KEY]


def other_picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (64, 48), "green").save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize("kind", ["single", "batch", "uris"])
def test_an_image_that_another_run_has_replaced_is_not_chosen(kind: str, emulator: Emulator, place: Place) -> None:
    monday = drawn(place, kind)
    seen = stored(place)
    assert len(seen) == 2
    drawn(place, kind, "tuesday", "a green submarine")
    assert all(now.uri == then.uri and now.sha256 != then.sha256 for now, then in zip(stored(place), seen, strict=True))

    with pytest.raises(AirflowException, match="The images have changed since they were shown"):
        answer(review_of(place, monday), seen, "Approve")


@pytest.mark.parametrize("kind", ["single", "batch", "uris"])
def test_each_chosen_image_has_its_hash(kind: str, emulator: Emulator, local: Place) -> None:
    images = drawn(local, kind)
    seen = stored(local)

    result, review = answer(review_of(local, images), seen, "Image 2")

    assert [(image["uri"], image["sha256"]) for image in result["images"]] == [(seen[1].uri, seen[1].sha256)]
    assert [image["uri"] for image in result["rejected"]] == [seen[0].uri]
    assert [image["chosen"] for image in review["images"]] == [False, True]


def test_only_the_chosen_images_must_be_the_same(emulator: Emulator, local: Place) -> None:
    images = drawn(local, "uris")
    seen = stored(local)
    local.write(seen[0].uri.rpartition("/")[2], other_picture())

    result, _ = answer(review_of(local, images), seen, "Image 2")
    assert [image["uri"] for image in result["images"]] == [seen[1].uri]
    with pytest.raises(AirflowException, match="have changed"):
        answer(review_of(local, images), seen, "Image 1", "Image 2")


def test_a_deleted_image_is_not_chosen(emulator: Emulator, local: Place) -> None:
    images = drawn(local, "single")
    seen = stored(local)
    local.delete(seen[0].uri.rpartition("/")[2])

    with pytest.raises(InvalidRequest, match=r"image-0\.png does not exist"):
        answer(review_of(local, images), seen, "Approve")


@pytest.mark.parametrize("kind", ["single", "batch"])
def test_nobody_is_asked_about_an_image_that_is_not_the_reported_one(
    kind: str, emulator: Emulator, place: Place
) -> None:
    images = drawn(place, kind)
    place.write(stored(place)[0].uri.rpartition("/")[2], other_picture())
    ti = ReviewInstance()

    with pytest.raises(AirflowFailException, match=r"-0\.png has been replaced since its task reported it"):
        review_of(place, images).execute(context_of(ti))

    assert ti.xcoms == {}


def test_nobody_is_asked_about_an_image_that_does_not_exist(emulator: Emulator, local: Place) -> None:
    ti = ReviewInstance()
    with pytest.raises(AirflowFailException, match=r"nothing\.png does not exist"):
        review_of(local, [f"{local.uri}/nothing.png"]).execute(context_of(ti))
    assert ti.xcoms == {}
