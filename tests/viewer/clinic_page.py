"""What the page is tested with: a server with studies, images, and a look at its pictures."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from browser import Browser
from clinic_server import Served

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


Open = Callable[..., Browser]


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
