"""Pictures of the page as a visitor sees it, at three widths and in both schemes: to look at, and for docs/web.md.

voicestyle serve &
python dev/page_pictures.py http://127.0.0.1:8000/ pictures --widths 360,768,1280 --schemes light,dark
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

HEIGHTS = {360: 740, 768: 1024, 1280: 800}
PATIENCE = 600_000  # milliseconds


def states(page: Page, home: str) -> Iterator[tuple[str, bool]]:
    """The page in one state after the other: its name, and whether all of it is to be seen or what a window shows."""
    page.goto(home)
    expect(page.locator(".record")).to_be_visible()
    yield "start", False
    page.get_by_role("button", name="a woman's voice").click()
    expect(page.locator(".wave rect").first).to_be_visible()
    page.get_by_role("button", name="Show a face").click()
    expect(page.locator(".stage figcaption")).to_have_text("On the way")
    yield "job", False
    ready(page)
    yield "result", True
    page.get_by_text("Where it comes from").click()
    page.locator(".prototypes").scroll_into_view_if_needed()
    page.wait_for_timeout(1000)  # for pictures that are loaded when they come into sight
    yield "evidence", True
    page.get_by_text("Where it comes from").click()
    page.get_by_role("button", name="Put a second voice beside it").click()
    second = page.get_by_role("article", name="Second voice")
    second.get_by_role("button", name="a man's voice").click()
    second.get_by_role("button", name="Show a face").click()
    expect(second.get_by_role("button", name="Another face")).to_be_visible()
    ready(page)
    yield "two", True


def ready(page: Page) -> None:
    """Wait until a face is there and nothing runs."""
    another = page.get_by_role("button", name="Another face").last
    expect(another).to_be_visible()
    expect(another).to_be_enabled()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home")
    parser.add_argument("out", type=Path)
    parser.add_argument("--widths", default="360,768,1280")
    parser.add_argument("--schemes", default="light,dark")
    parser.add_argument("--until", default="two", help="the last state")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=PATIENCE)
    path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--headless", "--no-sandbox", "--disable-gpu"])
        for width in map(int, options.widths.split(",")):
            for scheme in options.schemes.split(","):
                size = {"width": width, "height": HEIGHTS.get(width, 800)}
                context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
                context.set_default_timeout(PATIENCE)
                page = context.new_page()
                page.on("console", lambda message: print(re.sub(r"\s+", " ", message.text)))
                for name, is_whole in states(page, options.home):
                    page.evaluate("() => document.activeElement.blur()")
                    page.screenshot(path=options.out / f"{name}-{width}-{scheme}.png", full_page=is_whole)
                    if name == options.until:
                        break
                context.close()
        browser.close()


if __name__ == "__main__":
    main()
