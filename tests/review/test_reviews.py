"""Reviews of pictures in a real Airflow, in a browser and through the API."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.review.reviewing import WAITING, Reviewing, Run
from tests.services.seaweedfs import S3Server

pytestmark = [pytest.mark.airflow, pytest.mark.s3, pytest.mark.timeout(600)]

PLACES = ["file", "s3", "s3_of_environment"]
#: The first view of Airflow's UI is slow on a busy machine.
PATIENCE_MS = 60_000
#: A directory for screenshots of the tests; ``docs/images/review.png`` is one of them.
PICTURES = os.environ.get("DEEPSHI_TEST_PICTURES")


@pytest.fixture
def opened(reviewing: Reviewing, chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Return a function that opens a run's review as a logged-in user."""
    contexts = []

    def open_page(run: Run, user: str = "admin") -> Page:
        context = chromium.new_context(viewport={"width": 1280, "height": 1100})
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        base_url = reviewing.airflow.base_url
        context.add_cookies([{"name": "_token", "value": reviewing.airflow.token(user), "url": base_url}])
        page = context.new_page()
        page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
        page.goto(base_url + run.path)
        return page

    yield open_page
    for context in contexts:
        context.close()


def shown_images(page: Page) -> list[dict[str, Any]]:
    """Wait for the images of the review and return the browser's properties of each."""
    images = page.locator("img[alt^='Image ']")
    expect(images.first).to_be_visible(timeout=PATIENCE_MS)
    found = []
    for image in images.all():
        image.evaluate("image => image.decode()")
        found.append({name: image.evaluate(f"image => image.{name}") for name in ("alt", "naturalWidth")})
    return found


def respond(page: Page, *options: str) -> None:
    """Select options and submit them."""
    field = page.locator("input[role=combobox]").last
    for option in options:
        field.fill(option)
        page.get_by_role("option", name=option, exact=True).click()
    picture(page, "chosen")
    page.get_by_role("button", name="Respond").click()


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"review-{name}.png", full_page=True)


@pytest.mark.parametrize("place", PLACES)
def test_the_edit_gets_the_two_chosen_images(place: str, reviewing: Reviewing, opened: Callable[..., Page]) -> None:
    run = reviewing.start(f"review_{place}")
    drawn = run.result("draw")
    page = opened(run)

    assert [image["alt"] for image in shown_images(page)] == ["Image 1", "Image 2", "Image 3", "Image 4"]
    assert all(image["naturalWidth"] > 0 for image in shown_images(page))
    text = page.locator("body").inner_text()
    assert "For the shop." in text
    assert f"a red boat {run.run_id}" in text
    assert text.count("nano-banana-2") == 4
    assert text.count(f"${drawn['cost_usd']} for all 4") == 4
    respond(page, "Image 1", "Image 3")

    assert run.end() == "success"
    images = drawn["images"]
    result = run.result()
    of_result = {"key": "boat/7", "model": "nano-banana-2"}
    assert result["images"] == [images[0] | of_result, images[2] | of_result]
    assert [image["uri"] for image in result["rejected"]] == [images[1]["uri"], images[3]["uri"]]
    assert (result["decision"], result["respondent"]) == ("chosen", {"id": "admin", "name": "admin"})
    assert (result["cost_usd"], result["sends"], result["key"]) == (0, 0, "boat/7")
    edit = next(r for r in reviewing.deepshi.requests() if r["prompt"] == f"at night {run.run_id}")
    assert [image["sha256"] for image in edit["images"]] == [image["sha256"] for image in result["images"]]
    assert run.marks() == [
        (image["uri"], "chosen" if position in (0, 2) else "rejected") for position, image in enumerate(images)
    ]


@pytest.mark.parametrize("place", PLACES[:2])
def test_a_rejection_skips_downstream_tasks_and_only_assigned_users_may_answer(
    place: str, reviewing: Reviewing
) -> None:
    run = reviewing.start(f"review_{place}")

    assert run.answer("Approve", user="user").status_code == 403
    assert run.answer("Approve", user="viewer").status_code == 403
    assert run.states()["review"] in WAITING
    assert run.answer("Reject").status_code == 200

    assert run.end() == "success"
    assert run.states() == {"draw": "success", "review": "success", "edit": "skipped"}
    result = run.result()
    assert (result["decision"], result["images"], len(result["rejected"])) == ("rejected", [], 4)
    assert {mark for _, mark in run.marks()} == {"rejected"}
    assert [r["prompt"] for r in reviewing.deepshi.requests() if run.run_id in r["prompt"]] == [
        f"a red boat {run.run_id}"
    ]


