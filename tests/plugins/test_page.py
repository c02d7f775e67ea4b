"""The page in a real browser, inside Airflow's UI and alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FrameLocator, Page, expect

from tests.plugins.site import PREFIX, Site, sheet

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

Scheme = Literal["light", "dark"]

#: Under load a first view of Airflow's UI takes long.
PATIENCE_MS = 60_000

#: Of Airflow's own scripts, which say things of their own.
ASSETS = "/static/assets/"

#: Chromium says this of every frame that Airflow makes for a plugin.
OF_AIRFLOW = "An iframe which has both allow-scripts and allow-same-origin"


@pytest.fixture
def open_page(site: Site, chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Returns a function that opens a path as a logged-in user; no page may write to the console."""
    contexts = []
    complaints: list[str] = []

    def opened(path: str, *, scheme: Scheme = "light", user: str = "admin") -> Page:
        context = chromium.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        context.add_cookies([{"name": "_token", "value": site.airflow.token(user), "url": site.airflow.base_url}])
        page = context.new_page()
        page.on(
            "console", lambda message: None if ASSETS in message.location["url"] else complaints.append(message.text)
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


def tile(page: Page | FrameLocator, name: str) -> str:
    return page.locator("#tiles > div", has_text=name).locator("dd").first.inner_text()


def amount(text: str) -> Decimal:
    return Decimal(text.removeprefix("$"))


def rows(page: Page | FrameLocator, table: str) -> dict[str, Decimal]:
    found = page.locator(f"#{table} tbody tr").all()
    return {
        row.locator("th").inner_text().split("\n")[0].strip(): amount(row.locator("td").last.inner_text())
        for row in found
    }


def show_all_images(page: Page | FrameLocator) -> list[dict[str, Any]]:
    """Scroll to every image of the gallery and return what the browser knows of it."""
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
    spent = Decimal(site.ledger["cost_usd"]) - Decimal(totals["may_have_cost_usd"])
    assert amount(tile(page, "Cost")) == spent
    assert tile(page, "Images bought") == "7"
    assert tile(page, "Unknown outcomes") == "1"
    doubt = page.locator("#tiles > div", has_text="Unknown outcomes").locator("dd").last.inner_text()
    assert amount(doubt.removeprefix("may have cost ")) + spent == Decimal(site.ledger["cost_usd"])
    assert set(rows(page, "tasks")) == {"draw", "edit", "batch"}
    assert set(rows(page, "models")) == {"deepshi-banana-pro", "deepshi-image-1", "seedream-4.5"}
    for table in ("tasks", "models"):
        assert sum(rows(page, table).values()) == spent


def test_days_and_dags_of_a_period_equal_their_sum(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(f"{PREFIX}/"))

    cost = amount(tile(page, "Cost"))
    assert cost == Decimal(site.data()["totals"]["cost_usd"])
    assert set(rows(page, "dags")) == {"pictures", "secret_pictures"}
    assert sum(rows(page, "dags").values()) == sum(rows(page, "runs").values()) == cost
    page.locator("summary").click()
    days = page.locator("#days-table tr td:last-child").all_inner_texts()
    assert sum(amount(day) for day in days) == cost
    assert page.locator("#days rect.bar").count() == len(days)


def test_the_gallery_shows_pictures_and_opens_them(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(run_address(site)))

    assert [image["width"] for image in show_all_images(page)].count(96) == 4
    card = page.get_by_role("button", name="a red boat")
    card.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("96 \u00d7 64")).to_be_visible()
    full = dialog.get_by_role("img", name="a red boat")
    full.evaluate("image => image.decode()")
    assert full.evaluate("image => image.naturalWidth") == 96
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(card).to_be_focused()


def test_a_picture_that_is_not_as_it_was_asked_for_says_so(site: Site, open_page: Callable[..., Page]) -> None:
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
    page.reload()
    loaded(page)
    assert page.get_by_label("Model", exact=True).input_value() == "seedream-4.5"
    page.go_back()
    page.go_back()
    expect(page.locator("#gallery li")).to_have_count(8)


def test_chosen_days_are_asked_for(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(f"{PREFIX}/?period=custom&start=2020-01-01&end=2020-01-31"))

    expect(page.get_by_text("No costs here")).to_be_visible()
    page.get_by_label("From").fill("2026-01-01")
    expect(page.get_by_role("alert")).to_contain_text("The first day is after the last.")
    page.get_by_label("To").fill(site.data()["end"])
    page.get_by_label("To").press("Enter")
    expect(page.locator("#gallery li")).to_have_count(8)


def test_a_run_is_reached_by_keyboard_and_left_again(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(f"{PREFIX}/"))

    page.get_by_role("link", name=site.runs["secret_pictures"]).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Deepshi costs of this run")).to_be_visible()
    expect(page.locator("#gallery li")).to_have_count(1)
    page.get_by_role("link", name="All costs").click()
    expect(page.locator("#gallery li")).to_have_count(8)


def test_the_page_is_in_the_navigation(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page("/plugin/deepshi-costs")

    frame = page.frame_locator("iframe[title='Deepshi costs']")
    expect(frame.locator("#tiles")).to_be_visible(timeout=PATIENCE_MS)
    assert amount(tile(frame, "Cost")) == Decimal(site.data()["totals"]["cost_usd"])
    assert {image["width"] for image in show_all_images(frame)} >= {96}


def test_a_run_has_a_tab_with_its_own_costs(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page(f"/dags/secret_pictures/runs/{quote(site.runs['secret_pictures'])}")

    page.get_by_role("link", name="Deepshi costs").or_(page.get_by_role("tab", name="Deepshi costs")).first.click()
    frame = page.frame_locator("iframe[title='Deepshi costs']")
    expect(frame.get_by_role("heading", name="Deepshi costs of this run")).to_be_visible(timeout=PATIENCE_MS)
    expect(frame.locator("#gallery li")).to_have_count(1, timeout=PATIENCE_MS)
    said = site.data(dag_id="secret_pictures", run_id=site.runs["secret_pictures"])
    assert amount(tile(frame, "Cost")) == Decimal(said["totals"]["cost_usd"])


def test_a_viewer_sees_no_other_dags(open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(f"{PREFIX}/", user="viewer"))

    assert set(rows(page, "dags")) == {"pictures"}
    assert "secret" not in page.content()


def test_a_refused_dag_is_an_error_that_can_be_tried_again(site: Site, chromium: Browser) -> None:
    context = chromium.new_context()
    context.add_cookies([{"name": "_token", "value": site.airflow.token("viewer"), "url": site.airflow.base_url}])
    page = context.new_page()
    page.goto(f"{site.airflow.base_url}{PREFIX}/?dag_id=secret_pictures")

    expect(page.get_by_role("alert")).to_contain_text("You may not read the costs of this DAG.", timeout=PATIENCE_MS)
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    context.close()


def test_a_run_without_costs_says_so(site: Site, open_page: Callable[..., Page]) -> None:
    page = loaded(open_page(run_address(site, "strange")))

    expect(page.get_by_text("No Deepshi task of this run has told costs.")).to_be_visible()


def test_an_image_that_is_gone_says_so(strange: Site, chromium: Browser) -> None:
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
