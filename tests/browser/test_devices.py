"""The page in a real browser: a person logs in, adds a device, sees the time run, compares, finds it in the list."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.machine import WAIT_MAX_S, Box, until
from tests.integration.person import PIN, page_box
from tests.integration.test_page_devices import asking
from tests.integration.test_pairing import Till, pair, token_of
from tests.tools import cannot_run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser; scripts/setup --dev")

pytestmark = pytest.mark.needs("mosquitto", "chromium")

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 640}


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    """One for all tests, each of which takes a device name of its own."""
    with page_box() as box:
        yield box


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    found = shutil.which("chromium")
    if found is None:
        cannot_run("chromium is not installed; scripts/setup --dev installs it")
    with playwright.sync_playwright() as driver:
        try:
            started = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        except playwright.Error as error:
            cannot_run(f"chromium does not start: {error}")
        yield started
        started.close()


@contextmanager
def opened(
    browser: "playwright.Browser", box: Box, size: dict[str, int], scripts: bool = True
) -> Iterator["playwright.Page"]:
    """A person's window, logged in. Nothing that the page does may break its own policy."""
    context = browser.new_context(viewport=size, ignore_https_errors=True, java_script_enabled=scripts)
    page = context.new_page()
    page.set_default_timeout(WAIT_MAX_S * 1000)
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"https://127.0.0.1:{box.pages['https']}/devices")
    page.get_by_role("link", name="Log in to add").click()
    page.get_by_label("The venue's PIN").fill(PIN)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("link", name="Add a device").wait_for()
    try:
        yield page
        assert complaints == []
    finally:
        context.close()


def shoot(page: "playwright.Page", name: str) -> None:
    """A picture for people, where the environment variable SCREENSHOTS names a folder."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def fits(page: "playwright.Page") -> bool:
    """Whether nothing reaches over the right edge."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def left_s(page: "playwright.Page") -> int:
    minutes, seconds = page.locator("#left").inner_text().split(":")
    return int(minutes) * 60 + int(seconds)


def add(page: "playwright.Page", name: str, label: str) -> None:
    page.get_by_role("link", name="Add a device").click()
    page.get_by_role("textbox", name="Name").fill(name)
    page.get_by_label("What people call it").fill(label)
    page.get_by_role("button", name="Add it").click()
    page.locator("#code").wait_for()


@pytest.mark.parametrize(("name", "size"), [("desk", DESKTOP), ("phone", PHONE)])
def test_a_person_pairs_a_till_and_finds_it_in_the_list(
    box: Box, browser: "playwright.Browser", name: str, size: dict[str, int]
) -> None:
    with opened(browser, box, size) as page:
        shoot(page, f"{name}-1-devices")
        page.get_by_role("link", name="Add a device").click()
        shoot(page, f"{name}-2-add")
        assert fits(page)
        page.get_by_role("link", name="Back").click()
        add(page, name, "Bar left")
        shoot(page, f"{name}-3-pairing")
        assert fits(page)
        first_s = left_s(page)
        assert 590 <= first_s <= 600
        page.evaluate("window.notReloaded = true")
        until(lambda: left_s(page) < first_s, "the time runs")
        assert page.evaluate("window.notReloaded"), "and that without asking the box"
        drawn = page.locator("svg.qr").bounding_box()
        assert drawn is not None
        assert min(drawn["width"], drawn["height"]) >= 200, "a camera can read it"

        answers = asking(box, page.locator("#code").inner_text().replace(" ", "").replace("\n", ""), name)
        page.locator("#compare").wait_for()
        shoot(page, f"{name}-4-compare")
        assert fits(page)
        page.get_by_role("button", name="They are the same").click()
        status, told = answers.get(timeout=WAIT_MAX_S)
        assert status == 201
        page.get_by_text(f"{name} is paired.").wait_for()
        shoot(page, f"{name}-5-paired")
        till = Till(box, told)
        assert till.answer == 0
        page.get_by_role("link", name="All devices").click()
        row = page.get_by_role("listitem").filter(has_text=name)
        assert "Connected" in row.inner_text()
        shoot(page, f"{name}-6-list")
        assert fits(page)
        row.get_by_role("link", name="Bar left").click()
        shoot(page, f"{name}-7-device")
        assert fits(page)
        page.get_by_role("link", name="Remove it").click()
        shoot(page, f"{name}-8-remove")
        page.get_by_label("I am sure").check()
        page.get_by_role("button", name="Remove").click()
        page.get_by_role("link", name="Add a device").wait_for()
        assert page.get_by_role("listitem").filter(has_text=name).count() == 0
        assert till.gone.wait(5)


def test_it_goes_without_scripts_too(box: Box, browser: "playwright.Browser") -> None:
    with opened(browser, box, PHONE, scripts=False) as page:
        add(page, "plain", "Terrace")
        first_s = left_s(page)
        until(lambda: left_s(page) < first_s, "the page asks again by itself")
        answers = asking(box, page.locator("#code").inner_text().replace(" ", "").replace("\n", ""), "plain")
        page.get_by_role("button", name="They differ").click()
        assert answers.get(timeout=WAIT_MAX_S)[0] == 403
        page.get_by_text("The digits differ").wait_for()
        shoot(page, "plain-declined")


def test_the_code_on_a_dark_screen_is_read_by_a_camera(box: Box, browser: "playwright.Browser", tmp_path: Path) -> None:
    reader = pytest.importorskip("zxingcpp", reason="zxing-cpp reads the QR code; scripts/setup --dev installs it")
    image = pytest.importorskip("PIL.Image", reason="pillow reads the picture; scripts/setup --dev installs it")
    with opened(browser, box, PHONE) as page:
        page.emulate_media(color_scheme="dark")
        add(page, "camera", "")
        picture = tmp_path / "screen.png"
        page.screenshot(path=str(picture), full_page=True)
        (found,) = reader.read_barcodes(image.open(picture))
        status, told = pair(box, token_of({"uri": found.text}))
        assert (status, told["device"]) == (201, "camera")


def test_another_page_cannot_make_the_browser_act(box: Box, browser: "playwright.Browser") -> None:
    with opened(browser, box, DESKTOP) as page:
        add(page, "victim", "")
        token = page.locator("input[name=token]").first.get_attribute("value")
        before = box.text.count("event=page_act")
        evil = page.context.new_page()
        action = f"https://127.0.0.1:{box.pages['https']}/add-device"
        evil.set_content(
            f'<form method="post" action="{action}"><input name="token" value="{token}">'
            '<input name="device" value="planted"><button>Win</button></form>'
        )
        with evil.expect_response(action) as answer:
            evil.get_by_role("button").click()
        assert answer.value.status == 403
        evil.goto("about:blank")
        evil.set_content(f'<iframe src="https://127.0.0.1:{box.pages["https"]}/devices"></iframe>')
        evil.wait_for_timeout(500)
        assert "Devices" not in evil.frames[-1].content()
        assert box.text.count("event=page_act") == before
