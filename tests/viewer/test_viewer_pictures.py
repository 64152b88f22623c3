"""What the page draws and counts: image and mask, the mask at the right side of the patient, two results compared."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from browser import Browser
from clinic_page import Clinic, Open, pixels
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.integration

_SAID = "return [...document.querySelectorAll('figure:not([hidden]) output')].map((o) => o.textContent)"


def _fetched(clinic: Clinic, job: str, name: str) -> bytes:
    return clinic.server.fetch(f"jobs/{clinic.jobs[job]}/results/{name}")


def _mask(clinic: Clinic, job: str, folder: Path) -> np.ndarray:
    path = folder / f"{job}.nii.gz"
    path.write_bytes(_fetched(clinic, job, "seg.nii.gz"))
    return np.asarray(nib.load(path).dataobj)


def _said_is_true(said: str, image: Path) -> bool:
    """Whether the voxel at the place that is said (`R 12.0  P 3.0  S 4.0 mm   value 15   low`) has that value."""
    found = re.match(r"([LR]) ([\d.]+)  ([PA]) ([\d.]+)  ([IS]) ([\d.]+) mm   value (\S+)", said)
    assert found is not None, said
    letters, numbers = found.groups()[:6:2], found.groups()[1:6:2]
    mm = [float(n) * (1 if letter in "RAS" else -1) for letter, n in zip(letters, numbers, strict=True)]
    loaded = nib.load(image)
    voxel = np.rint(np.linalg.inv(loaded.affine) @ [*mm, 1])[:3].astype(int)
    return float(np.asarray(loaded.dataobj)[tuple(voxel)]) == pytest.approx(float(found[7]), rel=1e-4)


def _coloured(shown: np.ndarray) -> np.ndarray:
    """Where a pixel is no grey: the mask, and the crosshair, which is yellow."""
    return shown.max(axis=-1) - shown.min(axis=-1) > 40


def _low(shown: np.ndarray) -> np.ndarray:
    """Where structure `low` is seen, in the palette's first colour, red; the crosshair is yellow."""
    return (shown[..., 0] - shown[..., 1] > 50) & (shown[..., 0] - shown[..., 2] > 50) & (shown[..., 1] < 150)


def _high(shown: np.ndarray) -> np.ndarray:
    """Where structure `high` is seen, in the palette's second colour, blue."""
    return (shown[..., 2] - shown[..., 0] > 40) & (shown[..., 1] > 60)


def _click(browser: Browser, selector: str) -> None:
    browser.driver.find_element(By.CSS_SELECTOR, selector).click()


def _press(browser: Browser, *keys: str) -> None:
    browser.run("document.querySelector('canvas').focus({preventScroll: true})")
    ActionChains(browser.driver).send_keys(*keys).perform()


def _go_to(browser: Browser, name: str) -> None:
    """Click on a structure's name."""
    browser.run(
        "[...document.querySelectorAll('.name button')].find((b) => b.textContent == arguments[0]).click()", name
    )


def test_image_and_mask_are_drawn_and_the_controls_change_the_picture(opened: Open):
    browser = opened("organ")
    _go_to(browser, "high")
    _click(browser, "input[value=coronal]")
    first = pixels(browser)
    assert first.std() > 10
    areas = {"area": int(_coloured(first).sum())}
    for name, selector in (("outline", "#outline"), ("without low", "input[data-value='1']"), ("none", "#mask-on")):
        _click(browser, selector)
        shown = pixels(browser)
        areas[name] = int(_coloured(shown).sum())
        if name == "without low":
            assert not _low(shown).any()
            assert _low(first).any()
    assert 0.05 * first.shape[0] * first.shape[1] < areas["area"]
    assert areas["area"] > areas["outline"] > areas["without low"] > areas["none"]
    _click(browser, "input[value=render]")
    with_image = pixels(browser)
    _click(browser, "#mask-on")
    _click(browser, "#mask-alone")
    alone = pixels(browser)
    assert _high(alone).any()
    assert (alone.max(axis=-1) > 30).sum() < (with_image.max(axis=-1) > 30).sum()


def test_the_mask_lies_where_the_structure_is_with_the_patients_right_at_the_left(opened: Open):
    browser = opened("organ")
    _go_to(browser, "high")
    assert browser.run(_SAID)[0].endswith("value 25   high")
    for view, aspect in (("axial", 20 / 14), ("coronal", 8 * 3 / (14 * 1.5)), ("sagittal", 8 * 3 / (20 * 1.5))):
        _click(browser, f"input[value={view}]")
        shown = pixels(browser)
        low, high = np.where(_low(shown)), np.where(_high(shown))
        rows, columns = np.where(_low(shown) | _high(shown))
        # `high` is at the front and top of `low`: above it in every view, and before it in the sagittal one
        assert high[0].mean() < low[0].mean() - 10, view
        if view == "sagittal":
            assert high[1].mean() > low[1].mean() + 10
        else:
            assert columns.max() < shown.shape[1] / 2, view
        found = (rows.max() - rows.min() + 1) / (columns.max() - columns.min() + 1)
        assert found == pytest.approx(aspect, rel=0.1), view


