"""Results on the page that need care: those that the archive did not take, and those that are not to be used."""

from collections.abc import Iterator
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from browser import DESKTOP, PHONE, Browser
from clinic_page import body
from clinic_server import Served, serving, thresholding
from dicom_phantom import write_series
from selenium.webdriver.common.by import By

pytestmark = pytest.mark.integration

_COMPANION = {"AccessionNumber": "", "StudyID": "1", "PatientBirthDate": "", "PatientSex": "O", "StudyDate": "20260101"}
_WIDE = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
_SHOWN = "document.querySelector('#numbers table') && document.querySelectorAll('#files button').length"


@pytest.fixture(scope="module")
def away(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, dict[str, str]]]:
    """A server whose archive is away, and its jobs: `refused` by the archive, `coarse` (flagged), `cut` (no result)."""
    folder = tmp_path_factory.mktemp("away")
    series = write_series(folder / "series", body().transpose(2, 1, 0).astype(np.int16), **_COMPANION)
    nib.save(nib.Nifti1Image(body(), np.diag([3.0, 3.0, 9.0, 1.0])), folder / "coarse.nii.gz")
    (folder / "cut.nii.gz").write_bytes((folder / "coarse.nii.gz").read_bytes()[:200])
    options = ["--pacs.store", "cstore", "--pacs.port", "9", "--pacs.tries", "1"]
    with serving(folder / "data", [thresholding(folder / "organ", "organ", 10, 20)], *options) as server:
        jobs = {
            "refused": server.submit("organ", *sorted(series.iterdir())),
            "coarse": server.submit("organ", folder / "coarse.nii.gz"),
            "cut": server.submit("organ", folder / "cut.nii.gz"),
        }
        for job in jobs.values():
            server.finished(job)
        yield server, jobs


def _open(browser: Browser, server: Served, job: str, size: tuple[int, int] = DESKTOP) -> None:
    browser.open_page(f"{server.url}/#job={job}", *size)
    browser.wait("document.querySelectorAll('#studies li').length == 3", 60)


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_results_that_the_archive_did_not_take_are_shown_with_what_is_promised(
    away: tuple[Served, dict[str, str]], browser: Browser, size: tuple[int, int]
):
    server, jobs = away
    _open(browser, server, jobs["refused"], size)
    browser.wait(f"{_SHOWN} && !document.getElementById('controls').hidden", 60)
    alert = browser.run("return document.querySelector('#alerts .failure').innerText")
    assert alert.startswith("Not stored in the archive\n")
    assert "offered to it again until 24 hours after the study came" in alert
    assert "reason: store-failed" in alert
    names = browser.run("return [...document.querySelectorAll('#files button')].map((b) => b.innerText.split(' ')[0])")
    assert {"seg.dcm", "seg.nii.gz", "report.json"} <= set(names)
    assert browser.run("return document.querySelectorAll('#pictures canvas').length") == 1
    assert browser.run(_WIDE) <= 0


def test_who_deletes_the_only_copies_is_told_so(away: tuple[Served, dict[str, str]], browser: Browser):
    server, jobs = away
    for job, only in (("refused", True), ("coarse", False), ("cut", False)):
        _open(browser, server, jobs[job])
        browser.wait("!document.getElementById('opened').hidden")
        browser.driver.find_element(By.ID, "delete-button").click()
        said = browser.driver.find_element(By.ID, "delete").text
        assert ("the copies here are the only ones" in said) == only, said
        described = browser.run("return document.getElementById('delete').getAttribute('aria-describedby')")
        assert ("delete-only-copies" in described) == only
        browser.run("document.getElementById('delete').close()")


def test_the_interface_tells_which_jobs_have_results(away: tuple[Served, dict[str, str]]):
    server, jobs = away
    listed: dict[str, Any] = {job["id"]: job for job in server.ask("jobs")}
    told = {name: (listed[job]["state"], listed[job]["results"]) for name, job in jobs.items()}
    assert told == {"refused": ("failed", True), "coarse": ("done", True), "cut": ("failed", False)}


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_what_is_not_to_be_used_says_so_in_the_list(
    away: tuple[Served, dict[str, str]], browser: Browser, size: tuple[int, int]
):
    server, jobs = away
    _open(browser, server, jobs["cut"], size)
    (flagged,) = [row for row in browser.driver.find_elements(By.CSS_SELECTOR, "#studies button") if "organ" in row.text
                  and "do not use" in row.text.lower()]  # fmt: skip
    assert "do not use" in flagged.accessible_name.lower()
    flagged.click()
    browser.wait(f"{_SHOWN} && document.querySelector('#alerts .do-not-use')", 60)
    assert "voxel-size" in browser.run("return document.querySelector('#alerts .do-not-use').innerText")
    assert browser.run("return document.querySelector('#studies [aria-current] .state').className") == "state flagged"
    green = "return [...document.querySelectorAll('#studies .state.done')].length"
    assert browser.run(green) == 0
    assert browser.run(_WIDE) <= 0


def test_that_a_result_is_not_to_be_used_is_announced(away: tuple[Served, dict[str, str]], browser: Browser):
    server, jobs = away
    _open(browser, server, jobs["cut"])
    coarse = server.fetch(f"jobs/{jobs['coarse']}/results/image.nii.gz")
    browser.run(
        "const files = new DataTransfer(); files.items.add(new File([new Uint8Array(arguments[0])], 'again.nii.gz'));"
        "document.getElementById('choose-files').files = files.files;"
        "document.getElementById('choose-files').dispatchEvent(new Event('change'))",
        list(coarse),
    )
    browser.driver.find_element(By.ID, "send").click()
    browser.wait("document.getElementById('news').textContent.includes('again.nii.gz: done, do not use')", 60)
    browser.driver.find_element(By.ID, "delete-button").click()
    browser.run("document.querySelector('#delete button[value=delete]').click()")
    browser.wait("document.querySelectorAll('#studies li').length == 3")
