"""The content of the page's routes, and who may read it."""

from __future__ import annotations

import csv
import io
import json
import random
import sqlite3
import struct
import zlib
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deepshi_provider.api.media import identify
from deepshi_provider.plugins.costs.question import today
from tests.plugins.site import PREFIX, Site, sheet
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

TASK = "dag_id=a&run_id=b&task_id=c&number=0"
ROUTES = [
    *("/", "/page/costs.js", "/page/costs.css", "/page/icon.svg", "/data", "/month", "/gallery"),
    *("/costs.csv?table=dags", "/costs.csv?table=pictures"),
    *(f"/image?{TASK}", f"/thumbnail?{TASK}", f"/picture?{TASK}"),
]


def bomb() -> bytes:
    """A PNG of a few bytes whose header claims 400 million pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


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


def test_the_api_server_counts_before_anybody_asks(site: Site) -> None:
    """Airflow's own list of plugins still works with what starts the count."""
    wait_for("a count ahead", 120, lambda: "Costs of the last 365 days are counted" in site.airflow.log_text())
    (plugin,) = [p for p in site.airflow.get("/plugins")["plugins"] if p["name"] == "deepshi_costs"]
    assert [found["name"] for found in plugin["fastapi_root_middlewares"]] == ["Deepshi costs, counted ahead"]


def test_sums_equal_what_was_charged(site: Site) -> None:
    data = site.data(**run_of(site, "pictures"))
    totals = data["totals"]

    charged = Decimal(site.ledger["cost_usd"])
    assert charged > 0
    assert Decimal(totals["cost_usd"]) + Decimal(totals["may_have_cost_usd"]) == charged
    assert totals["unknown_outcomes"] == 1
    assert totals["images"] == 7
    assert totals["task_instances"] == 5
    for part in ("instances", "tasks", "models"):
        assert sum(Decimal(entry["cost_usd"]) for entry in data[part]["entries"]) == Decimal(totals["cost_usd"])


def test_a_day_has_what_was_spent_on_it(site: Site) -> None:
    data = site.data(dag_id="pictures")

    assert len(data["days"]) == 30
    assert sum(Decimal(day["cost_usd"]) for day in data["days"]) == Decimal(data["totals"]["cost_usd"])
    assert data["days"][-1]["cost_usd"] != "0" or data["days"][-2]["cost_usd"] != "0"
    assert site.data(start="2020-01-01", end="2020-01-31")["totals"]["cost_usd"] == "0"


def test_a_model_has_its_share(site: Site) -> None:
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
    assert (red["width"], red["height"], red["cost_usd"], red["of"]) == (96, 64, price, 1)


def test_a_picture_of_a_batch_has_its_own_price(site: Site) -> None:
    found = [picture for picture in site.pictures(**run_of(site, "pictures")) if picture["task_id"] == "batch"]
    whole = site.airflow.xcom("pictures", site.runs["pictures"], "batch", "deepshi_cost")["cost_usd"]
    assert [picture["of"] for picture in found] == [1, 1, 1]
    assert sum(Decimal(picture["cost_usd"]) for picture in found) == Decimal(whole)


def test_purchases_of_hooks_are_counted(site: Site) -> None:
    totals = site.data(**run_of(site, "hooked"))["totals"]
    charged = Decimal(site.ledgers["hooked"]["cost_usd"]) - Decimal(site.ledgers["secret_pictures"]["cost_usd"])
    assert charged > 0
    assert (Decimal(totals["cost_usd"]), totals["images"]) == (charged, 1)
    assert Decimal(site.data()["totals"]["cost_usd"]) >= charged
    assert "hooked" in {entry["dag_id"] for entry in site.data()["dags"]["entries"]}


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