def test_the_table_and_the_place_under_the_crosshair_say_what_the_files_say(opened: Open, clinic: Clinic):
    browser = opened("organ")
    report = json.loads(_fetched(clinic, "organ", "report.json"))
    rows = browser.run(
        "return [...document.querySelectorAll('#numbers tbody tr')].map((r) => [r.querySelector('th').textContent,"
        " r.querySelector('td.number').textContent])"
    )
    assert [name for name, _ in rows] == ["low", "high"]
    expected = [label["volume_ml"] for label in report["labels"]]
    assert expected == pytest.approx([(14 * 20 * 8 - 8 * 6 * 4) * 6.75e-3, 8 * 6 * 4 * 6.75e-3])
    assert [float(text) for _, text in rows] == pytest.approx(expected, rel=5e-3)
    start = browser.run(_SAID)
    assert start[0].startswith("R ")  # opened in the middle of the largest structure, which is at the right
    assert start[0].endswith("value 15   low")
    _press(browser, Keys.ARROW_LEFT)  # towards the left of the picture, the patient's right
    moved = browser.run(_SAID)
    assert _said_is_true(start[0], clinic.files["body"])
    assert _said_is_true(moved[0], clinic.files["body"])
    assert float(moved[0].split()[1]) == float(start[0].split()[1]) + 1.5
    _press(browser, Keys.ARROW_RIGHT)
    assert browser.run(_SAID) == start
    state = (
        "return [document.querySelector('input[name=layout]:checked').value, document.getElementById('opacity').value,"
        " document.getElementById('mask-on').checked, document.getElementById('outline').checked,"
        " document.querySelector('input[data-value=\"2\"]').checked]"
    )
    assert browser.run(state) == ["all", "50", True, False, True]
    _press(browser, "v", "+", "o", "2", "m")
    assert browser.run(state) == ["axial", "60", False, True, False]


def test_two_results_share_a_crosshair_and_their_difference_is_counted(opened: Open, clinic: Clinic, tmp_path: Path):
    browser = opened("organ", "later", width=1300)
    browser.wait("document.querySelectorAll('#numbers table').length == 2")
    before = browser.run(_SAID)
    _press(browser, "v", Keys.ARROW_UP, Keys.ARROW_LEFT, Keys.PAGE_UP)
    after = browser.run(_SAID)
    place = [[said.split("   value")[0] for said in both] for both in (before, after)]
    assert place[0][0] == place[0][1] != place[1][0] == place[1][1]
    masks = {name: _mask(clinic, name, tmp_path) for name in ("organ", "later")}
    for name, value in (("low", 1), ("high", 2)):
        a, b = masks["organ"] == value, masks["later"] == value
        cells = browser.run(
            "return [...document.querySelectorAll('#numbers table')[1].querySelectorAll('tbody tr')]"
            ".find((r) => r.querySelector('th').textContent == arguments[0]).innerText.split('\\t')",
            name,
        )
        assert float(cells[-1]) == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=6e-4)
        assert float(cells[3].replace("−", "-")) == pytest.approx((b.sum() - a.sum()) * 6.75e-3, rel=5e-3)
    assert (masks["organ"] != masks["later"]).any()
    _go_to(browser, "high")
    shown = pixels(browser, 1)
    _click(browser, "#difference")
    different = pixels(browser, 1)
    assert not _low(different).any()
    assert 0 < _coloured(different).sum() < _coloured(shown).sum()
    assert "another label" in browser.run("return document.querySelectorAll('figcaption')[1].textContent")


def test_probabilities_are_listed_and_the_called_class_is_named(opened: Open, clinic: Clinic):
    browser = opened("weather")
    found = json.loads(_fetched(clinic, "weather", "report.json"))
    text = browser.run("return document.querySelector('#numbers table').innerText")
    assert f"{found['class']} (called)" in text
    for share in found["probabilities"].values():
        assert f"{100 * share:.1f} %" in text
    assert browser.run("return document.getElementById('mask-controls').hidden")
    assert pixels(browser).std() > 10


def test_a_photograph_stands_upright_without_sides_of_a_patient(opened: Open):
    browser = opened("photo")
    shown = pixels(browser)
    assert browser.run("return document.getElementById('layouts').hidden")
    assert browser.run(_SAID)[0].startswith("value ")
    assert "first of 3 channels: red" in browser.run("return document.querySelector('figcaption').textContent")
    bright = shown.min(axis=-1) > 200
    rows, columns = np.where(bright)
    assert rows.mean() < shown.shape[0] / 2
    assert columns.mean() < shown.shape[1] / 2
    browser.wait("document.getElementById('still')?.complete")
    assert browser.run("return document.getElementById('still').naturalWidth") > 0


def test_a_real_series_is_drawn_and_measured_where_the_server_says(
    opened: Open, clinic: Clinic, real_data: Path, tmp_path: Path
):
    folder = real_data / "dicom_mr_brain_pgbm" / "Study3" / "11_HCropVolume"
    job = clinic.server.submit("organ", *sorted(folder.glob("*.dcm")))
    ended = clinic.server.finished(job)
    assert ended["state"] == "done", ended["message"]
    browser = opened()
    browser.run("location.hash = arguments[0]", f"job={job}")
    browser.wait("document.querySelector('#numbers table') && !document.querySelector('#controls').hidden", 60)
    assert pixels(browser).std() > 10
    assert "seg.dcm" in browser.run("return document.getElementById('files').innerText")
    report = json.loads(clinic.server.fetch(f"jobs/{job}/results/report.json"))
    largest = max(report["labels"], key=lambda label: label["voxels"])
    assert largest["voxels"] > 0
    said = browser.run(_SAID)[0]
    assert said.endswith(largest["name"])
    image = tmp_path / "image.nii.gz"
    image.write_bytes(clinic.server.fetch(f"jobs/{job}/results/image.nii.gz"))
    assert _said_is_true(said, image)
    _press(browser, *[Keys.ARROW_UP] * 3, *[Keys.ARROW_LEFT] * 2, Keys.PAGE_DOWN)
    assert _said_is_true(browser.run(_SAID)[0], image)
