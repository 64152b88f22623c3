"""The page as a person uses it: finding studies, sending one, by keyboard, on a phone, with names that mean harm."""

from pathlib import Path

import pytest
from browser import PHONE, Browser
from clinic_page import EVIL, Clinic, Open
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

pytestmark = pytest.mark.integration

_UNNAMED = """
return [...document.querySelectorAll('button, input, select, canvas, progress, meter:not([aria-hidden])')].filter((e) =>
  !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.labels?.length || e.textContent.trim())
).map((e) => e.outerHTML)
"""
_FAINT = """
const parts = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((n) => n / 255)
  .map((n) => n <= 0.03928 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4)
  .reduce((sum, n, i) => sum + n * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (e) => { for (; e; e = e.parentElement) {
  const c = parts(getComputedStyle(e).backgroundColor);
  if (c.length === 3 || c[3] === 1) return c;
} return [255, 255, 255]; };
const texts = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || !e.checkVisibility({visibilityProperty: true}) || e.disabled) continue;
  if (e.closest('script, noscript, option')) continue;
  const [one, two] = [light(parts(getComputedStyle(e).color)), light(ground(e))].sort((a, b) => b - a);
  const ratio = (one + 0.05) / (two + 0.05);
  if (ratio < 4.5) texts.push([walker.currentNode.textContent.trim(), ratio]);
}
return texts;
"""
_WIDE = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
_NOTICE = """
const r = document.getElementById('notice').getBoundingClientRect();
return r.top >= 0 && r.bottom <= innerHeight && r.right <= innerWidth
  && document.elementFromPoint(r.x + 5, r.y + r.height / 2).closest('#notice') !== null
"""


def _focused(browser: Browser) -> WebElement:
    return browser.driver.switch_to.active_element


def _tab(browser: Browser, times: int = 1) -> None:
    ActionChains(browser.driver).send_keys(*[Keys.TAB] * times).perform()


def _studies(browser: Browser) -> list[str]:
    return browser.run("return [...document.querySelectorAll('#studies button')].map((b) => b.innerText)")


def test_studies_are_listed_with_their_state_and_the_notice_stays(opened: Open, clinic: Clinic):
    browser = opened()
    states = [text.split("\n")[1] for text in _studies(browser)]
    assert sorted(states) == ["done"] * 4 + ["failed"]
    assert "Not a medical device" in browser.run("return document.getElementById('notice').textContent")
    browser.run("document.getElementById('state-filter').value = 'failed'")
    browser.run("document.getElementById('state-filter').dispatchEvent(new Event('change'))")
    browser.wait("document.querySelectorAll('#studies li').length == 1")
    browser.run("document.querySelector('#studies button').click()")
    browser.wait("document.querySelector('#alerts .failure')")
    job = clinic.server.ask(f"jobs/{clinic.jobs['gap']}")
    said = browser.run("return document.querySelector('#alerts .failure').innerText")
    assert job["message"] in said
    assert f"reason: {job['reason']}" in said
    assert job["reason"] == "missing-slice"


def test_everything_has_a_name_and_text_is_read_easily(opened: Open):
    browser = opened("organ", "later")
    assert browser.run(_UNNAMED) == []
    assert browser.run(_FAINT) == []
    browser.run("scrollTo(0, document.body.scrollHeight)")
    assert browser.run(_NOTICE)
    browser.run("document.getElementById('show-card').click()")
    browser.wait("document.getElementById('card-text').textContent.includes('<b>Not bold.</b>')")
    assert browser.run("return document.querySelectorAll('#card b').length") == 0
    assert browser.run(_FAINT) == []