def test_users_without_access_to_a_dag_see_nothing_of_it(site: Site) -> None:
    secret = run_of(site, "secret_pictures")
    (picture,) = site.pictures(**secret)
    assert (picture["key"], picture["metadata"]) == ("boat/7", '{"table": "boats"}'), "as the task was given them"
    assert picture["warnings"] == ["Image 0 has 96x64 pixels, which is not 1:1"]
    assert site.get("/image", **task_of(picture)).status_code == 200

    seen = site.data("viewer")
    assert seen["choices"]["dags"] == ["hooked", "pictures"]
    parts = [site.data(dag_id=dag_id)["totals"]["cost_usd"] for dag_id in ("hooked", "pictures")]
    assert Decimal(seen["totals"]["cost_usd"]) == sum(map(Decimal, parts))
    assert {picture["dag_id"] for picture in site.pictures("viewer")} == {"pictures"}
    for route in ("/data", "/gallery", "/month"):
        assert site.get(route, "viewer", **secret).status_code == 403
    for route in ("/image", "/thumbnail", "/picture"):
        assert site.get(route, **task_of(picture)).status_code == 200
        assert site.get(route, "viewer", **task_of(picture)).status_code == 403
    for table in ("dags", "runs", "tasks", "pictures"):
        assert site.get("/costs.csv", "viewer", table=table, **secret).status_code == 403
        assert "secret" not in site.get("/costs.csv", "viewer", table=table).text
        assert "secret" in site.get("/costs.csv", table=table).text


def test_who_bought_a_reused_image_is_shown_to_those_who_may_see_that_dag(strange: Site) -> None:
    with closing(sqlite3.connect(strange.airflow.database_path, timeout=30)) as database:
        query = "SELECT value FROM xcom WHERE dag_id = 'secret_pictures' AND task_id = 'draw' AND key = 'deepshi_cost'"
        (value,) = database.execute(query).fetchone()
    task = strange.write_sheet("reuses", json.loads(value))
    assert strange.get("/picture", **task).json()["bought_by"]["dag_id"] == "secret_pictures"
    seen = strange.get("/picture", "viewer", **task)
    assert (seen.json()["bought_by"], "secret" in json.dumps(seen.json()["request"])) == (None, False)


def test_a_second_dag_id_does_not_open_a_dag(site: Site) -> None:
    viewer = site.client("viewer")
    run_id = site.runs["secret_pictures"].replace("+", "%2B")
    for dag_ids in (("pictures", "secret_pictures"), ("secret_pictures", "pictures"), ("~", "secret_pictures")):
        query = f"dag_id={dag_ids[0]}&dag_id={dag_ids[1]}&run_id={run_id}&task_id=draw&number=0"
        assert viewer.get(f"{PREFIX}/image?{query}").status_code in (403, 404)
        response = viewer.get(f"{PREFIX}/data?{query}")
        assert response.status_code == 403 or response.json()["totals"]["task_instances"] == 0


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
        ("page.png", b"<html><script>alert(1)</script>", "image/png", "The stored object is not the image"),
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


def test_only_the_image_that_the_task_reported_is_served(strange: Site, tmp_path: Path) -> None:
    """Another run may have replaced it, and whoever may write XComs may name an image of another DAG."""
    for colour in ("red", "blue"):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{colour}.png")
    shown = tmp_path / "image.png"
    shown.write_bytes((tmp_path / "red.png").read_bytes())
    value = sheet(shown.as_uri(), output_uri=tmp_path.as_uri())
    task = strange.write_sheet("boat", value)
    assert strange.get("/image", **task).content == (tmp_path / "red.png").read_bytes()
    shown.write_bytes((tmp_path / "blue.png").read_bytes())
    for route in ("/image", "/thumbnail"):
        answer = strange.get(route, **task)
        assert (answer.status_code, answer.json()) == (404, {"detail": "The image has been replaced"})
    del value["images"][0]["sha256"]
    assert strange.get("/image", **strange.write_sheet("unknown", value)).status_code == 404


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


def test_invalid_sheets_are_reported_and_not_counted(strange: Site) -> None:
    for number, value in enumerate(["no sheet", {"version": 1}, None, [1], "{}"]):
        strange.write_sheet(f"odd_{number}", value)
    strange.write_sheet("good", sheet("s3://b/d/i.png", output_uri="s3://b/d", cost_usd="0.10"))
    for number, amount in enumerate(["1e9999999", "NaN", "Infinity", "-1"]):
        strange.write_sheet(f"absurd_{number}", sheet("s3://b/d/i.png", output_uri="s3://b/d", cost_usd=amount))
    strange.write_sheet("no_price", sheet("s3://b/d/i.png", output_uri="s3://b/d", cost_usd=None))

    data = strange.data(**run_of(strange, "strange"))

    assert data["unreadable"] == 9
    assert (data["totals"]["cost_usd"], data["totals"]["incomplete"]) == ("0.10", 1)
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
def test_invalid_periods_are_refused(site: Site, query: dict[str, Any]) -> None:
    assert site.get("/data", **query).status_code == 422


