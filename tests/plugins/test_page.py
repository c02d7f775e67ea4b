"""The page in a real browser, inside Airflow's UI and alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FrameLocator, Locator, Page, expect

from tests.plugins.site import PREFIX, Site, sheet

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

Scheme = Literal["light", "dark"]

#: The first view of Airflow's UI is slow on a busy machine.
PATIENCE_MS = 60_000

#: Of Airflow's own scripts and interface, and of common.ai's tab: that a task instance asks nobody is a 404.
OWN_OF_AIRFLOW = ("/static/assets/", "/api/v2/", "/ui/", "/hitl-review/")

#: Chromium logs this for every frame that Airflow creates for a plugin.
OF_AIRFLOW = "An iframe which has both allow-scripts and allow-same-origin"


@pytest.fixture
def open_page(site: Site, chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Return a function that opens a path as a logged-in user; no page may log to the console."""
    contexts = []
    complaints: list[str] = []

    def opened(path: str, *, scheme: Scheme = "light", user: str = "admin") -> Page:
        context = chromium.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        context.add_cookies([{"name": "_token", "value": site.airflow.token(user), "url": site.airflow.base_url}])
        page = context.new_page()
        page.on(
            "console",
            lambda message: (
                None
                if any(part in message.location["url"] for part in OWN_OF_AIRFLOW)
                else complaints.append(message.text)
            ),
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"a script ran: {dialog.message}"))
        page.goto(site.airflow.base_url + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [text for text in complaints if OF_AIRFLOW not in text] == []


def loaded(page: Page) -> Page:
    expect(page.locator("main[aria-busy=false]")).to_be_visible(timeout=PATIENCE_MS)
    return page


def run_address(site: Site, dag_id: str = "pictures") -> str:
    return f"{PREFIX}/?dag_id={dag_id}&run_id={quote(site.runs[dag_id])}"


def exact(found: Locator) -> Decimal:
    """Return the exact amount of a rounded one."""
    return Decimal(found.locator("data").first.get_attribute("value") or "")


def tile(page: Page | FrameLocator, name: str) -> Locator:
    return page.locator(f"#tiles > div:has(dt:text-is('{name}'))")


def rows(page: Page | FrameLocator, table: str) -> dict[str, Decimal]:
    found = page.locator(f"#{table} tbody tr").all()
    return {row.locator("th a").first.inner_text(): exact(row.locator("td").last) for row in found}


def show_all_images(page: Page | FrameLocator) -> list[dict[str, Any]]:
    """Scroll to each image of the gallery and return the browser's properties of it."""
    found = []
    for image in page.locator("#gallery img").all():
        image.scroll_into_view_if_needed()
        handle = image.element_handle()
        assert handle is not None
        image.evaluate("image => image.decode()")
        found.append({"width": image.evaluate("image => image.naturalWidth")})
    return found


def test_numbers_equal_the_ledger(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(run_address(site)))

    totals = site.data(dag_id="pictures", run_id=site.runs["pictures"])["totals"]
    charged = Decimal(site.ledger["cost_usd"])
    spent = charged - Decimal(totals["may_have_cost_usd"])
    assert exact(tile(page, "Cost").locator(".value")) == spent
    assert exact(tile(page, "Possible extra").locator(".value")) + spent == charged
    assert exact(tile(page, "Per picture").locator(".value")) == (spent / 7).quantize(Decimal("1e-12"))
    expect(tile(page, "Per picture")).to_contain_text("7 images bought")
    expect(tile(page, "Possible extra")).to_contain_text("1 unknown outcome")
    assert set(rows(page, "tasks")) == {"draw", "edit", "batch"}
    assert set(rows(page, "instances")) == {"draw [0]", "draw [1]", "draw [2]", "edit", "batch"}
    assert set(rows(page, "models")) == {"deepshi-banana-pro", "deepshi-image-1", "seedream-4.5"}
    for table in ("tasks", "models", "instances"):
        assert sum(rows(page, table).values()) == spent


def test_unknown_outcomes_are_shown_in_each_table(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(run_address(site)))
    for table, name in (("tasks", "draw"), ("instances", "draw [1]"), ("models", "deepshi-banana-pro")):
        doubtful = page.locator(f"#{table} tr.in-doubt")
        expect(doubtful).to_have_count(1)
        expect(doubtful.locator("a").first).to_have_text(name)
        expect(doubtful).to_contain_text(re.compile(r"at least \$[\d.]+, up to about \$[\d.]+"))


def test_sums_are_rounded_and_exact_on_hover(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(f"{PREFIX}/"))
    amounts = page.locator("#content data:visible").all()
    assert len(amounts) > 10
    for found in amounts:
        value = Decimal(found.get_attribute("value") or "")
        shown = Decimal(found.inner_text().removeprefix("$").replace(",", ""))
        assert abs(shown - value) <= max(Decimal("0.005"), value) * Decimal("0.0005") or abs(shown - value) <= Decimal(
            "0.005"
        )
        assert len(shown.normalize().as_tuple().digits) <= 4 or value >= 100
        if title := found.get_attribute("title"):
            assert Decimal(title.removeprefix("$")) == value


def test_the_cost_is_the_first_and_largest_number(open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(f"{PREFIX}/"))
    sizes = page.locator("#tiles .value").evaluate_all(
        "all => all.map(found => parseFloat(getComputedStyle(found).fontSize))"
    )
    assert page.locator("#tiles dt").first.inner_text() == "Cost"
    assert sizes[0] > max(sizes[1:])
    expect(tile(page, "Cost")).to_contain_text("in the 30 days before")
    expect(tile(page, "This month")).to_contain_text("of $250.00 budget")
    expect(page.locator("#month-legend")).to_have_text("spentforecastbudget $250.00")


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_no_label_of_a_chart_touches_a_line_or_another_label(open_page: Callable[..., Page], width: int) -> None:
    page = open_page(f"{PREFIX}/")
    page.set_viewport_size({"width": width, "height": 1000})
    loaded(page)
    charts = page.locator("#days svg, #month svg").all()
    assert [chart.locator(".limit").count() for chart in charts] == [0, 1]
    for chart in charts:
        labels = [found.bounding_box() for found in chart.locator("text").all()]
        drawn = [found.bounding_box() for found in chart.locator("line, polyline, polygon, rect").all()]
        assert len(labels) >= 6
        assert [(a, b) for a, b in combinations(labels, 2) if overlap(a, b)] == []
        assert [(a, b) for a in labels for b in drawn if overlap(a, b)] == []


def overlap(one: Any, other: Any) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "width"), ("y", "height"))
    )