def test_flags_intervals_and_confidence_of_a_report_are_shown(opened: Open):
    browser = opened()
    report = {
        "flags": [{"code": "unlike-training", "text": "the image is <b>unlike</b> the others"}],
        "warnings": ["do not use: the image is <b>unlike</b> the others", "3 slices were resampled"],
        "labels": [
            {"value": 1, "name": "<i>liver</i>", "voxels": 7, "volume_ml": 1500.0, "volume_ml_low": 1400.0}
            | {"volume_ml_high": 1650.0, "mean_probability": 0.9996},
            {"value": 2, "name": "spleen", "voxels": 0, "volume_ml": 0.0, "mean_probability": None},
        ],
    }
    shown = browser.driver.execute_async_script(
        """
        const [report, done] = arguments;
        const here = document.querySelector('script').src;
        const wanted = ['alerts.js', 'tables.js'].map((name) => import(new URL(name, here)));
        Promise.all(wanted).then(([alerts, tables]) => {
          const numbers = tables.volumes(report.labels, {drawn: true, coverage: 0.95, onToggle() {}, onGo() {}});
          document.querySelector('#opened').hidden = document.querySelector('#found').hidden = false;
          document.querySelector('#alerts').replaceChildren(...alerts.alertsOf(report));
          document.querySelector('#numbers').replaceChildren(numbers);
          const said = (s) => [s.className, s.getAttribute('role'), s.innerText];
          const cells = (r) => [...r.children].map((c) => c.innerText.trim());
          const rows = [...numbers.querySelectorAll('tr')];
          done([...document.querySelectorAll('#alerts section')].map(said).concat(rows.map(cells)));
        });
        """,
        report,
    )
    assert shown == [
        ["do-not-use", "alert", "DO NOT USE\nthe image is <b>unlike</b> the others (unlike-training)"],
        ["warning", None, "Warnings\n3 slices were resampled"],
        ["Shown", "Structure", "Volume (mL)", "95 % interval (mL)", "Mean probability"],
        ["", "<i>liver</i>", "1500", "1400 to 1650", "> 99.9 %"],
        ["", "spleen", "0", "", ""],
    ]
    assert browser.run(_FAINT) == []


@pytest.mark.parametrize(
    ("sizes", "own", "both"),
    [
        (
            {"area_mm2": 12.5},
            [["Structure", "Area (mm²)"], ["liver", "12.5"]],
            [["Structure", "A (mm²)", "B (mm²)", "B − A (mm²)", "change"], ["liver", "12.5", "12.5", "0", "0.0 %"]],
        ),
        ({}, [["Structure"], ["liver"]], [["Structure", "A (mL)", "B (mL)", "B − A (mL)", "change"]]),
    ],
)
def test_flat_images_have_areas_and_those_without_a_pixel_size_no_size(
    opened: Open, sizes: dict[str, float], own: list[list[str]], both: list[list[str]]
):
    shown = opened().driver.execute_async_script(
        """
        const [labels, done] = arguments;
        import(new URL('tables.js', document.querySelector('script').src)).then((tables) => {
          const texts = (row) => [...row.children].map((c) => c.innerText.trim());
          const cells = (table) => [...table.querySelectorAll('tr')].map(texts);
          done([cells(tables.volumes(labels, {})), cells(tables.comparedVolumes(labels, labels))]);
        });
        """,
        [{"value": 1, "name": "liver", "voxels": 50, **sizes}],
    )
    assert shown[0] == own
    assert shown[1][: len(both)] == both


def test_the_page_is_used_with_the_keyboard_alone(opened: Open):
    browser = opened()
    _tab(browser)
    assert _focused(browser).text == "Skip to the result"
    order: list[str] = []
    while len(order) < 12:  # seven controls and five studies
        _tab(browser)
        order.append(browser.run("const e = document.activeElement; return e.id || e.innerText.split('\\n')[0]"))
        outline = browser.run(
            "const e = document.activeElement.closest('label.button') ?? document.activeElement;"
            "const s = getComputedStyle(e); return [s.outlineStyle, parseFloat(s.outlineWidth)]"
        )
        assert outline == ["solid", 3], order
    # the button to start is skipped while nothing is chosen
    assert order[:7] == ["Keyboard", "model", "show-card", "choose-files", "choose-folder", "series", "state-filter"]
    while "done" not in _focused(browser).text:
        _tab(browser)
    _focused(browser).send_keys(Keys.ENTER)
    browser.wait("!document.querySelector('#found').hidden && document.querySelector('#numbers table')")
    browser.wait("document.activeElement.id == 'study-title'")
    assert _focused(browser).aria_role == "heading"
    _tab(browser)
    assert _focused(browser).tag_name == "canvas"
    ActionChains(browser.driver).send_keys("?").perform()
    assert browser.run("return document.getElementById('help').open")
    keys = browser.run("return document.getElementById('shortcuts').innerText")
    assert "Page Up" in keys
    ActionChains(browser.driver).send_keys(Keys.ESCAPE).perform()
    assert not browser.run("return document.getElementById('help').open")
    assert _focused(browser).tag_name == "canvas"


