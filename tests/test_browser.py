"""The browser that tests look at pages with: it must notice what is wrong, or those tests could not fail."""

from pathlib import Path

import pytest
from browser import PHONE, Browser, programs
from PIL import Image

_GOOD = "<!DOCTYPE html><html lang='en'><head><title>Good</title></head><body><h1>Good</h1></body></html>"
_BAD = """<!DOCTYPE html><html lang="en"><head><title>Bad</title>
<meta name="viewport" content="width=device-width, initial-scale=1"></head>
<body><div style="width: 800px">wide</div><img src="missing.png">
<script>console.error("told"); absent();</script></body></html>
"""


def test_a_good_page_asks_for_itself_alone(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "good.html"
    page.write_text(_GOOD)
    seen = browser.open_page(page.as_uri())
    assert seen.errors == seen.failed == ()
    assert seen.requests == (page.as_uri(),)
    assert browser.run("return document.title") == "Good"


def test_errors_requests_and_overflow_are_noticed(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(_BAD)
    seen = browser.open_page(page.as_uri(), *PHONE)
    assert any("told" in error for error in seen.errors)
    assert any("absent is not defined" in error for error in seen.errors)
    assert seen.failed == ((tmp_path / "missing.png").as_uri(),)
    assert set(seen.requests) == {page.as_uri(), *seen.failed}
    assert browser.run("return document.documentElement.scrollWidth") > PHONE[0]
    assert browser.seen().errors == ()
    browser.screenshot(tmp_path / "shot.png", *PHONE)
    with Image.open(tmp_path / "shot.png") as shot:
        assert shot.size == PHONE
    with pytest.raises(TimeoutError, match="not true within"):
        browser.wait("document.title === 'Good'", seconds=0.1)


def test_without_a_browser_tests_fail_only_under_continuous_integration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install"):
        programs()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="apt-get install"):
        programs()