def test_days_and_dags_of_a_period_equal_their_sum(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(f"{PREFIX}/"))

    cost = exact(tile(page, "Cost").locator(".value"))
    assert cost == Decimal(site.data()["totals"]["cost_usd"])
    assert set(rows(page, "dags")) == {"pictures", "secret_pictures", "hooked"}
    assert sum(rows(page, "dags").values()) == sum(rows(page, "runs").values()) == cost
    page.locator("summary").click()
    days = page.locator("#days-table tr td:last-child").all_inner_texts()
    found = [re.search(r"\$([\d.]+)", day) for day in days]
    assert sum(Decimal(match[1]) for match in found if match) == cost
    assert page.locator("#days g.bucket").count() == len(days)
    bars = page.locator("#days g.bucket").first.locator("rect")
    assert bars.count() == 3, "a part for each DAG"
    page.get_by_label("Stacked by").select_option("model")
    expect(page.locator("#legend")).to_contain_text("seedream-4.5")
    assert page.url.endswith("?stack=model")


def test_the_gallery_shows_pictures_and_opens_them(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(run_address(site)))

    assert [image["width"] for image in show_all_images(page)].count(96) == 4
    card = page.get_by_role("button", name="a red boat")
    card.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text(re.compile("^96 \u00d7 64, "))).to_be_visible()
    full = dialog.get_by_role("img", name="a red boat")
    full.evaluate("image => image.decode()")
    assert full.evaluate("image => image.naturalWidth") == 96
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(card).to_be_focused()


def test_a_picture_that_differs_from_its_request_has_a_warning(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(run_address(site, "secret_pictures")))
    page.get_by_role("button", name="a secret boat").click()
    expect(page.get_by_role("dialog").get_by_text("Image 0 has 96x64 pixels, which is not 1:1")).to_be_visible()