def test_a_study_is_sent_followed_fetched_and_deleted_and_its_name_stays_text(
    opened: Open, clinic: Clinic, tmp_path: Path
):
    browser = opened()
    browser.driver.find_element(By.ID, "choose-files").send_keys(str(clinic.files["evil"]))
    browser.run("document.getElementById('model').value = 'organ'")
    assert EVIL in browser.run("return document.getElementById('chosen').textContent")
    browser.driver.find_element(By.ID, "send").click()
    browser.wait("document.getElementById('study-title').textContent.includes('onerror')")
    browser.wait("document.querySelector('#numbers table') && document.querySelectorAll('#files button').length", 60)
    assert browser.run("return document.getElementById('study-title').textContent") == EVIL
    assert EVIL in browser.run("return document.querySelector('#studies .study').textContent")
    assert EVIL in browser.run("return document.querySelector('figcaption').textContent")
    assert browser.run("return document.images.length + document.querySelectorAll('main b').length") == 0
    assert "done" in browser.run("return document.getElementById('news').textContent")

    job = browser.run("return new URLSearchParams(location.hash.slice(1)).get('job')")
    behaviour = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    browser.run("[...document.querySelectorAll('#files button')].find((b) => b.innerText.startsWith('report')).click()")
    browser.wait("document.getElementById('download-said').textContent.includes('downloads')")
    fetched = tmp_path / f"{job}_report.json"
    until = iter(range(200))
    while not fetched.is_file() and next(until) is not None:
        browser.driver.execute_async_script("setTimeout(arguments[0], 25)")
    assert b'"volume_ml"' in fetched.read_bytes()

    browser.driver.find_element(By.ID, "delete-button").click()
    browser.run("document.querySelector('#delete button[value=delete]').click()")
    browser.wait("document.querySelectorAll('#studies li').length == 5 && !document.getElementById('welcome').hidden")
    assert job not in [entry["id"] for entry in clinic.server.ask("jobs")]


def test_a_series_is_named_where_the_model_has_no_rules_for_them(opened: Open, clinic: Clinic):
    browser = opened()
    browser.driver.find_element(By.ID, "choose-files").send_keys(str(clinic.files["evil"]))
    browser.run("document.getElementById('model').value = 'organ'")
    browser.driver.find_element(By.ID, "series").send_keys("1.2.3.4")
    browser.driver.find_element(By.ID, "send").click()
    browser.wait("document.querySelector('#alerts .failure')", 60)
    assert "a series was named" in browser.run("return document.querySelector('#alerts .failure').textContent")
    assert browser.run("return document.getElementById('series').value") == ""
    job = browser.run("return new URLSearchParams(location.hash.slice(1)).get('job')")
    browser.driver.find_element(By.ID, "delete-button").click()
    browser.run("document.querySelector('#delete button[value=delete]').click()")
    browser.wait("document.querySelectorAll('#studies li').length == 5")
    assert job not in [entry["id"] for entry in clinic.server.ask("jobs")]