def test_the_page_may_only_load_its_own_resources(site: Site) -> None:
    policy = site.get("/").headers["content-security-policy"]

    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_the_details_of_a_picture_are_those_of_its_record(site: Site) -> None:
    found = {picture["prompt"]: picture for picture in site.pictures(**run_of(site, "pictures"))}
    edit = site.get("/picture", **task_of(found["javascript:alert(2)"])).json()
    assert (edit["prompt"], edit["model"], edit["sends"]) == ("javascript:alert(2)", "deepshi-image-1", 1)
    assert edit["request"]["width"] == 96
    assert "prompt" not in edit["request"]
    drawn = {found[prompt]["uri"] for prompt in ("a red boat", "a lost boat", "<script>alert(1)</script>")}
    assert {source["uri"] for source in edit["sources"]} == drawn
    assert {picture["uri"] for source in edit["sources"] for picture in source["pictures"]} == drawn
    red = site.get("/picture", **task_of(found["a red boat"])).json()
    assert [picture["uri"] for picture in red["edits"]] == [edit["uri"]]
    assert len(red["sha256"]) == 64


def test_filters_apply_to_sums_and_pictures(site: Site) -> None:
    by_text = site.data(text="LETTER b")
    assert by_text["totals"]["task_instances"] == 1
    assert [picture["key"] for picture in site.pictures(text="LETTER b")] == ["B"]
    assert site.data(text="no such words")["totals"]["task_instances"] == 0
    for text, count in (("LETTER b", 1), ("no such words", 0)):
        assert site.data(**run_of(site, "pictures"), text=text)["totals"]["task_instances"] == count
    assert {entry["dag_id"] for entry in site.data(tag="shop")["dags"]["entries"]} == {"pictures"}
    assert {entry["dag_id"] for entry in site.data(owner="ada")["dags"]["entries"]} == {"pictures"}
    assert site.data(owner="ad")["totals"]["task_instances"] == 0
    assert site.data()["choices"]["tags"] == ["shop"]
    assert {picture["dag_id"] for picture in site.pictures(tag="shop")} == {"pictures"}
    of_task = site.data(dag_id="pictures", task_id="draw")
    assert {entry["task_id"] for entry in of_task["tasks"]["entries"]} == {"draw"}
    assert {picture["task_id"] for picture in site.pictures(dag_id="pictures", task_id="draw")} == {"draw"}


def test_csv_equals_the_table(site: Site) -> None:
    for filters in ({}, {"dag_id": "pictures"}, {"model": "seedream-4.5"}, run_of(site, "pictures")):
        seen = site.data(**filters)
        for table in ("tasks", "models"):
            answer = site.get("/costs.csv", table=table, **filters)
            assert answer.headers["content-disposition"].startswith("attachment; filename=")
            lines = list(csv.DictReader(answer.text.splitlines()))
            shown = [
                (entry[table[:-1] if table == "models" else "task_id"], entry["cost_usd"])
                for entry in seen[table]["entries"]
            ]
            assert [(line["model" if table == "models" else "task_id"], line["cost_usd"]) for line in lines] == shown


