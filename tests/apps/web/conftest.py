"""One app for all tests of this folder, and a real browser that looks at it."""

import os
import shutil
from pathlib import Path

import pytest

from apps.web.options import AppOptions

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
VARIABLES = ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED")


@pytest.fixture(scope="session")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    return AppOptions(
        port=0, output=str(folder / "runs"), max_candidates=16, max_prompt=200, max_steps=50
    )


@pytest.fixture(scope="session")
def address(options):
    """Where the app is served."""
    from apps.web.serving import build_page, launch, make_context

    before = {name: os.environ.get(name) for name in VARIABLES}
    page = build_page(make_context(options))
    _, url, _ = launch(page, options)
    yield url
    page.close(verbose=False)
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def chromium():
    if CHROMIUM is None:
        pytest.skip("needs Chromium: install the package chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, address):
    """Opens the page in a profile of its own."""
    contexts = []

    def visit(width=1280, height=900, **settings):
        context = chromium.new_context(viewport={"width": width, "height": height}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        page.get_by_role("button", name="Generate").wait_for()
        return page

    yield visit
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory):
    """Where screenshots are kept: $GENSIFT_SCREENSHOTS, or pytest's folder of this session."""
    given = os.environ.get("GENSIFT_SCREENSHOTS")
    folder = Path(given) if given else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def client(address):
    from gradio_client import Client

    return Client(address, verbose=False)
