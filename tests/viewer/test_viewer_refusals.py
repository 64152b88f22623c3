"""What the page says where the server asks for a token, has no room, or is gone."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import Browser
from clinic_server import serving, thresholding
from selenium.webdriver.common.by import By

pytestmark = pytest.mark.integration

_BANNER = "document.getElementById('connection')"


def _made_token(file: Path) -> str:
    command = [sys.executable, "-m", "medssl", "token", "ward", "--file", str(file)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.findall(r"\S+", said)[-1]


def _enter(browser: Browser, token: str) -> None:
    browser.wait("document.getElementById('token').open", 60)
    browser.driver.find_element(By.ID, "token-field").send_keys(token)
    browser.run("document.querySelector('#token button[value=enter]').click()")


def test_a_token_is_asked_for_and_a_full_or_absent_server_is_told_in_words(
    built: None, browser: Browser, tmp_path: Path
):
    token = _made_token(tmp_path / "tokens")
    options = ["--http.tokens", str(tmp_path / "tokens"), "--limits.free_disk_mb", "1e12"]
    with serving(tmp_path / "data", [thresholding(tmp_path / "organ", "organ", 10, 20)], *options) as server:
        browser.open_page(server.url, 900, 640)
        browser.wait("document.getElementById('token').open", 60)
        browser.run("document.querySelector('#token button[formnovalidate]').click()")
        browser.wait(f"!{_BANNER}.hidden")
        assert "Reload the page" in browser.run(f"return {_BANNER}.textContent")
        browser.driver.refresh()
        _enter(browser, "not this one")
        browser.wait("document.getElementById('token-refused').textContent.includes('refused')")
        _enter(browser, token)
        browser.wait("!document.getElementById('no-studies').hidden")
        kept = browser.run(
            "return [Object.values(sessionStorage), Object.values(localStorage), document.cookie,"
            " document.body.innerText]"
        )
        assert kept[:3] == [[token], [], ""]
        assert token not in kept[3]
        assert browser.run(f"return {_BANNER}.hidden")

        image = tmp_path / "image.nii.gz"
        image.write_bytes(b"it is not looked at")
        browser.driver.find_element(By.ID, "choose-files").send_keys(str(image))
        browser.driver.find_element(By.ID, "send").click()
        browser.wait("document.getElementById('upload-said').className == 'bad'")
        said = browser.run("return document.getElementById('upload-said').textContent")
        assert said.startswith("The server has as much work as it can take. Try again in 10 s.")
        assert "disk is full" in said

        server.stop()
        browser.wait(f"!{_BANNER}.hidden", 30)
        said = browser.run(f"return {_BANNER}.textContent")
        assert "The server does not answer." in said
        assert re.search(r"It last did at [\d-]+ [\d:]+\. Trying again every \d+ s\.", said)
