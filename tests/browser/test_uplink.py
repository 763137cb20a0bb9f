"""The uplink's timeline in a real browser: without scripts and without the PIN, at a desk and on a phone."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.browser.test_devices import DESKTOP, PHONE, browser, fits, shoot  # noqa: F401 - `browser` is a fixture
from tests.integration.machine import WAIT_MAX_S, Box, until
from tests.tools import needs

playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser; scripts/setup --dev")

pytestmark = pytest.mark.needs("mosquitto", "chromium")

HOUR_MS = 3_600_000
HISTORY = (
    (70.0, "offline", "none", ""),
    (69.9, "online", "none", ""),
    (50.0, "offline", "link", "provider"),
    (47.5, "online", "none", ""),
    (27.0, "degraded", "cloud_slow", ""),
    (26.0, "online", "none", ""),
    (5.0, "offline", "captive_portal", "captive_portal"),
    (4.0, "online", "none", ""),
    (1.0, "degraded", "cloud", ""),
)
"""Hours ago, and what it became."""


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    """A box whose cloud nobody can reach, and that has lived for three days."""
    needs("mosquitto")
    one = Box("http://127.0.0.1:9", {"uplink": {"probe_interval_s": 1}})
    try:
        one.start()
        assert one.stop() == 0
        now_ms = int(time.time() * 1000)
        with closing(sqlite3.connect(one.journal)) as journal, journal:
            journal.execute("delete from uplink_changes")
            journal.executemany(
                "insert into uplink_changes (state, cause, finding, at_ms, uptime_ms, boot, lived_s)"
                " values (?, ?, ?, ?, 0, 1, 1e9)",
                [(*what, now_ms - int(hours * HOUR_MS)) for hours, *what in HISTORY],
            )
        one.start()
        until(lambda: one.status()["cause"] == "cloud", "it is away", 20)
        yield one
    finally:
        one.close()


@pytest.mark.parametrize(("name", "size"), [("desk", DESKTOP), ("phone", PHONE)])
def test_A1_7_a_person_reads_when_the_internet_was_down_and_why(
    box: Box,
    browser: "playwright.Browser",  # noqa: F811
    name: str,
    size: dict[str, int],
) -> None:
    context = browser.new_context(viewport=size, java_script_enabled=False)
    try:
        page = context.new_page()
        page.set_default_timeout(WAIT_MAX_S * 1000)
        complaints: list[str] = []
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.goto(f"http://127.0.0.1:{box.web_port}/")
        page.get_by_role("link", name="Internet").click()
        page.get_by_role("heading", name="Internet and cloud").wait_for()
        shoot(page, f"uplink-{name}")
        assert fits(page)
        bars = page.get_by_role("img")
        assert bars.count() in (3, 4), "three days, or four where it is not 22 o'clock yet"
        assert bars.locator("rect.bad").count() >= 3
        assert page.locator("rect.bad").first.evaluate("one => getComputedStyle(one).fill") not in ("", "rgb(0, 0, 0)")
        said = page.locator("main").inner_text()
        for words in (
            "the network wants somebody to log in first",
            "the internet is down behind the router",
            "the cloud answers slowly",
            "still so",
            "2 hours",
            "at the latest",
        ):
            assert words in said, said
        assert said.index("log in first") < said.index("behind the router"), "the latest first"
        assert complaints == []
    finally:
        context.close()
