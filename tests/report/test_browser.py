"""The report and the pages of `astarpo view` in headless Chromium: drawn, read by keyboard, and fit for a phone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from run_folders import HOSTILE, an_episode, rising, write_run

from astarpo.environments.webshop.site.server import address_of, listen, server
from astarpo.report.page import write_report
from astarpo.report.viewer import viewer

expect.set_options(timeout=30_000)

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a hostile episode among the last, as wide as they come."""
    wide = an_episode(
        "x" * 300, reward=-1.0, observation=HOSTILE + "y" * 500, reply="z" * 400, info={"w" * 90: "v" * 400}
    )
    updates = [*rising(30)[:-1], [*rising(30)[-1], wide]]
    return write_run(tmp_path_factory.mktemp("runs") / "run", updates, finished=True, metrics={"entropy": 0.25})


class Watched:
    """What a page asked for elsewhere, and complained of."""

    def __init__(self, page: Page, home: str) -> None:
        self.complaints: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith((home, "data:")) else self.complaints.append(r.url))


def fits(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == page.evaluate("innerWidth"), page.url
    assert "taken" not in page.title()


def test_a_report_opens_from_disk_draws_and_is_read_by_keyboard(browser: Browser, folder: Path, tmp_path: Path) -> None:
    path = write_report([folder], tmp_path / "report.html")
    page = browser.new_page(viewport=DESK)  # type: ignore[arg-type]
    watched = Watched(page, path.as_uri())
    page.goto(path.as_uri())
    expect(page.locator("#learning canvas")).to_be_visible()
    page.locator("#learning .plot").focus()
    page.keyboard.press("End")
    expect(page.locator("#learning .u-legend .u-series").first.locator(".u-value")).to_have_text("30")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#learning .u-legend .u-series").first.locator(".u-value")).to_have_text("29")

    tabs, panels = page.get_by_role("tab"), page.locator("article[role=tabpanel]")
    expect(panels.locator("visible=true")).to_have_count(1)
    tabs.first.focus()
    page.keyboard.press("ArrowDown")
    expect(tabs.nth(1)).to_be_focused()
    expect(tabs.nth(1)).to_have_attribute("aria-selected", "true")
    expect(panels.nth(1)).to_be_visible()
    expect(panels.first).to_be_hidden()
    # One stop for all tabs, then what is in the panel.
    page.keyboard.press("Tab")
    expect(panels.nth(1).locator(".turn").first).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(panels.nth(1).locator(".turn").nth(1)).to_be_focused()

    # A hidden probability is shown below its token where asked for.
    token = panels.nth(1).locator(".act .t").first
    before = token.bounding_box()
    page.get_by_label("show probabilities").check()
    after = token.bounding_box()
    assert before is not None
    assert after is not None
    assert after["height"] > before["height"]
    fits(page)
    assert watched.complaints == []
    page.close()


@pytest.mark.parametrize("width", [PHONE, DESK], ids=["phone", "desk"])
def test_no_report_is_wider_than_its_window_nor_runs_what_an_episode_says(
    browser: Browser, folder: Path, tmp_path: Path, width: dict[str, int]
) -> None:
    page = browser.new_page(viewport=width)  # type: ignore[arg-type]
    for path in (write_report([folder], tmp_path / "a.html"), write_report([folder, folder], tmp_path / "b.html")):
        watched = Watched(page, path.as_uri())
        page.goto(path.as_uri())
        for place in range(page.get_by_role("tab").count()):
            page.get_by_role("tab").nth(place).click()
            fits(page)
        for details in page.locator("details:visible").all():
            details.evaluate("one => one.open = true")
        fits(page)
        assert watched.complaints == []
    page.close()


def line_colours(page: Page) -> set[str]:
    """For which ground the learning curve is drawn: by the pixels of its canvas that have a line's very colour."""
    found: list[str] = page.evaluate("""() => {
        const canvas = document.querySelector("#learning canvas");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const tones = { "11,110,79": "light", "47,93,138": "light", "95,207,156": "dark", "138,184,232": "dark" };
        const seen = new Set();
        for (let i = 0; i < data.length; i += 4) {
            if (data[i + 3] === 255) seen.add(tones[`${data[i]},${data[i + 1]},${data[i + 2]}`]);
        }
        return [...seen].filter(Boolean);
    }""")
    return set(found)


def test_a_printed_report_has_all_charts_and_episodes_in_light(browser: Browser, folder: Path, tmp_path: Path) -> None:
    page = browser.new_page(viewport=DESK, color_scheme="dark")  # type: ignore[arg-type]
    page.goto(write_report([folder], tmp_path / "report.html").as_uri())
    expect(page.locator("#learning canvas")).to_be_visible()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark == "rgb(21, 25, 23)"
    page.emulate_media(media="screen")
    assert line_colours(page) == {"dark"}
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    expect(page.locator(".plot canvas")).to_have_count(page.locator(".plot").count())
    assert line_colours(page) == {"light"}
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert line_colours(page) == {"dark"}
    page.emulate_media(media="print")
    panels = page.locator("article[role=tabpanel]")
    expect(panels.locator("visible=true")).to_have_count(panels.count())
    page.close()


def test_a_comparison_names_a_diagnosis_within_the_width_of_a_desk(
    browser: Browser, folder: Path, tmp_path: Path
) -> None:
    page = browser.new_page(viewport=DESK)  # type: ignore[arg-type]
    page.goto(write_report([folder, folder], tmp_path / "both.html").as_uri())
    box = page.locator(".ends td.words").first.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] < DESK["width"]
    assert box["width"] < 300
    page.close()


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    listener = listen("127.0.0.1", 0)
    running = server(viewer(folder))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield address_of(listener, "127.0.0.1").rstrip("/")
    finally:
        running.should_exit = True
        thread.join(timeout=120)
    assert not thread.is_alive()