@pytest.fixture(scope="module")
def late(reviewing: Reviewing) -> dict[str, Run]:
    """Runs that nobody answers, begun at once."""
    dag_ids = [f"late_{default}_{place}" for place in PLACES[:2] for default in ("Approve", "Reject", "None")]
    dag_ids += ["shop_Approve", "shop_Reject"]
    return {dag_id: reviewing.begin(dag_id) for dag_id in dag_ids}


@pytest.mark.parametrize("place", PLACES[:2])
@pytest.mark.parametrize(
    ("default", "states", "chosen"),
    [
        ("Approve", {"draw": "success", "review": "success", "edit": "success"}, 4),
        ("Reject", {"draw": "success", "review": "success", "edit": "skipped"}, 0),
        ("None", {"draw": "success", "review": "failed", "edit": "upstream_failed"}, None),
    ],
)
def test_the_default_is_used_if_nobody_answers_in_time(
    default: str, states: dict[str, str], chosen: int | None, place: str, late: dict[str, Run], reviewing: Reviewing
) -> None:
    run = late[f"late_{default}_{place}"]
    run.end()
    assert run.states() == states
    if chosen is not None:
        result = run.result()
        assert (len(result["images"]), result["respondent"]) == (chosen, None)
        assert {image["uri"].partition("://")[0] for image in run.result("draw")["images"]} == {place}
    sent = [r for r in reviewing.deepshi.requests() if r["prompt"] == f"at night {run.run_id}"]
    assert [len(request["images"]) for request in sent] == ([4] if chosen else [])


@pytest.mark.parametrize(("default", "state", "images"), [("Approve", "success", [4]), ("Reject", "skipped", [])])
def test_consumers_of_an_outlet_get_only_chosen_images(
    default: str, state: str, images: list[int], late: dict[str, Run], reviewing: Reviewing
) -> None:
    run = late[f"shop_{default}"]
    assert run.end() == "success"
    assert run.states() == {"draw": "success", "review": state}
    events = reviewing.airflow.get("/assets/events", source_dag_id=run.dag_id)["asset_events"]
    assert [event["extra"]["images"] for event in events] == images
    assert run.result()["decision"] == ("chosen" if images else "rejected")


def test_rows_of_a_batch_are_shown_with_prompts_that_stay_text(
    reviewing: Reviewing, opened: Callable[..., Page]
) -> None:
    run = reviewing.start("review_batch")
    page = opened(run)

    assert [image["alt"] for image in shown_images(page)] == ["Image 1", "Image 2", "Image 3"]
    assert page.locator("img[src*='example.com'], a[href^='javascript'], img[onerror]").count() == 0
    cells = page.locator("td", has_text="row-0").all_inner_texts()
    assert len(cells) == 1
    text = page.locator("body").inner_text()
    assert "<img src=x onerror=alert(1)> # [red](javascript:alert(2)) ```" in text
    picture(page, "batch")
    respond(page, "Image 2")

    assert run.end() == "success"
    (chosen,) = run.result()["images"]
    assert (chosen["key"], chosen["index"], chosen["media_type"]) == ("row-1", 0, "image/png")
    assert run.result("load") == [chosen["uri"]]
    assert [mark for _, mark in run.marks()] == ["rejected", "chosen", "rejected"]


def test_one_image_has_two_buttons_and_mapped_reviews_are_separate(
    reviewing: Reviewing, opened: Callable[..., Page]
) -> None:
    run = reviewing.begin("review_each")
    run.wait(0, 1)
    assert [run.detail(map_index)["options"] for map_index in (0, 1)] == [["Approve", "Reject"]] * 2
    assert run.answer("Reject", map_index=1).status_code == 200
    page = opened(run)
    page.goto(reviewing.airflow.base_url + run.path.replace("/required_actions", "/mapped/0/required_actions"))
    assert len(shown_images(page)) == 1
    picture(page, "one")
    page.get_by_role("button", name="Approve").click()

    assert run.end() == "success"
    drawn = [run.result("draw", map_index=n)["images"][0]["uri"] for n in (0, 1)]
    assert [image["uri"] for image in run.result(map_index=0)["images"]] == drawn[:1]
    assert run.result(map_index=1)["images"] == []
    assert run.marks() == sorted([(drawn[0], "chosen"), (drawn[1], "rejected")])