def test_the_channel_of_each_file_is_chosen_and_told_with_the_result(opened: Open, clinic: Clinic):
    browser = opened()
    files = browser.driver.find_element(By.ID, "choose-files")
    files.send_keys(f"{clinic.files['body']}\n{clinic.files['evil']}")
    assert browser.run("return document.getElementById('which-channels').hidden")
    browser.run("document.getElementById('model').value = 'pair'")
    browser.run("document.getElementById('model').dispatchEvent(new Event('change'))")
    labels = browser.driver.find_elements(By.CSS_SELECTOR, "#channels label")
    assert [label.text.split("\n")[0] for label in labels] == ["body.nii.gz", EVIL]
    assert browser.run(_UNNAMED) == []
    assert browser.run(_FAINT) == []
    assert browser.run(_WIDE) <= 0
    send = browser.driver.find_element(By.ID, "send")
    send.click()
    browser.wait("document.getElementById('upload-said').className == 'bad'")
    assert "2 channel(s): T1, T2." in browser.run("return document.getElementById('upload-said').textContent")
    (refused,) = browser.seen().errors
    assert "422" in refused
    first, second = browser.driver.find_elements(By.CSS_SELECTOR, "#channels select")
    first.send_keys("T2")
    assert "T1 is not chosen" in browser.run("return document.getElementById('channels-said').textContent")
    assert not send.is_enabled()
    second.send_keys("T1")
    send.click()
    browser.wait("document.getElementById('provenance').textContent.includes('T1: file 2, T2: file 1')", 60)
    browser.wait("document.getElementById('which-channels').hidden")
    job = browser.run("return new URLSearchParams(location.hash.slice(1)).get('job')")
    browser.driver.find_element(By.ID, "delete-button").click()
    browser.run("document.querySelector('#delete button[value=delete]').click()")
    browser.wait("document.querySelectorAll('#studies li').length == 5")
    assert job not in [entry["id"] for entry in clinic.server.ask("jobs")]


def test_a_phone_shows_everything_in_its_width(opened: Open, clinic: Clinic):
    browser = opened("organ", "later", *PHONE)
    assert browser.run(_WIDE) <= 0
    assert browser.run(_NOTICE)
    for job, ready in (("gap", "#alerts .failure"), ("weather", "#numbers meter")):
        browser.run("location.hash = arguments[0]", f"job={clinic.jobs[job]}")
        browser.wait(f"document.querySelector('{ready}')")
        assert browser.run(_WIDE) <= 0
    for dialog in ("help", "card", "token", "delete"):
        browser.run("document.getElementById(arguments[0]).showModal()", dialog)
        assert browser.run(_WIDE) <= 0
        box = browser.run(
            "const r = document.querySelector('dialog[open]').getBoundingClientRect(); return [r.left, r.right]"
        )
        assert 0 <= box[0] < box[1] <= PHONE[0]
        browser.run("document.getElementById(arguments[0]).close()", dialog)


def test_a_study_that_is_opened_again_by_keyboard_has_the_focus_and_one_by_mouse_leaves_it(opened: Open):
    browser = opened("organ")
    row = browser.driver.find_element(By.CSS_SELECTOR, "#studies [aria-current]")
    row.click()
    browser.driver.execute_async_script("setTimeout(arguments[0], 500)")
    assert _focused(browser) == row
    row.send_keys(Keys.ENTER)
    browser.wait("document.activeElement.id == 'study-title'")
    browser.run("document.querySelector('#studies button').focus()")
    _focused(browser).send_keys(Keys.SPACE)
    browser.run("document.getElementById('model').focus()")  # before the server has answered
    browser.wait("document.querySelector('#studies button').hasAttribute('aria-current')")
    assert _focused(browser).get_attribute("id") == "model"


@pytest.mark.parametrize("by_keyboard", [True, False])
def test_on_a_phone_a_study_that_is_opened_comes_to_the_top(opened: Open, clinic: Clinic, by_keyboard: bool):
    browser = opened("", "", *PHONE)
    title = clinic.server.ask(f"jobs/{clinic.jobs['organ']}")["study"]
    rows = browser.driver.find_elements(By.CSS_SELECTOR, "#studies button")
    row = next(row for row in rows if row.text.startswith(title))
    if by_keyboard:
        row.send_keys(Keys.ENTER)
    else:
        row.click()
    browser.wait("document.querySelector('#numbers table')")
    assert browser.run("return document.activeElement.id == 'study-title'") == by_keyboard
    below = "const y = (id) => document.getElementById(id).getBoundingClientRect();"
    below += "return [y('notice').bottom, y('study-title').top, innerHeight / 2]"
    notice, top, half = browser.run(below)
    assert notice <= top < half
