"""What a visitor sees, in a real browser."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps.web.run_store import RunStore

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
expect = sync_api.expect
GENERATE = "/generate_picture"
expect.set_options(timeout=60_000)


def ask(page, count, prompt=None, steps=None):
    """Set number of candidates, prompt and steps on the Pictures tab, and press Generate."""
    page.locator("#picture-count input[type=number]").fill(str(count))
    page.locator("#picture-count input[type=number]").press("Tab")
    if prompt is not None:
        page.locator("#picture-prompt textarea").fill(prompt)
    if steps is not None:
        page.get_by_role("button", name="Model and size").click()
        page.locator("#picture-steps :is(textarea, input)").fill(str(steps))
    page.locator("#picture-go").click()


def open_tab(page, name):
    page.get_by_role("tab", name=name, exact=True).click()


def colours(picture):
    """Distinct colours of a screenshot, a sign that something is drawn."""
    return len(np.unique(np.asarray(Image.open(io.BytesIO(picture)).convert("L"))))


def test_candidates_are_shown_judged_and_dropped_in_words_and_one_wins(visit, screenshots, options):
    page = visit()
    ask(page, 6)
    expect(page.locator(".gs-card")).to_have_count(6)
    expect(page.locator(".gs-card img").first).to_be_visible()
    expect(page.locator("#picture-live .gs-counts")).to_contain_text("denoiser rows")
    page.screenshot(path=screenshots / "pictures-live.png")
    expect(page.locator("#picture-winner img")).to_be_visible()
    assert page.locator(".gs-winner").count() == 1
    expect(page.locator(".gs-winner .gs-fate")).to_have_text("winner")
    fates = page.locator(".gs-out .gs-fate").all_inner_texts()
    assert len(fates) == 5
    assert all(fate.startswith("dropped, step") or fate == "not the best" for fate in fates)
    seed = page.locator("#picture-seed textarea, #picture-seed input").input_value()
    expect(page.locator("#picture-code")).to_contain_text(f"manual_seed({seed})")
    expect(page.locator("#picture-budget")).to_contain_text("The search found")
    assert colours(page.locator("#picture-tree img").screenshot()) > 20
    assert colours(page.locator("#picture-budget img").screenshot()) > 5
    page.screenshot(path=screenshots / "pictures.png", full_page=True)
    (name,) = [n for n in page.locator("#picture-winner dd").all_inner_texts() if "ttsnap" in n]
    assert name in RunStore(Path(options.output)).names()


def test_cancel_stops_the_work_and_the_next_request_is_served(visit):
    page = visit()
    ask(page, 16, steps=50)
    expect(page.locator(".gs-card img").first).to_be_visible()
    page.locator("#picture-stop").click()
    expect(page.locator("#picture-live")).to_contain_text("Stopped after")
    expect(page.locator("#picture-outcome")).to_be_hidden()
    page.locator("#picture-steps :is(textarea, input)").fill("6")
    ask(page, 2)
    expect(page.locator("#picture-winner img")).to_be_visible()


def test_a_sampler_brings_its_own_options_and_model(visit):
    page = visit()
    options = page.locator("#picture-options")
    options.get_by_role("button").first.click()
    expect(options.get_by_label("checkpoints").locator("visible=true")).to_have_count(1)
    page.locator("#picture-sampler input").click()
    page.get_by_role("option", name="tts-var").click()
    expect(options.get_by_label("cluster scales").locator("visible=true")).to_have_count(1)
    expect(page.locator("#picture-about")).to_contain_text("coarse scales")
    ask(page, 1)
    expect(page.locator("#picture-winner")).to_contain_text("tokens")


def test_texts_are_marked_mapped_and_replayed(visit, screenshots):
    page = visit()
    open_tab(page, "Text")
    page.locator("#text-go").click()
    expect(page.locator("#text-maps table").first).to_be_visible()
    live = page.locator("#text-live")
    assert live.get_by_text(re.compile("right$|wrong$")).count() == 32
    expect(live.locator("h4")).to_have_text(["odd", "decode"])
    expect(page.locator("#text-maps")).to_contain_text("Mean similarity")
    final = page.locator("#text-replayed").inner_text()
    page.locator("#text-step input[type=number]").fill("1")
    expect(page.locator("#text-replayed")).to_contain_text("After step 1")
    assert "_" in page.locator("#text-replayed").inner_text()
    page.locator("#text-replay").click()
    expect(page.locator("#text-replayed")).to_have_text(re.compile("After step 7"))
    assert page.locator("#text-replayed").inner_text() == final
    page.screenshot(path=screenshots / "text.png", full_page=True)


def test_a_robot_acts_without_and_with_a_cache(visit, screenshots):
    pytest.importorskip("metaworld")
    page = visit()
    open_tab(page, "Policy")
    page.locator("#policy-count input[type=number]").fill("2")
    page.locator("#policy-steps :is(textarea, input)").fill("20")
    page.locator("#policy-go").click()
    live = page.locator("#policy-live")
    expect(live.locator("polyline").first).to_be_visible()
    page.screenshot(path=screenshots / "policy-live.png")
    expect(page.locator("#policy-schedule img")).to_be_visible()
    expect(live).to_contain_text("2 of 2 uncached")
    expect(live).to_contain_text("action error")
    expect(live.locator("thead th")).to_have_text(["goal", "uncached", "bac"])
    assert live.get_by_text(re.compile("✓ reached, [0-9]+ actions")).count() >= 2
    assert live.locator("svg").count() == 2
    assert live.locator("svg").first.locator("polyline").count() == 4
    page.screenshot(path=screenshots / "policy.png", full_page=True)


def test_a_robot_can_be_stopped(visit):
    pytest.importorskip("metaworld")
    page = visit()
    open_tab(page, "Policy")
    page.locator("#policy-go").click()
    expect(page.locator("#policy-live polyline").first).to_be_visible()
    page.locator("#policy-stop").click()
    expect(page.locator("#policy-live")).to_contain_text("Stopped after")


def test_a_cached_picture_is_compared_with_the_plain_one(visit, screenshots):
    page = visit()
    open_tab(page, "Caches")
    page.locator("#cache-profile input").click()
    page.get_by_role("option", name="ertacache", exact=True).click()
    page.locator("#cache-go").click()
    expect(page.locator("#cache-schedule img")).to_be_visible()
    expect(page.locator("#cache-live")).to_contain_text("dB")
    expect(page.locator("#cache-live")).to_contain_text("35 %")  # 7 steps of 20
    expect(page.locator("#cache-slider img")).to_have_count(2)
    assert colours(page.locator("#cache-slider").screenshot()) > 20
    page.screenshot(path=screenshots / "caches.png", full_page=True)


def test_a_cache_is_calibrated_and_then_compared(visit, screenshots, options):
    page = visit()
    open_tab(page, "Caches")
    page.locator("#cache-steps :is(textarea, input)").fill("6")
    page.get_by_role("button", name="Calibrate a new one").click()
    prompts = page.get_by_label("Prompts, one per line")
    prompts.fill("a red circle\ntwo blue squares\na green cross\nan orange cross")
    page.locator("#cache-make").click()
    expect(page.locator("#cache-live")).to_contain_text("Calibrated.")
    name = page.locator("#cache-profile input").input_value()
    assert name in RunStore(Path(options.output)).names("profile.json")
    page.locator("#cache-go").click()
    expect(page.locator("#cache-schedule img")).to_be_visible()
    expect(page.locator("#cache-live")).to_contain_text("evaluations reused")
    page.screenshot(path=screenshots / "calibrated.png", full_page=True)


def test_an_earlier_run_can_be_browsed_and_downloaded(visit, screenshots, client):
    found = client.predict("a red circle", "best-of-n", 2, 5, {"steps": 4}, api_name=GENERATE)
    page = visit()
    open_tab(page, "Runs")
    page.locator("#runs-run input").click()
    page.get_by_role("option", name=found["run"]).click()
    runs = page.locator("#runs-page")
    expect(runs).to_contain_text("a red circle")
    expect(runs).to_contain_text(found["seed"])
    expect(page.locator("#runs-files a")).to_have_count(6)
    page.screenshot(path=screenshots / "runs.png", full_page=True)
    with page.expect_download() as download:
        page.locator("#runs-files a[href*='results.jsonl']").first.click()
    assert found["seed"] in download.value.path().read_text()


def test_markup_in_a_prompt_is_shown_as_text_and_never_run(visit):
    page = visit()
    prompt = '<img src=x onerror="window.taken=1"><script>window.taken=1</script>\'"&amp;'
    ask(page, 1, prompt, steps=2)
    expect(page.locator("#picture-winner img")).to_be_visible()
    expect(page.locator("#picture-winner h3")).to_have_text(prompt)
    assert page.evaluate("window.taken") is None


def test_a_mistake_is_told_in_one_line(visit):
    page = visit()
    ask(page, 4, "   ")
    expect(page.get_by_role("alert")).to_contain_text("blank")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_shows_everything_without_sideways_scrolling(visit, scheme, screenshots):
    def has_all_in_sight():
        widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        return widths[0] <= widths[1]

    page = visit(width=375, height=740, color_scheme=scheme)
    assert has_all_in_sight()
    expect(page.locator("#picture-go")).to_be_in_viewport()
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = sum(map(int, re.findall(r"\d+", ground)[:3]))
    assert lightness > 600 if scheme == "light" else lightness < 200
    page.screenshot(path=screenshots / f"narrow-{scheme}.png")
    ask(page, 1, steps=2)
    expect(page.locator("#picture-budget img")).to_be_visible()
    assert has_all_in_sight()
    page.screenshot(path=screenshots / f"narrow-{scheme}-found.png", full_page=True)


def test_the_keyboard_is_enough(visit):
    page = visit()
    page.locator("#picture-prompt textarea").focus()
    names = []
    for _ in range(12):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.textContent.trim()"))
        if names[-1] == "Generate":
            break
    assert names[-1] == "Generate"
    page.keyboard.press("Enter")
    expect(page.locator(".gs-card").first).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#picture-live")).to_contain_text("Stopped after")