def test_contradictory_answers_choose_nothing(reviewing: Reviewing) -> None:
    run = reviewing.start("review_file")
    assert run.answer("Image 1", "Reject").status_code == 200
    assert run.end() == "failed"
    assert run.states() == {"draw": "success", "review": "failed", "edit": "upstream_failed"}
    assert "Image 1, Reject was chosen" in run.log()
    assert {mark for _, mark in run.marks()} == {None}


def test_images_that_changed_during_the_review_are_not_chosen(reviewing: Reviewing) -> None:
    """The task that made them ran again, so the reviewer saw other images than those that would be passed on."""
    run = reviewing.start("review_file")
    path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/draw/xcomEntries/return_value"
    drawn = run.result("draw")
    drawn["images"][1]["sha256"] = hashlib.sha256(b"another picture").hexdigest()
    reviewing.airflow.request("PATCH", path, json={"value": drawn, "map_index": -1})
    assert run.answer("Approve").status_code == 200
    assert run.end() == "failed"
    assert "The images have changed since they were shown" in run.log()


@pytest.mark.parametrize("dag_id", ["review_file", "review_s3", "review_batch"])
def test_an_image_replaced_in_its_store_is_neither_shown_nor_chosen(
    dag_id: str, reviewing: Reviewing, s3_server: S3Server
) -> None:
    """As another run with the same ``output_uri`` does. The XComs stay the same."""
    run = reviewing.start(dag_id)
    task = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": "review", "review": "true"}
    review = reviewing.airflow.xcom(run.dag_id, run.run_id, "review", "deepshi_review")
    uri = review["images"][1]["uri"]
    data = io.BytesIO()
    Image.new("RGB", (64, 48)).save(data, "PNG")
    if uri.startswith("s3://"):
        bucket, _, name = uri.removeprefix("s3://").partition("/")
        s3_server.client().put_object(Bucket=bucket, Key=name, Body=data.getvalue())
    else:
        Path(uri.removeprefix("file://")).write_bytes(data.getvalue())

    for route in ("image", "thumbnail"):
        shown = reviewing.client("admin").get(f"/deepshi-costs/{route}", params={**task, "number": "1"})
        assert shown.status_code == 404
        assert shown.json()["detail"] == "The image has been replaced"
        assert reviewing.client("admin").get(f"/deepshi-costs/{route}", params={**task, "number": "0"}).is_success
    assert run.answer("Approve").status_code == 200
    assert run.end() == "failed"
    assert run.states()["review"] == "failed"
    assert "The images have changed since they were shown" in run.log()
    assert not [request for request in reviewing.deepshi.requests() if request["prompt"] == f"at night {run.run_id}"]


def test_without_images_there_is_no_review(reviewing: Reviewing) -> None:
    run = reviewing.begin("review_of_nothing")
    assert run.end() == "success"
    assert run.states() == {"nothing": "success", "review": "skipped"}


def test_images_of_a_review_need_the_right_to_read_its_xcoms(reviewing: Reviewing) -> None:
    run = reviewing.start("review_file")
    task = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": "review", "number": "0", "review": "true"}
    answer = reviewing.client("viewer").get("/deepshi-costs/image", params=task)
    drawn = run.result("draw")["images"][0]
    assert hashlib.sha256(answer.content).hexdigest() == drawn["sha256"]
    small = reviewing.client("viewer").get("/deepshi-costs/thumbnail", params=task)
    assert (small.headers["content-type"], len(small.content) < drawn["size_bytes"]) == ("image/webp", True)
    for route in ("image", "thumbnail"):
        missing = reviewing.client("viewer").get(f"/deepshi-costs/{route}", params={**task, "number": "4"})
        assert missing.status_code == 404
    with_no_login = reviewing.client("viewer").build_request("GET", "/deepshi-costs/image", params=task)
    with_no_login.headers.pop("cookie")
    assert reviewing.client("viewer").send(with_no_login).status_code == 401
    assert run.answer("Reject").status_code == 200
    run.end()
