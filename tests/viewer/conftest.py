"""A server with studies, and its page in a browser."""

import base64
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
from browser import Browser

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from clinic_server import Served, classifying, serving, thresholding
from dicom_phantom import ramp, write_series

STATIC = Path(__file__).parents[2] / "medssl" / "runtime" / "server" / "static"
EVIL = "<img src=x onerror=alert(1)><b>bold.nii.gz"


@dataclass
class Clinic:
    """A server with finished jobs.

    Args:
        server: Where they are.
        files: Images by name.
        jobs: Ids by name: `organ`, `later` (another bundle, same image), `weather` (classes), `photo` (a picture),
            `gap` (failed).
    """

    server: Served
    files: dict[str, Path]
    jobs: dict[str, str]


def body() -> np.ndarray:
    """(40, 32, 12): a block at the patient's right (structure `low`), in it a smaller one, front and top (`high`).

    The voxels run to the left, so that the right is at low indices.
    """
    image = np.full((40, 32, 12), 5.0, dtype=np.float32)
    image[4:18, 6:26, 2:10] = 15.0
    image[6:14, 19:25, 6:10] = 25.0
    image[:, :, 0] += np.linspace(0, 3, 32)
    return image


def photo() -> np.ndarray:
    """(30, 50, 3): dark, with a bright yellow block at the upper left."""
    image = np.full((30, 50, 3), 20, dtype=np.uint8)
    image[3:12, 4:24] = (250, 240, 0)
    return image


AFFINE = np.array([[-1.5, 0, 0, 30.0], [0, 1.5, 0, -20.0], [0, 0, 3.0, 4.0], [0, 0, 0, 1]])


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
    """Four bundles and five jobs."""
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


Open = Callable[..., Browser]


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


def pixels(browser: Browser, number: int = 0) -> np.ndarray:
    """(rows, columns, 3) of a picture as it is on the screen, once it is still."""
    x, y, width, height = browser.run(
        "const r = document.querySelectorAll('canvas')[arguments[0]].getBoundingClientRect();"
        "return [r.x + scrollX, r.y + scrollY, r.width, r.height]",
        number,
    )
    clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
    last = np.zeros(0)
    for _ in range(20):
        browser.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        taken = browser.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        picture = PIL.Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")
        shown = np.asarray(picture).astype(int)
        if np.array_equal(shown, last):
            return shown
        last = shown
    raise TimeoutError("the picture does not come to rest")