def opened(page: Page, title: str) -> None:
    """Wait for the page of that title, to its end: keys are heard by a script that stands there."""
    expect(page.get_by_role("heading", level=1)).to_have_text(title)
    page.wait_for_load_state("load")


def test_episodes_are_looked_for_read_and_compared_by_keyboard(browser: Browser, address: str) -> None:
    page = browser.new_page(viewport=DESK)  # type: ignore[arg-type]
    watched = Watched(page, address)
    page.goto(address)
    expect(page.locator("#learning canvas")).to_be_visible()
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Episodes").click()
    page.get_by_label("task").fill("sum/2")
    page.get_by_label("outcome").select_option("failed")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("status")).to_have_text("15 of 241 episodes.")
    page.locator(".listed a").first.click()
    opened(page, "Update 15, episode 6")
    page.keyboard.press("ArrowRight")
    opened(page, "Update 14, episode 6")
    page.keyboard.press("ArrowLeft")
    opened(page, "Update 15, episode 6")
    page.keyboard.press("j")
    expect(page.locator(".turn").first).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".turn").nth(1)).to_be_focused()
    page.get_by_role("link", name="This task early and late").click()
    expect(page.locator(".twins article")).to_have_count(2)
    fits(page)
    assert watched.complaints == []
    page.close()


def test_no_page_is_wider_than_a_phone_and_none_needs_scripts(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport=PHONE, base_url=address)  # type: ignore[arg-type]
    page = context.new_page()
    watched = Watched(page, address)
    for path in ("/", "/episodes", "/episode/30/8", "/task/30/8", "/task/1/0"):
        page.goto(path)
        for details in page.locator("details").all():
            details.evaluate("one => one.open = true")
        fits(page)
    assert watched.complaints == []
    page.goto("/no/such/page")
    fits(page)
    context.close()
    context = browser.new_context(base_url=address, java_script_enabled=False)
    page = context.new_page()
    page.goto("/episodes?task=sum/1")
    page.locator(".listed a").first.click()
    expect(page.locator(".turn").first).to_be_visible()
    page.get_by_role("link", name="Next").click()
    expect(page.locator(".turn").first).to_be_visible()
    context.close()
