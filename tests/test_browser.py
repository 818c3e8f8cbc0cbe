"""The page as a person uses it: headless Chromium against a server on loopback, with a tiny model.

Needs Playwright, and Chromium as the system has it (`make browser` installs both); skipped where they are missing.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import soundfile
from click.testing import CliRunner

pytest.importorskip("fastapi")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("needs Chromium; `make browser` installs it", allow_module_level=True)

import pytest_socket  # noqa: E402
import uvicorn  # noqa: E402
from playwright.sync_api import Browser, BrowserContext, Page, expect  # noqa: E402

from tiny import CONFIG, VOICE, parts  # noqa: E402
from voicestyle import pipeline  # noqa: E402
from voicestyle.checkpoint import save_model  # noqa: E402
from voicestyle.cli import main  # noqa: E402
from voicestyle.speech import detector  # noqa: E402
from voicestyle.web import work  # noqa: E402
from voicestyle.web.app import create_app  # noqa: E402
from voicestyle.web.settings import ServeSettings  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.enable_socket]

PATIENCE = 120_000  # milliseconds: a busy machine is slow, a broken page is slower
OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip


class Site:
    """The server, in a thread, and a gate that holds generations up in their first step while it is closed."""

    def __init__(self, folder: Path, settings: ServeSettings) -> None:
        vs = pipeline.load(folder)
        self.folder = folder
        self.app = create_app(vs, settings)
        self.open = threading.Event()
        self.open.set()
        self.home = f"http://127.0.0.1:{settings.port}/"
        config = uvicorn.Config(self.app, host="127.0.0.1", port=settings.port, log_config=None)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        until = time.monotonic() + 60
        while not self.server.started:
            assert time.monotonic() < until and self.thread.is_alive(), "the server does not start"
            time.sleep(0.02)

    @property
    def running(self) -> Any:
        return self.app.state.service.jobs.running

    def gated(self, watch: Callable[..., Any]) -> Callable[..., Any]:
        """`watch_generation`, held up by the gate."""

        def watch_slowly(vs: Any, voice: Any, tell: Any, **options: Any) -> Any:
            def tell_slowly(name: str, data: Any, pictures: Any) -> None:
                tell(name, data, pictures)
                while name == "step" and not self.open.wait(0.05):
                    tell(name, data, {})

            return watch(vs, voice, tell_slowly, **options)

        return watch_slowly

    def until(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE / 1000
        while not condition():
            assert time.monotonic() < until, "does not come"
            time.sleep(0.05)

    def end(self) -> None:
        self.open.set()
        self.server.should_exit = True
        self.thread.join(60)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    pytest_socket.enable_socket()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = dataclasses.replace(CONFIG, guidance=dataclasses.replace(CONFIG.guidance, steps=6))
    folder = save_model(tmp_path_factory.mktemp("models") / "tiny", config, *parts())
    settings = ServeSettings(port=port, max_upload_bytes=2_000_000, max_voice_s=20, unattended_s=3)
    with pytest.MonkeyPatch.context() as patch:
        made = Site(folder, settings)
        patch.setattr(work, "watch_generation", made.gated(work.watch_generation))
        yield made
        made.end()
    pytest_socket.disable_socket(allow_unix_socket=True)


@pytest.fixture(scope="module")
def browser(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium without any other host, whose microphone hears the example voice."""
    heard = tmp_path_factory.mktemp("microphone") / "voice.wav"
    soundfile.write(heard, np.repeat(soundfile.read(VOICE)[0], 3), 48_000)
    with playwright.sync_playwright() as driver:
        options = [*OPTIONS, f"--use-file-for-fake-audio-capture={heard}"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """A visitor; nothing may go wrong on the pages, and nothing be asked of another host."""
    with visitor(browser, site) as made:
        yield made


class visitor:
    """A browser profile of its own; what goes wrong in it fails the test."""

    def __init__(self, browser: Browser, site: Site, **options: Any) -> None:
        self.browser, self.site, self.options = browser, site, options
        self.troubles: list[str] = []
        self.asked: list[str] = []

    def __enter__(self) -> BrowserContext:
        self.context = self.browser.new_context(**self.options)
        self.context.set_default_timeout(PATIENCE)
        self.context.on("weberror", lambda error: self.troubles.append(str(error.error)))
        self.context.on("console", lambda m: self.troubles.append(m.text) if "Content Security" in m.text else None)
        self.context.on("request", lambda request: self.asked.append(request.url))
        return self.context

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.context.close()
        self.site.open.set()
        self.site.until(lambda: self.site.running is None)
        if kind is None:
            assert not self.troubles, self.troubles
            own = (self.site.home, "blob:", "file:", "data:")
            assert all(url.startswith(own) for url in self.asked), self.asked


expect.set_options(timeout=PATIENCE)


def arrive(context: BrowserContext, site: Site, script: str = "") -> Page:
    page = context.new_page()
    page.add_init_script(script)
    page.goto(site.home)
    expect(page.locator(".record")).to_be_visible()
    return page


def take_example(page: Page) -> None:
    page.get_by_role("button", name="a woman's voice").click()
    expect(page.locator(".wave rect").first).to_be_visible()


def show(page: Page) -> None:
    page.get_by_role("button", name="Show a face").click()


def begin(context: BrowserContext, site: Site) -> tuple[Page, Any]:
    """A page whose face is held up in its first step, and its job."""
    site.open.clear()
    page = arrive(context, site)
    take_example(page)
    show(page)
    expect(page.get_by_role("status")).to_contain_text("Step")
    return page, site.running


def make_face(context: BrowserContext, site: Site) -> Page:
    """A page with a face."""
    page = arrive(context, site)
    take_example(page)
    show(page)
    until_done(page)
    return page


def until_done(page: Page) -> None:
    expect(page.get_by_role("button", name="Another face")).to_be_visible()
    expect(page.get_by_role("button", name="Another face")).to_be_enabled()


def face(page: Page) -> Any:
    return page.get_by_role("img", name=re.compile("AI-generated face"))


def test_recording_three_times_then_a_face(context: BrowserContext, site: Site) -> None:
    page = arrive(context, site)
    for _ in range(3):
        page.locator(".record").click()
        expect(page.locator(".record")).to_have_attribute("aria-pressed", "true")
        expect(page.locator(".record .time")).to_have_text(re.compile(r"^[2-9]\.|^\d\d"))
        page.locator(".record").click()
        expect(page.locator(".wave figcaption")).to_contain_text("Your recording")
        expect(page.locator(".record")).to_have_text("Record again")
    show(page)
    until_done(page)
    expect(page.locator(".wave figcaption")).to_contain_text("of speech were kept")
    assert page.locator(".wave rect.speech").count() > 10
    expect(face(page)).to_be_visible()


def test_from_a_file_to_all_that_can_be_had(context: BrowserContext, site: Site, tmp_path: Path) -> None:
    page = arrive(context, site)
    page.set_input_files(".file", VOICE)
    page.locator(".count label").nth(1).click()
    show(page)
    until_done(page)
    expect(face(page)).to_be_visible()
    expect(page.locator(".wave figcaption")).to_contain_text("of speech were kept")
    assert page.locator(".wave rect.speech").count() > 10
    page.get_by_role("radio", name="Face 2").click()
    expect(page.get_by_role("img", name="AI-generated face 2")).to_be_visible()
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    expect(slider).to_have_attribute("aria-valuetext", "the prototype")
    page.keyboard.press("End")
    expect(slider).to_have_attribute("aria-valuetext", "the face")
    page.get_by_text("Where it comes from").click()
    expect(page.locator(".members > li")).to_have_count(8)
    assert 1 <= page.locator(".prototypes > li").count() <= 3
    expect(page.locator(".tiles img").first).to_have_js_property("complete", True)
    names = ("picture", "sheet of the evidence", "moving picture", "recipe for the command line", "report")
    saved = {name: save(page, name, tmp_path) for name in names}
    with PIL.Image.open(saved["moving picture"]) as moving:
        assert moving.n_frames > 10
    arguments = ["replay", str(saved["recipe for the command line"]), "-o", str(tmp_path / "again")]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # beside the browser's driver, which has a loop of its own
        run = pool.submit(
            CliRunner().invoke, main, [*arguments, "--model", str(site.folder), "--device", "cpu"]
        ).result()
    assert run.exit_code == 0, run.output
    again, picture = (
        np.asarray(PIL.Image.open(path), int) for path in (tmp_path / "again/voicestyle-face-2.png", saved["picture"])
    )
    assert abs(again - picture)[:16].max() <= 1  # below is the label
    expect_report(context, saved["report"])


def save(page: Page, name: str, folder: Path) -> Path:
    """A file that the page offers."""
    with page.expect_download() as download:
        page.get_by_role("link", name=name, exact=True).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def expect_report(context: BrowserContext, path: Path) -> None:
    """The report is whole, by itself, and for everybody."""
    page = context.new_page()
    page.goto(path.as_uri())
    expect(page.get_by_role("heading", level=1)).to_contain_text("What this voice suggests")
    assert page.get_by_role("img", name="AI-generated face").count() == 2
    shown = page.evaluate("() => [...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert shown and page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    page.close()


def test_noise_gets_a_warning_with_its_face(context: BrowserContext, site: Site, tmp_path: Path) -> None:
    if detector() is None:
        pytest.skip("needs models/silero_vad.safetensors")
    page = arrive(context, site)
    noise = tmp_path / "noise.flac"
    soundfile.write(noise, 0.2 * np.random.default_rng(0).standard_normal(48000), 16000)
    page.set_input_files(".file", noise)
    show(page)
    until_done(page)
    expect(page.locator(".report.doubtful")).to_contain_text("Do not believe this face: no speech found in 3.0 s")


def test_another_seed_and_a_second_voice_beside_it(context: BrowserContext, site: Site) -> None:
    page = make_face(context, site)
    first = face(page).get_attribute("src")
    page.get_by_role("button", name="Another face").click()
    expect(page.locator(".seed input")).to_have_value("1")
    until_done(page)
    expect(face(page)).not_to_have_attribute("src", first)
    page.get_by_role("button", name="Put a second voice beside it").click()
    second = page.get_by_role("article", name="Second voice")
    second.get_by_role("button", name="a man's voice").click()
    second.get_by_role("button", name="Show a face").click()
    expect(second.get_by_role("button", name="Another face")).to_be_visible()
    expect(face(page)).to_have_count(2)


def test_stopping(context: BrowserContext, site: Site) -> None:
    page, _ = begin(context, site)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("Stopped")
    assert site.running is None
    site.open.set()
    show(page)
    until_done(page)


def test_closing_the_tab_stops(context: BrowserContext, site: Site) -> None:
    page, job = begin(context, site)
    page.close()
    site.until(lambda: job.status == "stopped")


def test_reloading_goes_on_where_it_was(context: BrowserContext, site: Site) -> None:
    page, job = begin(context, site)
    page.reload()
    expect(page.get_by_role("status")).to_contain_text("Step")
    assert site.running is job
    site.open.set()
    until_done(page)
    assert job.status == "done"


def test_the_back_button_brings_the_face_back(context: BrowserContext, site: Site) -> None:
    page = make_face(context, site)
    page.goto(f"{site.home}docs")
    expect(page.get_by_text("/api/v1/generate").first).to_be_visible()
    page.go_back()
    until_done(page)
    expect(face(page)).to_be_visible()


def test_wrong_files_are_told_in_a_sentence(context: BrowserContext, site: Site, tmp_path: Path) -> None:
    page = arrive(context, site)
    wrong = tmp_path / "clip.wav"
    wrong.write_bytes(b"this is no sound at all")
    page.set_input_files(".file", wrong)
    show(page)
    trouble = page.locator(".hint + .trouble")
    expect(trouble).to_contain_text("expected a recording")
    long = tmp_path / "long.ogg"
    rng = np.random.default_rng(0)
    soundfile.write(long, 0.1 * rng.standard_normal(30 * 16000), 16000)
    page.set_input_files(".file", long)
    show(page)
    expect(trouble).to_contain_text("at most 20 s")
    large = tmp_path / "large.wav"
    large.write_bytes(b"RIFF" + bytes(3_000_000))
    page.set_input_files(".file", large)
    expect(trouble).to_contain_text("up to 2 MB")
    take_example(page)
    expect(trouble).to_be_hidden()


def test_two_visitors_share_nothing(browser: Browser, context: BrowserContext, site: Site) -> None:
    page = make_face(context, site)
    address = f"{site.home}{face(page).get_attribute('src')}"
    assert context.request.get(address).status == 200
    with visitor(browser, site) as other:
        assert other.request.get(address).status == 404
        expect(face(arrive(other, site))).to_have_count(0)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('no', 'NotAllowedError'); };",
            "The microphone was refused",
        ),
        (
            "Object.defineProperty(navigator, 'mediaDevices', { value: undefined });"
            "Object.defineProperty(window, 'isSecureContext', { value: false });",
            "only over https, or on the machine that serves them. Choose a recording instead",
        ),
    ],
    ids=["refused", "without TLS"],
)
def test_no_microphone_is_told_in_a_sentence(context: BrowserContext, site: Site, script: str, said: str) -> None:
    page = arrive(context, site, script)
    page.locator(".record").click()
    expect(page.get_by_role("alert").first).to_contain_text(said)