def test_prompts_are_text(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(run_address(site)))

    for prompt in ("<script>alert(1)</script>", "javascript:alert(2)"):
        page.get_by_role("button", name=prompt).click()
        expect(page.locator("#picture-prompt")).to_have_text(prompt)
        page.keyboard.press("Escape")
    assert page.locator("a[href^='javascript']").count() == 0
    assert page.locator("script").count() == 1


def test_filters_are_in_the_address(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(f"{PREFIX}/"))

    page.get_by_label("DAG", exact=True).select_option("secret_pictures")
    expect(page.locator("#gallery li")).to_have_count(1)
    assert page.url.endswith("?dag_id=secret_pictures")
    page.get_by_label("DAG", exact=True).select_option("")
    page.get_by_label("Model", exact=True).select_option("seedream-4.5")
    expect(page.locator("#gallery li")).to_have_count(3)
    assert rows(page, "models") == {"seedream-4.5": Decimal(site.data(model="seedream-4.5")["totals"]["cost_usd"])}
    page.get_by_label("Period", exact=True).select_option("7")
    expect(page.locator("#days svg")).to_be_visible()
    assert page.url.endswith("?model=seedream-4.5&period=7")
    page.get_by_label("Text in the prompt").fill("letter B")
    page.get_by_label("Text in the prompt").press("Enter")
    expect(page.locator("#gallery li")).to_have_count(1)
    assert page.url.endswith("?model=seedream-4.5&text=letter%20B&period=7")
    page.go_back()
    page.reload()
    loaded(page)
    assert page.get_by_label("Model", exact=True).input_value() == "seedream-4.5"
    page.go_back()
    page.go_back()
    expect(page.locator("#gallery li")).to_have_count(8)


def test_selected_days_are_queried(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(f"{PREFIX}/?period=custom&start=2020-01-01&end=2020-01-31"))

    expect(page.get_by_text("No costs here")).to_be_visible()
    expect(page.locator("#empty-text")).to_contain_text("DeepshiGenerateImageOperator")
    page.get_by_label("From").fill("2026-01-01")
    expect(page.get_by_role("alert")).to_contain_text("The first day is after the last.")
    page.get_by_label("To").fill(site.data()["end"])
    page.get_by_label("To").press("Enter")
    expect(page.locator("#gallery li")).to_have_count(8)


