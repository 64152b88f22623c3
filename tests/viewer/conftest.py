"""A server with studies, and its page in a browser."""

import os
from collections.abc import Iterator

import nibabel as nib
import PIL.Image
import pytest
from browser import Browser
from clinic_page import AFFINE, EVIL, STATIC, Clinic, Open, body, photo
from clinic_server import classifying, serving, thresholding
from dicom_phantom import ramp, write_series


@pytest.fixture(scope="session")
def built() -> None:
    """The page is there; without it the test skips, under continuous integration (CI=true) it fails."""
    if (STATIC / "index.html").is_file():
        return
    missing = "the viewer page is not built: make viewer"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def clinic(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    """Five bundles and five jobs."""
    folder = tmp_path_factory.mktemp("clinic")
    files = {"body": folder / "body.nii.gz", "evil": folder / EVIL}
    for path in files.values():
        nib.save(nib.Nifti1Image(body(), AFFINE), path)
    files["photo"] = folder / "photo.png"
    PIL.Image.fromarray(photo()).save(files["photo"])
    gap = [(0, 0, 2.5 * k) for k in (0, 1, 2, 4, 5, 6)]
    series = write_series(folder / "gap", ramp(6), positions=gap, StudyDescription=EVIL, SeriesDescription=EVIL)
    bundles = [
        thresholding(folder / "organ", "organ", 10, 20),
        thresholding(folder / "later", "organ_later", 10, 30),
        classifying(folder / "weather", "weather"),
        classifying(folder / "photo", "photo", ("red", "green", "blue"), dims=2),
        classifying(folder / "pair", "pair", ("T1", "T2")),
    ]
    with serving(folder / "data", bundles) as server:
        jobs = {
            "organ": server.submit("organ", files["body"]),
            "later": server.submit("organ_later", files["body"]),
            "weather": server.submit("weather", files["body"]),
            "photo": server.submit("photo", files["photo"]),
            "gap": server.submit("organ", *sorted(series.iterdir())),
        }
        states = {name: server.finished(job)["state"] for name, job in jobs.items()}
        if states != dict.fromkeys(jobs, "done") | {"gap": "failed"}:
            raise RuntimeError(f"jobs ended otherwise: {[server.finished(job) for job in jobs.values()]}")
        yield Clinic(server, files, jobs)


@pytest.fixture
def opened(clinic: Clinic, browser: Browser) -> Iterator[Open]:
    """Opens the page at a job, waits until it is shown, and afterwards holds it to have made no error."""

    def go(job: str = "", other: str = "", width: int = 1000, height: int = 560) -> Browser:
        # an address that differs only behind # would not load the page anew; open_page goes through about:blank
        wanted = f"#job={clinic.jobs[job]}" if job else ""
        wanted += f"&with={clinic.jobs[other]}" if other else ""
        seen.append(browser.open_page(f"{clinic.server.url}/{wanted}", width, height))
        browser.wait("document.querySelectorAll('#studies li').length >= 5", 60)
        if job and job != "gap":
            browser.wait("document.querySelector('#numbers table') && !document.querySelector('#controls').hidden", 60)
        return browser

    seen: list = []
    yield go
    seen.append(browser.seen())
    assert [error for entry in seen for error in entry.errors] == []
    assert [url for entry in seen for url in entry.requests if not url.startswith(clinic.server.url + "/")] == []