def test_by_keyboard_alone(context: BrowserContext, site: Site) -> None:
    page = arrive(context, site)

    def reach(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            focused = page.evaluate("() => document.activeElement.textContent || document.activeElement.className")
            if name in focused:
                return
        raise AssertionError(f"{name} is not reached by the Tab key")

    page.keyboard.press("Tab")
    assert "Skip" in page.evaluate("() => document.activeElement.textContent")
    reach("a woman's voice")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Show a face")).to_be_focused()
    page.keyboard.press("Enter")
    until_done(page)
    reach("Another face")
    page.keyboard.press("Enter")
    expect(page.locator(".seed input")).to_have_value("1")
    until_done(page)
    reach("Where it comes from")
    page.keyboard.press("Enter")
    expect(page.locator(".prototypes")).to_be_visible()


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_width_scrolls_sideways(browser: Browser, site: Site, width: int) -> None:
    with visitor(browser, site, viewport={"width": width, "height": 740}) as sized:
        page = make_face(sized, site)
        page.get_by_text("Where it comes from").click()
        overflow = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0
        if width == 360:
            small = page.evaluate(
                "() => [...document.querySelectorAll('.panel button:not(.link)')].filter(b => b.offsetParent)"
                ".filter(b => b.getBoundingClientRect().height < 44).map(b => b.className + b.textContent)"
            )
            assert small == [], "too small for a finger"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(browser: Browser, site: Site, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with visitor(browser, site, color_scheme=scheme, reduced_motion="reduce") as seen:
        page = arrive(seen, site)
        found = axe.run(page)
        assert found.violations_count == 0, found.generate_report()
        take_example(page)
        page.locator(".count label").nth(1).click()
        show(page)
        until_done(page)
        page.get_by_text("Where it comes from").click()
        found = axe.run(page)
        assert found.violations_count == 0, found.generate_report()
        page.goto(f"{site.home}docs")
        expect(page.locator("table").first).to_be_visible()
        found = axe.run(page)
        assert found.violations_count == 0, found.generate_report()


def test_forgetting_everything(context: BrowserContext, site: Site) -> None:
    page = make_face(context, site)
    address = f"{site.home}{face(page).get_attribute('src')}"
    page.get_by_role("button", name="Forget everything now").click()
    expect(face(page)).to_have_count(0)
    expect(page.locator(".record")).to_be_enabled()
    assert context.request.get(address).status == 404
