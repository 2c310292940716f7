"""The report in a real browser: everything in it works, and it asks nobody for anything."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from raydaa.reporting.compare import load_studies, write_comparison
from raydaa.reporting.results import TrialResults
from tests.reporting.folders import HOSTILE, PROMPTS, hostile_study

CHROMIUM = shutil.which("chromium")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report's."""
    folder = tmp_path_factory.mktemp("study")
    hostile_study(folder)
    return TrialResults.load(folder).report(folder / "report").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET) as launched:
        yield launched


@contextlib.contextmanager
def opened(browser: Browser, address: str, scheme: Literal["light", "dark"], width: int) -> Iterator[Page]:
    """A page in a browser; at the end nothing has complained, and nothing but the page was asked for."""
    complaints, requests = list[str](), list[str]()
    with browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}) as context:
        view = context.new_page()
        view.on("console", lambda message: complaints.append(message.text))
        view.on("pageerror", lambda error: complaints.append(str(error)))
        view.on("dialog", lambda dialog: complaints.append(dialog.message))
        view.on("request", lambda asked: requests.append(asked.url))
        view.goto(address)
        view.wait_for_function(
            "document.querySelectorAll('[data-drawn]').length == document.querySelectorAll('[data-figure]').length"
        )
        yield view
        assert complaints == []
        assert requests == [address]
        assert "owned" not in view.title()
        assert view.locator("img[src=x]").count() == 0
        assert view.locator("svg a").count() == 0  # Plotly would make one of a name
        assert view.locator("svg.main-svg").count() > 1


@pytest.fixture(scope="module", params=[("light", 1200), ("dark", 390)], ids=["light", "dark, on a phone"])
def page(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Page]:
    """The report, opened; each test leaves its figures as they were."""
    with opened(browser, address, *request.param) as view:
        yield view


def test_it_fits_and_shows_its_figures(page: Page, tmp_path: Path) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]  # type: ignore[index]
    assert page.locator("[data-figure] svg.main-svg").count() >= 4
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert ink != paper
    drawn = page.evaluate("getComputedStyle(document.querySelector('[data-figure] .xtick text')).fill")
    assert drawn == ink  # in dark and in light
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 50_000


def test_a_method_left_out_leaves_every_figure(page: Page) -> None:
    points, bars = (
        page.locator("[data-figure=pareto] .points path.point"),
        page.locator("[data-figure=outcomes] .point"),
    )
    assert (points.count(), bars.count()) == (2, 6)
    page.get_by_label("nca", exact=True).uncheck()
    page.wait_for_function("document.querySelectorAll('[data-figure=pareto] .points path.point').length == 1")
    page.wait_for_function("document.querySelectorAll('[data-figure=outcomes] .point').length == 3")
    page.get_by_label("nca", exact=True).check()
    page.wait_for_function("document.querySelectorAll('[data-figure=pareto] .points path.point').length == 2")


def test_a_click_on_a_point_shows_its_trial_and_its_responses(page: Page) -> None:
    page.locator("[data-figure=outcomes] .point").first.click(force=True)
    assert page.locator("#trial").is_visible()
    assert page.locator("#trial-label").text_content() == f"dpo a {HOSTILE}"
    facts = dict(zip(*(page.locator(f"#trial-facts {tag}").all_text_contents() for tag in ("dt", "dd")), strict=True))
    assert (facts["method"], facts["win rate (%)"], facts["steps"]) == ("dpo", "70.0 [60.0, 80.0]", "4/4")
    page.locator("#trial-samples").click()
    assert not page.locator("#trial").is_visible()
    assert page.locator("#response").text_content() == f"a says 0 {HOSTILE}"


def test_the_pointer_on_a_curve_says_which_trial_it_is(page: Page) -> None:
    plot = page.locator("[data-figure=learning_curves]")
    plot.scroll_into_view_if_needed()
    box = plot.locator(".points path.point").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = plot.locator(".hoverlayer .hovertext")
    label.wait_for()
    assert "dpo a" in str(label.text_content())


def test_responses_can_be_leafed_through_and_found(page: Page) -> None:
    assert page.locator("#place").text_content() == f"1 of {PROMPTS}"
    assert page.locator("#question").text_content() == f"question 0 {HOSTILE}"
    assert page.locator("#baseline").text_content() == HOSTILE
    assert f"says {HOSTILE}" in page.locator("#comments pre").all_text_contents()
    page.locator("#after").click()
    assert page.locator("#question").text_content() == f"question 1 {HOSTILE}"
    assert str(page.locator("#verdict").text_content()).endswith("a tie")
    page.locator("#by-outcome").select_option("wins")
    assert page.locator("#place").text_content() == f"1 of {PROMPTS // 3}"
    assert "wins" in str(page.locator("#verdict").text_content())
    page.locator("#by-text").fill("Question 5")
    assert page.locator("#place").text_content() == "1 of 1"
    page.locator("#by-text").fill("nothing like it")
    assert page.locator("#place").text_content() == "none"
    assert not page.locator("#sample").is_visible()


def test_studies_beside_each_other(browser: Browser, tmp_path: Path) -> None:
    for name in ("one", "two"):
        hostile_study(tmp_path / name)
    address = write_comparison(load_studies([tmp_path / "one", tmp_path / "two"]), tmp_path / "out").as_uri()
    with opened(browser, address, "light", 1200) as page:
        points = page.locator("[data-figure=methods] .points path.point")
        assert points.count() == 4
        points.first.click(force=True)
        assert page.locator("#trial-label").text_content() == f"one: nca b {HOSTILE}"
        assert not page.locator("#trial-samples").is_visible()
        page.locator("#trial-close").click()
        page.get_by_label("two", exact=True).uncheck()
        page.wait_for_function("document.querySelectorAll('[data-figure=methods] .points path.point').length == 2")
