"""A headless Chromium for pages: what it asked for, what it complained about, how it looks at a width.

Needs the programs `chromium` and `chromedriver` (Debian: chromium, chromium-driver) and the extra `dev`.
"""

import base64
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PHONE, DESKTOP = (390, 844), (1200, 900)
"""Width and height of a phone and of a desktop window, in CSS pixels."""

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless=new", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-extensions",
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What happened since the page was opened, or since it was last asked.

    Args:
        errors: Errors of the console, uncaught exceptions among them.
        requests: Addresses that were asked for, the page's own first; data inside the page is none.
        failed: Those that got no answer, or one of status 400 and above.
    """

    errors: tuple[str, ...]
    requests: tuple[str, ...]
    failed: tuple[str, ...]


class Browser:
    """One Chromium; `driver` is Selenium's, for whatever else a test wants."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open_page(self, url: str, width: int = DESKTOP[0], height: int = DESKTOP[1]) -> Seen:
        """Open a page at a size, wait until it is loaded, and tell what was seen."""
        self.driver.get("about:blank")
        self.seen()
        self.resize(width, height)
        self.driver.get(url)
        return self.seen()

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page in CSS pixels; below 600 it is a phone's."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns, for instance `run("return document.title")`."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, expression: str, seconds: float = 20) -> None:
        """Wait until an expression is true in the page; a TimeoutError says which was not."""
        until = time.monotonic() + seconds
        while not self.run(f"return Boolean({expression})"):
            if time.monotonic() > until:
                raise TimeoutError(f"not true within {seconds} s: {expression}; seen: {self.seen()}")
            time.sleep(0.05)

    def seen(self) -> Seen:
        """Errors and requests since the page was opened or since the last call."""
        errors = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        asked: dict[str, str] = {}
        failed = []
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            about = event["params"]
            if event["method"] == "Network.requestWillBeSent":
                asked[about["requestId"]] = about["request"]["url"]
            elif event["method"] == "Network.loadingFailed" or (
                event["method"] == "Network.responseReceived" and about["response"]["status"] >= 400
            ):
                failed.append(asked.get(about["requestId"], about["requestId"]))
        inside = ("data:", "blob:", "about:", "chrome:")
        requests = tuple(url for url in asked.values() if not url.startswith(inside))
        return Seen(tuple(errors), requests, tuple(failed))

    def screenshot(self, path: Path, width: int = DESKTOP[0], height: int = 0) -> None:
        """Write the page at this width as PNG, down to this height; 0 = all of it."""
        self.resize(width, height or DESKTOP[1])
        full = height or self.run("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": full, "scale": 1}
        found = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        path.write_bytes(base64.b64decode(found["data"]))


def programs() -> tuple[str, str]:
    """Chromium and its driver; without them the test skips, under continuous integration (CI=true) it fails."""
    program = next((found for name in _PROGRAMS if (found := shutil.which(name))), None)
    chromedriver = shutil.which("chromedriver")
    if program is not None and chromedriver is not None:
        return program, chromedriver
    missing = "no chromium and chromedriver on the PATH: apt-get install chromium chromium-driver"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium for all tests of a session."""
    pytest.importorskip("selenium", reason="selenium is not installed: pip install 'medssl[dev]'")
    from selenium import webdriver

    program, chromedriver = programs()
    options = webdriver.ChromeOptions()
    options.binary_location = program
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    for flag in (*_FLAGS, *sandbox, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
