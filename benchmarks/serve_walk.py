"""A first visitor's walk through the page, with every second that he waits, and the next visitor's beside it.

    python benchmarks/serve_walk.py

It starts `voicestyle serve` on a free port, opens the page in headless Chromium, takes the example voice and asks for a
face; then it does so again as somebody else. Needs the extras `web` and `browser`, and Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

from playwright.sync_api import Browser, Page, expect, sync_playwright

PATIENCE = 300_000  # milliseconds


def start(port: int, model: list[str]) -> tuple[subprocess.Popen[bytes], float]:
    """A server, and how long it took to answer."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "voicestyle", "serve", "--port", str(port), *model]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz")
            return server, time.perf_counter() - began
        except OSError:
            if server.poll() is not None:
                raise RuntimeError("the server does not start") from None
            time.sleep(0.1)


class Walk:
    """What a visitor waits for, in its order."""

    def __init__(self, page: Page) -> None:
        self.page, self.waits = page, dict[str, float]()
        self.last = time.perf_counter()

    def reached(self, what: str) -> None:
        now = time.perf_counter()
        self.waits[what], self.last = now - self.last, now

    def walk(self, home: str) -> dict[str, float]:
        page, stage = self.page, self.page.locator(".stage figcaption")
        page.goto(home)
        expect(page.locator(".record")).to_be_visible()
        self.reached("the page, ready to record")
        page.get_by_role("button", name="a woman's voice").click()
        expect(page.locator(".wave rect").first).to_be_visible()
        self.reached("the waveform of the example")
        page.get_by_role("button", name="Show a face").click()
        expect(stage).not_to_be_empty()
        self.reached("the first picture: a group of faces")
        expect(stage).to_have_text("On the way")
        self.reached("the first face on the way")
        expect(page.get_by_role("status")).to_contain_text("fits this voice")
        self.reached("the face")
        expect(page.locator(".report p").first).to_be_visible()
        self.reached("what the voice suggests, in words")
        expect(page.locator(".downloads a").first).to_be_visible()
        self.reached("all that can be saved")
        return self.waits


def visit(browser: Browser, home: str) -> dict[str, float]:
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        return Walk(context.new_page()).walk(home)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    options = parser.parse_args()
    expect.set_options(timeout=PATIENCE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server, started = start(port, ["--model", options.model] if options.model else [])
    try:
        with sync_playwright() as driver:
            path = shutil.which("chromium") or shutil.which("google-chrome")
            browser = driver.chromium.launch(executable_path=path, args=["--headless", "--no-sandbox", "--disable-gpu"])
            home = f"http://127.0.0.1:{port}/"
            first, second = visit(browser, home), visit(browser, home)
            browser.close()
    finally:
        server.terminate()
        server.wait(60)
    load = os.getloadavg()[0]
    print(f"The server answers after {started:.1f} s; load at the end {load:.1f}\n")
    print("| until | the first visitor | the next one |\n|---|---|---|")
    for what, seconds in first.items():
        print(f"| {what} | {seconds:.1f} s | {second[what]:.1f} s |")
    print(f"| all of it | {sum(first.values()):.1f} s | {sum(second.values()):.1f} s |")


if __name__ == "__main__":
    main()
