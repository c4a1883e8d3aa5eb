"""Takes the screenshots of `docs/pictures` in a real browser.

python docs/screenshots.py        starts the app on the zoo, in a folder that is thrown away
python docs/screenshots.py URL    takes those of an app that runs already

Needs Chromium and Playwright.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from apps.web.options import AppOptions
from apps.web.serving import build_page, launch, make_context

PICTURES = Path(__file__).parent / "pictures"
PATIENCE_MS = 600_000
LIVE_AT = "dropped, step"
"""What has to be on the page when the live view is taken."""


def main() -> None:
    """Drive the app and take the pictures."""
    running = sys.argv[1:]
    with (
        nullcontext(running[0]) if running else _served() as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--headless", "--no-sandbox", "--disable-gpu"],
        )
        page = _open(browser, url, 1180, 860)
        _pictures(page)
        _text(page)
        _policy(page)
        _caches(page)
        _runs(page)
        _narrow(_open(browser, url, 390, 844, color_scheme="dark"))
        browser.close()


@contextmanager
def _served() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        options = AppOptions(port=0, output=folder)
        app = build_page(make_context(options))
        _, url, _ = launch(app, options)
        yield url
        app.close(verbose=False)


def _open(browser: Any, url: str, width: int, height: int, **settings: Any) -> Any:
    context = browser.new_context(viewport={"width": width, "height": height}, **settings)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(url)
    page.locator("#picture-go").wait_for()
    return page


def _pictures(page: Any) -> None:
    count = page.locator("#picture-count input[type=number]")
    count.fill("14")
    count.press("Tab")
    page.locator("#picture-go").click()
    page.get_by_text(LIVE_AT).first.wait_for()
    _take(page, "app-live")
    page.locator("#picture-budget img").wait_for()
    page.locator("#picture-winner").scroll_into_view_if_needed()
    _take(page, "app-pictures", full_page=True)


def _text(page: Any) -> None:
    page.get_by_role("tab", name="Text", exact=True).click()
    page.locator("#text-go").click()
    page.locator("#text-maps table").first.wait_for()
    _take(page, "app-text", full_page=True)


def _policy(page: Any) -> None:
    page.get_by_role("tab", name="Policy", exact=True).click()
    page.locator("#policy-go").click()
    page.locator("#policy-schedule img").wait_for()
    _take(page, "app-policy", full_page=True)


def _caches(page: Any) -> None:
    page.get_by_role("tab", name="Caches", exact=True).click()
    page.locator("#cache-profile input").click()
    page.get_by_role("option", name="bac", exact=True).click()
    page.locator("#cache-go").click()
    page.locator("#cache-schedule img").wait_for()
    _take(page, "app-caches", full_page=True)


def _runs(page: Any) -> None:
    page.get_by_role("tab", name="Runs", exact=True).click()
    page.locator("#runs-run input").click()
    page.get_by_role("option", name="ttsnap").first.click()
    page.locator("#runs-page img").first.wait_for()
    page.locator("#runs-files a").first.wait_for()
    _take(page, "app-runs", full_page=True)


def _narrow(page: Any) -> None:
    count = page.locator("#picture-count input[type=number]")
    count.fill("6")
    count.press("Tab")
    page.locator("#picture-go").click()
    page.locator(".gs-winner").wait_for()
    page.locator("#picture-live").scroll_into_view_if_needed()
    _take(page, "app-narrow")


def _take(page: Any, name: str, **settings: Any) -> None:
    page.wait_for_timeout(600)
    page.screenshot(path=PICTURES / f"{name}.png", **settings)


if __name__ == "__main__":
    main()