def test_a_run_can_be_opened_and_closed_by_keyboard(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(f"{PREFIX}/"))

    page.get_by_role("link", name=site.runs["secret_pictures"], exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Deepshi costs of this run")).to_be_visible()
    expect(page.locator("#gallery li")).to_have_count(1)
    page.get_by_role("link", name="All costs").click()
    expect(page.locator("#gallery li")).to_have_count(8)


def test_the_page_is_in_the_navigation(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page("/plugin/deepshi-costs")

    frame = page.frame_locator("iframe[title='Deepshi costs']")
    expect(frame.locator("#tiles")).to_be_visible(timeout=PATIENCE_MS)
    assert exact(tile(frame, "Cost").locator(".value")) == Decimal(site.data()["totals"]["cost_usd"])
    assert {image["width"] for image in show_all_images(frame)} >= {96}


def test_airflow_shows_the_filters_in_its_address_bar(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page("/plugin/deepshi-costs")
    frame = page.frame_locator("iframe[title='Deepshi costs']")
    frame.get_by_label("DAG", exact=True).select_option("secret_pictures", timeout=PATIENCE_MS)
    expect(frame.locator("#gallery li")).to_have_count(1)
    expect(page).to_have_url(re.compile(r"/plugin/deepshi-costs.*\?dag_id=secret_pictures$"))
    sent = page.url
    page.reload()
    expect(frame.locator("#gallery li")).to_have_count(1, timeout=PATIENCE_MS)
    expect(frame.locator("#crumbs")).to_contain_text("secret_pictures")
    elsewhere = open_page(sent.removeprefix(site.airflow.base_url))
    other = elsewhere.frame_locator("iframe[title='Deepshi costs']")
    expect(other.locator("#gallery li")).to_have_count(1, timeout=PATIENCE_MS)
    frame.get_by_role("link", name="All costs").click()
    expect(page).to_have_url(re.compile(r"/plugin/deepshi-costs[^?]*$"))
    page.go_back()
    expect(frame.locator("#gallery li")).to_have_count(1, timeout=PATIENCE_MS)
    expect(page).to_have_url(re.compile(r"\?dag_id=secret_pictures$"))


def test_links_out_of_the_frame_lead_to_airflow(site: Site, open_page: Callable[..., Page]) -> None:
    run_id = quote(site.runs["secret_pictures"], safe="")
    run = f"/dags/secret_pictures/runs/{run_id}"
    ways = {
        "Open the DAG in Airflow": "/dags/secret_pictures",
        "Open the run in Airflow": run,
        "Open the task instance in Airflow": f"{run}/tasks/draw/details",
        "Open the task's log in Airflow": f"{run}/tasks/draw",
    }
    page = open_page(f"/plugin/deepshi-costs?dag_id=secret_pictures&run_id={run_id}&task_id=draw")
    for name, path in ways.items():
        frame = page.frame_locator("iframe[title='Deepshi costs']")
        frame.get_by_role("link", name=name).first.click(timeout=PATIENCE_MS)
        expect(page).to_have_url(
            re.compile(f"^{re.escape(site.airflow.base_url + path)}/?([?#].*)?$"), timeout=PATIENCE_MS
        )
        expect(page.get_by_text("secret_pictures").first).to_be_visible(timeout=PATIENCE_MS)
        page.go_back()


def test_a_task_instance_has_a_tab_that_begins_with_its_picture(site: Site, open_page: Callable[..., Page]) -> None:
    run = f"/dags/secret_pictures/runs/{quote(site.runs['secret_pictures'], safe='')}"
    page = open_page(f"{run}/tasks/draw/plugin/deepshi-task-costs")
    frame = page.frame_locator("iframe[title='Deepshi costs']")
    expect(frame.locator("#gallery li")).to_have_count(1, timeout=PATIENCE_MS)
    picture, cost = frame.locator("#pictures").bounding_box(), frame.locator("#tiles").bounding_box()
    assert picture
    assert cost
    assert picture["y"] < cost["y"]
    assert exact(tile(frame, "Cost").locator(".value")) == Decimal(
        site.data(dag_id="secret_pictures")["totals"]["cost_usd"]
    )


def test_a_picture_has_an_address_and_links(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(run_address(site)))
    page.get_by_role("button", name="a red boat").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("#place")).to_have_text(re.compile(r"\d of 7"))
    with page.expect_download() as download:
        dialog.get_by_role("link", name="Download").click()
    red = next(found for found in site.pictures(dag_id="pictures") if found["prompt"] == "a red boat")
    assert Path(download.value.path()).read_bytes() == Path(red["uri"].removeprefix("file://")).read_bytes()
    assert download.value.suggested_filename == red["uri"].rpartition("/")[2]
    expect(dialog.get_by_text("sent once, try 1")).to_be_visible()
    dialog.locator("#picture-edits button").click()
    expect(dialog.locator("#picture-prompt")).to_have_text("javascript:alert(2)")
    expect(dialog.locator("#picture-sources li")).to_have_count(3)
    sent = page.url
    again = loaded(open_page(sent.removeprefix(site.airflow.base_url)))
    expect(again.locator("#picture-prompt")).to_have_text("javascript:alert(2)")
    again.keyboard.press("Escape")
    expect(again.get_by_role("dialog")).to_be_hidden()
    expect(again).not_to_have_url(re.compile("picture="))


def test_the_lightbox_can_be_used_by_keyboard(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(run_address(site)))
    page.locator("#gallery button").first.focus()
    page.keyboard.press("Enter")
    seen = [page.locator("#place").inner_text()]
    for _ in range(6):
        page.keyboard.press("ArrowRight")
        seen.append(page.locator("#place").inner_text())
    assert seen == [f"{number} of 7" for number in range(1, 8)]
    expect(page.locator("#next")).to_be_disabled()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#place")).to_have_text("6 of 7")


def test_everything_is_reachable_by_tab(open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(f"{PREFIX}/"))
    wanted = page.locator(
        "a[href]:visible, button:visible:enabled, select:visible, input:visible, summary:visible"
    ).count()
    assert wanted > 20
    marked = "() => { const found = document.activeElement; found.dataset.reached = '1'; return found.tagName; }"
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        page.evaluate(marked)
    left = page.locator("a[href]:visible, button:visible:enabled, select:visible, input:visible, summary:visible")
    assert [found.inner_text() for found in left.all() if not found.get_attribute("data-reached")] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1440])
