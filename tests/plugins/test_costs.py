"""What the page's routes say, and to whom."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from deepshi_provider.api.media import identify
from tests.plugins.site import PREFIX, Site, sheet

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

ROUTES = ["/", "/page/costs.js", "/page/costs.css", "/data", "/gallery", "/image?dag_id=a&run_id=b&task_id=c&number=0"]


def run_of(site: Site, dag_id: str) -> dict[str, Any]:
    return {"dag_id": dag_id, "run_id": site.runs[dag_id]}


def task_of(picture: dict[str, Any]) -> dict[str, Any]:
    return {name: picture[name] for name in ("dag_id", "run_id", "task_id", "map_index", "number")}


@pytest.mark.parametrize("route", ROUTES)
def test_nobody_gets_anything_without_login(site: Site, route: str) -> None:
    answer = site.client(None).get(f"{PREFIX}{route}")

    assert (answer.status_code, answer.json()) == (401, {"detail": "Not authenticated"})


@pytest.mark.parametrize("route", ["/docs", "/redoc", "/openapi.json", "/page/index.html", "/page/..%2fapp.py"])
def test_nothing_else_is_served(site: Site, route: str) -> None:
    assert site.get(route).status_code == 404


def test_sums_equal_what_was_charged(site: Site) -> None:
    said = site.data(**run_of(site, "pictures"))
    totals = said["totals"]

    charged = Decimal(site.ledger["cost_usd"])
    assert charged > 0
    assert Decimal(totals["cost_usd"]) + Decimal(totals["may_have_cost_usd"]) == charged
    assert totals["unknown_outcomes"] == 1
    assert totals["images"] == 7
    assert totals["task_instances"] == 5
    for part in ("dags", "tasks", "models", "runs"):
        assert sum(Decimal(entry["cost_usd"]) for entry in said[part]["entries"]) == Decimal(totals["cost_usd"])


def test_a_day_has_what_was_spent_on_it(site: Site) -> None:
    said = site.data(dag_id="pictures")

    assert len(said["days"]) == 30
    assert sum(Decimal(day["cost_usd"]) for day in said["days"]) == Decimal(said["totals"]["cost_usd"])
    assert said["days"][-1]["cost_usd"] != "0" or said["days"][-2]["cost_usd"] != "0"
    assert site.data(start="2020-01-01", end="2020-01-31")["totals"]["cost_usd"] == "0"


def test_a_model_has_its_part(site: Site) -> None:
    run = run_of(site, "pictures")
    parts = {entry["model"]: entry["cost_usd"] for entry in site.data(**run)["models"]["entries"]}

    assert set(parts) == {"deepshi-banana-pro", "deepshi-image-1", "seedream-4.5"}
    for model, cost_usd in parts.items():
        assert site.data(**run, model=model)["totals"]["cost_usd"] == cost_usd


def test_the_gallery_names_prompt_size_and_cost(site: Site) -> None:
    found = site.pictures(**run_of(site, "pictures"))

    assert sorted(picture["prompt"] for picture in found) == sorted(
        ["a red boat", "a lost boat", "<script>alert(1)</script>", "javascript:alert(2)"]
        + [f"the letter {key}" for key in "ABC"]
    )
    red = next(picture for picture in found if picture["prompt"] == "a red boat")
    price = site.airflow.xcom("pictures", site.runs["pictures"], "draw", "deepshi_cost", map_index=0)["cost_usd"]
    assert (red["width"], red["height"], red["cost_usd"], red["images"]) == (96, 64, price, 1)


def test_images_are_the_stored_bytes(site: Site, tmp_path: Path) -> None:
    for picture in site.pictures(**run_of(site, "pictures")):
        answer = site.get("/image", **task_of(picture))
        file = tmp_path / "image"
        file.write_bytes(answer.content)
        with file.open("rb") as opened:
            media = identify(opened)
        assert (media.width, media.height) == (picture["width"], picture["height"])
        assert answer.headers["content-type"] == media.media_type
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.content == Path(picture["uri"].removeprefix("file://")).read_bytes()


def test_who_may_not_read_a_dag_sees_nothing_of_it(site: Site) -> None:
    secret = run_of(site, "secret_pictures")
    (picture,) = site.pictures(**secret)
    assert (picture["key"], picture["metadata"]) == ("boat/7", '{"table": "boats"}'), "as the task was given them"
    assert picture["warnings"] == ["Image 0 has 96x64 pixels, which is not 1:1"]
    assert site.get("/image", **task_of(picture)).status_code == 200

    seen = site.data("viewer")
    assert seen["choices"]["dags"] == ["pictures"]
    assert seen["totals"] == site.data(dag_id="pictures")["totals"]
    assert {picture["dag_id"] for picture in site.pictures("viewer")} == {"pictures"}
    for route in ("/data", "/gallery"):
        assert site.get(route, "viewer", **secret).status_code == 403
    assert site.get("/image", "viewer", **task_of(picture)).status_code == 403


def test_a_second_dag_id_does_not_open_a_dag(site: Site) -> None:
    viewer = site.client("viewer")
    run_id = site.runs["secret_pictures"].replace("+", "%2B")
    for dag_ids in (("pictures", "secret_pictures"), ("secret_pictures", "pictures"), ("~", "secret_pictures")):
        query = f"dag_id={dag_ids[0]}&dag_id={dag_ids[1]}&run_id={run_id}&task_id=draw&number=0"
        assert viewer.get(f"{PREFIX}/image?{query}").status_code in (403, 404)
        said = viewer.get(f"{PREFIX}/data?{query}")
        assert said.status_code == 403 or said.json()["totals"]["task_instances"] == 0


@pytest.mark.parametrize(
    ("uri", "output_uri"),
    [
        ("file:///etc/passwd", "file:///etc"),
        ("file://{images}/..%2f..%2fsecret.png", "file://{images}"),
        ("file://{images}/../secret.png", "file://{images}"),
        ("file://{elsewhere}/secret.png", "file://{images}"),
        ("http://127.0.0.1:1/secret.png", "http://127.0.0.1:1"),
        ("{emulator}/emulator/stats", "{emulator}/emulator"),
        ("simplecache::file://{elsewhere}/secret.png", "simplecache::file://{elsewhere}"),
        ("s3://other_connection@bucket/secret.png", "s3://other_connection@bucket"),
        ("{elsewhere}/secret.png", "{elsewhere}"),
        ("javascript:alert(1)", "javascript:alert(1)"),
    ],
)
def test_foreign_addresses_are_not_opened(strange: Site, tmp_path: Path, uri: str, output_uri: str) -> None:
    picture = strange.pictures(**run_of(strange, "secret_pictures"))[0]
    real = Path(picture["uri"].removeprefix("file://")).read_bytes()
    (tmp_path / "secret.png").write_bytes(real)
    names = {"images": strange.images, "elsewhere": tmp_path, "emulator": strange.deepshi.base_url}
    task = strange.write_sheet("foreign", sheet(uri.format(**names), output_uri=output_uri.format(**names)))

    answer = strange.get("/image", **task)

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert not answer.content.startswith(real[:8])


@pytest.mark.parametrize(
    ("name", "content", "media_type", "reason"),
    [
        ("gone.png", None, "image/png", "The image is no longer in its store"),
        ("page.png", b"<html><script>alert(1)</script>", "image/png", "What is stored there is not the image"),
        ("page.html", b"<html><script>alert(1)</script>", "text/html", "It is not a PNG, JPEG or WebP image"),
        ("drawing.svg", b"<svg onload='alert(1)'/>", "image/svg+xml", "It is not a PNG, JPEG or WebP image"),
    ],
)
def test_only_pictures_leave_the_server(
    strange: Site, tmp_path: Path, name: str, content: bytes | None, media_type: str, reason: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    uri = (tmp_path / name).as_uri()
    task = strange.write_sheet("odd", sheet(uri, output_uri=tmp_path.as_uri(), media_type=media_type))

    answer = strange.get("/image", **task)

    assert answer.status_code == 404
    assert answer.json()["detail"].startswith(reason)


def test_too_large_pictures_are_not_sent(strange: Site, tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(2**30)
    task = strange.write_sheet("large", sheet((tmp_path / "large.png").as_uri(), output_uri=tmp_path.as_uri()))

    answer = strange.get("/image", **task)

    assert (answer.status_code, answer.json()) == (404, {"detail": "The image is larger than 64 MiB"})


def test_an_image_that_no_sheet_names_is_not_served(site: Site) -> None:
    task = {**run_of(site, "pictures"), "task_id": "edit"}

    assert site.get("/image", **task, number=0).status_code == 200
    assert site.get("/image", **task, number=1).status_code == 404
    assert site.get("/image", **task, number=-1).status_code == 404
    assert site.get("/image", **{**task, "task_id": "..%2fedit"}, number=0).status_code == 404


def test_sheets_that_are_none_are_said_and_not_counted(strange: Site) -> None:
    for number, value in enumerate(["no sheet", {"version": 1}, None, [1], "{}"]):
        strange.write_sheet(f"odd_{number}", value)
    strange.write_sheet("good", sheet("s3://b/d/i.png", output_uri="s3://b/d", cost_usd="0.10"))
    strange.write_sheet("no_price", sheet("s3://b/d/i.png", output_uri="s3://b/d", cost_usd=None))

    said = strange.data(**run_of(strange, "strange"))

    assert said["unreadable"] == 5
    assert (said["totals"]["cost_usd"], said["totals"]["not_told"]) == ("0.10", 1)
    assert len(strange.pictures(**run_of(strange, "strange"))) == 2


@pytest.mark.parametrize(
    "query",
    [
        {"start": "2026-02-30"},
        {"start": "2026-01-02", "end": "2026-01-01"},
        {"start": "2000-01-01", "end": "2026-01-01"},
        {"end": "9999-12-31"},
        {"run_id": "a"},
    ],
)
def test_periods_that_are_none_are_refused(site: Site, query: dict[str, Any]) -> None:
    assert site.get("/data", **query).status_code == 422


def test_the_page_may_only_load_what_is_its_own(site: Site) -> None:
    policy = site.get("/").headers["content-security-policy"]

    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