def test_a_thumbnail_is_small_and_made_once(strange: Site, tmp_path: Path) -> None:
    noise = Image.frombytes("RGB", (1600, 1200), random.Random(1).randbytes(1600 * 1200 * 3))
    noise.save(tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size > 5_000_000
    task = strange.write_sheet("noisy", sheet((tmp_path / "noise.png").as_uri(), output_uri=tmp_path.as_uri()))

    first = strange.get("/thumbnail", **task)

    assert (first.status_code, first.headers["content-type"]) == (200, "image/webp")
    assert len(first.content) <= 64 * 1024
    with Image.open(io.BytesIO(first.content)) as picture:
        assert picture.size == (400, 300)
    (tmp_path / "noise.png").unlink()
    assert strange.get("/thumbnail", **task).content == first.content
    assert strange.get("/thumbnail", "viewer", **{**task, "dag_id": "secret_pictures"}).status_code == 403
    assert strange.get("/image", **task).status_code == 404


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n and nothing more", bomb()])
def test_an_image_that_cannot_be_scaled_down_is_refused(strange: Site, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "i.png").write_bytes(content)
    task = strange.write_sheet("broken", sheet((tmp_path / "i.png").as_uri(), output_uri=tmp_path.as_uri()))
    answer = strange.get("/thumbnail", **task)
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith(("The image cannot be decoded", "The image has too many pixels"))


@pytest.mark.parametrize(
    "name", ["../image-0.png", "..%2fimage-0.png", "*-0.png", "out/../../image-0.png", "image-0.png"]
)
def test_a_record_is_read_from_its_own_directory_only(strange: Site, tmp_path: Path, name: str) -> None:
    secret: dict[str, Any] = {"kind": "stored", "fingerprint": "f" * 64, "lease_owner": "l", "recorded_at": 1}
    secret |= {"owner": {"dag_id": "d", "run_id": "r", "task_id": "t"}, "request": {"prompt": "a prompt in a record"}}
    for folder in (tmp_path, tmp_path / "out"):
        (folder / "_deepshi").mkdir(parents=True)
        (folder / "_deepshi" / f"image.1.{'f' * 16}.t.l.stored.json").write_text(json.dumps(secret))
        other = {**secret, "request": {"prompt": "the prompt of another request"}}
        for fingerprint in ("a" * 16, "f" * 15 + "0"):
            (folder / "_deepshi" / f"image.1.{fingerprint}.t.l.stored.json").write_text(json.dumps(other))
    output_uri = (tmp_path / "out").as_uri()
    written = sheet(f"{output_uri}/{name}", output_uri=output_uri)
    written["images"][0]["attempt"] = f"1.{'f' * 16}"
    answer = strange.get("/picture", **strange.write_sheet("foreign_record", written))
    assert answer.status_code == 200
    assert ("a prompt in a record" in answer.text) == (name == "image-0.png")
    assert "the prompt of another request" not in answer.text


def test_the_month_has_the_budget_of_the_connections(site: Site) -> None:
    month = site.get("/month").json()
    assert (month["budget_usd"], month["day_budget_usd"]) == ("250", None)
    assert Decimal(month["spent_usd"]) == sum(Decimal(day["cost_usd"]) for day in site.data()["days"][-today().day :])
    assert Decimal(month["forecast_usd"]) >= Decimal(month["spent_usd"])
    assert [(found["connection"], found["limit_usd"]) for found in month["budgets"]] == [("deepshi_default", "250")]
    assert month["budgets"][0]["spent_usd"] == month["spent_usd"]
    assert site.get("/month", dag_id="pictures").json()["budgets"] == []
    assert site.get("/month", "viewer").json()["budgets"] == [], "a part of the spending beside the whole budget"


def test_each_connection_has_its_own_budget(strange: Site) -> None:
    groups = json.dumps({"team-a": {"max_cost_usd_per_day": 2}})
    extra = {"max_cost_usd_per_month": 3, "budget_time_zone": "Asia/Tokyo", "budget_groups": groups}
    other = {"connection_id": "deepshi_other", "conn_type": "deepshi", "extra": json.dumps(extra)}
    main = Decimal(strange.get("/month").json()["spent_usd"])
    written = {**sheet("s3://b/d/i.png", output_uri="s3://b/d", cost_usd="0.5"), "deepshi_conn_id": "deepshi_other"}
    strange.write_sheet("one", written)
    strange.write_sheet("two", {**written, "budget_group": "team-a"})
    strange.airflow.request("POST", "/connections", json=other)
    try:
        month = strange.get("/month").json()
        budgets = [(found["connection"], found["spent_usd"], found["limit_usd"]) for found in month["budgets"]]
        assert budgets == [("deepshi_default", f"{main:f}", "250"), ("deepshi_other", "1.0", "3")]
        assert (Decimal(month["spent_usd"]), month["budget_usd"]) == (main + 1, None), "and not 253"
        month = strange.get("/month", conn_id="deepshi_other").json()
        assert (month["spent_usd"], month["budget_usd"], month["budgets"][0]["zone"]) == ("1.0", "3", "Asia/Tokyo")
        month = strange.get("/month", conn_id="deepshi_other", group="team-a").json()
        assert (month["spent_usd"], month["budget_usd"], month["day_budget_usd"]) == ("0.5", None, "2")
        assert strange.data()["choices"]["connections"] == ["deepshi_default", "deepshi_other"]
        assert strange.data(conn_id="deepshi_other")["totals"]["cost_usd"] == "1.0"
        assert {picture["task_id"] for picture in strange.pictures(conn_id="deepshi_other")} == {"one", "two"}
        assert strange.get("/month", conn_id="not_deepshi").json()["budgets"] == []
    finally:
        strange.airflow.request("DELETE", "/connections/deepshi_other")
