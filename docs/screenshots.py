"""``make screenshots``: pictures of Airflow with this provider and of a report, into ``docs/images``."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from playwright.sync_api import Browser, Locator, Page, sync_playwright

from dags_examples.ui import RUNS, LocalAirflow
from deepshi_provider.emulator.testing import Emulator
from tests.services import programs

FOLDER = Path(__file__).parent / "images"

_CHROMIUM = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
_PATIENCE_MS = 90_000


def main() -> None:
    """Start Airflow and the emulator, run the examples, and take all pictures."""
    chromium = programs.chromium()
    FOLDER.mkdir(exist_ok=True)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deepshi-screenshots-")))
        images = home / "images"
        images.mkdir()
        emulator = stack.enter_context(Emulator(latency=0.2, tls=True))
        print("Starting Airflow and running the examples …", flush=True)
        airflow = stack.enter_context(
            LocalAirflow(home, emulator.connection_json(output_uri=images.as_uri()), _free_port())
        )
        runs = airflow.trigger(RUNS)
        airflow.wait_for(runs)
        airflow.add_history(runs)
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium, args=_CHROMIUM)
        _costs(browser, airflow, runs)
        _connection(browser, airflow)
        _report(browser, images)
        browser.close()


def _costs(browser: Browser, airflow: LocalAirflow, runs: list[tuple[str, str]]) -> None:
    for scheme in ("light", "dark"):
        with _page(browser, airflow, "/plugin/deepshi-costs", scheme) as page:
            _wait_for_costs(page)
            _take(page, f"costs-{scheme}")
    with _page(browser, airflow, "/deepshi-costs/", height=700) as page:
        page.locator("#gallery button").first.click(timeout=_PATIENCE_MS)
        page.locator("#stage img").evaluate("image => image.decode()")
        _load(page.locator("#gallery img").all()[:12])
        _take(page, "costs-picture")
    dag_id, run_id = runs[0]
    with _page(browser, airflow, f"/dags/{dag_id}/runs/{quote(run_id)}/plugin/deepshi-run-costs") as page:
        _wait_for_costs(page)
        _take(page, "costs-run")


def _connection(browser: Browser, airflow: LocalAirflow) -> None:
    with _page(browser, airflow, "/connections", height=2300) as page:
        page.get_by_role("button", name="Add Connection").click(timeout=_PATIENCE_MS)
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("textbox").first.fill("deepshi_default")
        dialog.get_by_role("combobox").fill("Deepshi")
        page.get_by_role("option", name="Deepshi", exact=True).click()
        dialog.get_by_text("Base URL").first.wait_for(timeout=_PATIENCE_MS)
        dialog.get_by_text("Extra Fields", exact=True).click()
        dialog.get_by_text("Output URI").first.wait_for(timeout=_PATIENCE_MS)
        page.wait_for_timeout(1000)  # the dialog slides in
        _take(dialog, "connection")


def _report(browser: Browser, images: Path) -> None:
    context = browser.new_context(viewport={"width": 1200, "height": 1000})
    page = context.new_page()
    page.goto(next(images.glob("edit_chain/*/report/report.html")).as_uri())
    _take(page, "report")
    context.close()


@contextmanager
def _page(
    browser: Browser, airflow: LocalAirflow, path: str, scheme: Literal["light", "dark"] = "light", height: int = 1000
) -> Iterator[Page]:
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1440, "height": height})
    context.add_cookies([{"name": "_token", "value": airflow.token(), "url": airflow.url}])
    page = context.new_page()
    page.goto(airflow.url + path)
    yield page
    context.close()


def _wait_for_costs(page: Page) -> None:
    frame = page.frame_locator("iframe[title='Deepshi costs']")
    frame.locator("#tiles").wait_for(timeout=_PATIENCE_MS)
    _load(frame.locator("#gallery img").all()[:6])


def _load(images: list[Locator]) -> None:
    for image in images:
        image.evaluate("image => { image.loading = 'eager'; return image.decode(); }")


def _take(page: Page | Locator, name: str) -> None:
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path, animations="disabled")
    print(f"  {path}", flush=True)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


if __name__ == "__main__":
    main()