def test_the_page_fits_every_width(open_page: Callable[..., Page], width: int, scheme: Scheme) -> None:
    page = open_page(f"{PREFIX}/?period=365", scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    loaded(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.locator("#days text").evaluate_all("all => all.map(found => found.getBoundingClientRect().height)")
    assert min(sizes) >= 10, "text of a chart keeps its size"
    bars = page.locator("#days rect.bar").evaluate_all("all => all.map(found => found.getBoundingClientRect().width)")
    assert min(bars) >= 4, "no hairlines"
    broken = """all => all.filter(found =>
        found.getBoundingClientRect().height > 1.5 * parseFloat(getComputedStyle(found).lineHeight)
    ).map(found => found.textContent)"""
    assert page.locator("#tiles .value").evaluate_all(broken) == []
    violations = Axe().run(page).response["violations"]
    assert [(found["id"], [node["html"] for node in found["nodes"]]) for found in violations] == []


def test_a_run_has_a_tab_with_its_own_costs(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page(f"/dags/secret_pictures/runs/{quote(site.runs['secret_pictures'])}")

    page.get_by_role("link", name="Deepshi costs").or_(page.get_by_role("tab", name="Deepshi costs")).first.click()
    frame = page.frame_locator("iframe[title='Deepshi costs']")
    expect(frame.get_by_role("heading", name="Deepshi costs of this run")).to_be_visible(timeout=PATIENCE_MS)
    expect(frame.locator("#gallery li")).to_have_count(1, timeout=PATIENCE_MS)
    data = site.data(dag_id="secret_pictures", run_id=site.runs["secret_pictures"])
    assert exact(tile(frame, "Cost").locator(".value")) == Decimal(data["totals"]["cost_usd"])


def test_a_viewer_sees_no_other_dags(open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(f"{PREFIX}/", user="viewer"))

    assert set(rows(page, "dags")) == {"pictures", "hooked"}
    assert "secret" not in page.content()


def test_a_refused_dag_is_an_error_that_can_be_tried_again(site: Site, chromium: Browser) -> None:
    context = chromium.new_context()
    context.add_cookies([{"name": "_token", "value": site.airflow.token("viewer"), "url": site.airflow.base_url}])
    page = context.new_page()
    page.goto(f"{site.airflow.base_url}{PREFIX}/?dag_id=secret_pictures")

    expect(page.get_by_role("alert")).to_contain_text("You may not read the costs of this DAG.", timeout=PATIENCE_MS)
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    context.close()


def test_a_run_without_costs_has_a_message(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(run_address(site, "strange")))

    expect(page.get_by_text("No Deepshi task of this run has reported costs.")).to_be_visible()


def test_a_missing_image_has_a_message(strange: Site, chromium: Browser) -> None:
    strange.write_sheet("gone", sheet(f"{strange.images.as_uri()}/gone.png", output_uri=strange.images.as_uri()))
    context = chromium.new_context()
    context.add_cookies([{"name": "_token", "value": strange.airflow.token(), "url": strange.airflow.base_url}])
    page = context.new_page()
    page.goto(strange.airflow.base_url + run_address(strange, "strange"))

    expect(page.locator("#gallery")).to_contain_text("The image is no longer in its store", timeout=PATIENCE_MS)
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["period", "run", "dialog", "empty"])
def test_axe_finds_nothing_serious(site: Site, open_page: Callable[..., Page], scheme: Scheme, view: str) -> None:
    addresses = {"run": run_address(site), "empty": f"{PREFIX}/?period=custom&start=2020-01-01&end=2020-01-02"}
    page = loaded(open_page(addresses.get(view, f"{PREFIX}/"), scheme=scheme))
    if view == "dialog":
        page.get_by_role("button", name="a red boat").click()

    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    violations = Axe().run(page).response["violations"]

    assert dark == (scheme == "dark")
    assert [(found["id"], found["impact"], [node["html"] for node in found["nodes"]]) for found in violations] == []
