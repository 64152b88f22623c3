"""The overlay shows the right side at the left, to scale, with the mask where it lies."""

import tracemalloc
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from medssl.imaging.geometry import Geometry
from medssl.imaging.labels import Label
from medssl.imaging.volume import Source, Volume
from medssl.imaging.writers import overlay
from medssl.imaging.writers.overlay import write_overlay

_RED, _BLUE = (250, 0, 0), (0, 0, 250)
_LABELS = (Label(1, "right_ball", colour=_RED), Label(2, "upper_ball", colour=_BLUE))
_PANEL = 356
"""Width of each of the three planes in pixels."""


def _balls(affine: np.ndarray, shape: tuple[int, ...]) -> tuple[Volume, Volume]:
    """A head of 45 mm; class 1 at the patient's right, class 2 above it."""
    geometry = Geometry(affine, shape)
    world = geometry.to_world(np.moveaxis(np.indices(shape), 0, -1))
    image = np.where(np.linalg.norm(world, axis=-1) < 45, 100.0, 0.0).astype(np.float32)
    mask = np.zeros(shape, np.uint8)
    mask[np.linalg.norm(world - (24, 0, -6), axis=-1) < 9] = 1
    mask[np.linalg.norm(world - (24, 0, 20), axis=-1) < 9] = 2
    return Volume(image[None], geometry), Volume(mask[None], geometry)


def _middle(picture: np.ndarray, channel: int) -> np.ndarray:
    """Row and column of the middle of a colour."""
    other = 2 - channel
    found = np.argwhere(picture[..., channel].astype(int) - picture[..., other] > 60)
    assert len(found) > 20
    return found.mean(axis=0)


def _affine(
    order: tuple[int, int, int], signs: tuple[int, int, int], spacing: tuple[float, float, float]
) -> np.ndarray:
    affine = np.eye(4)
    for index, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        affine[axis, index] = sign * spacing[axis]
    return affine


@pytest.mark.parametrize(
    ("order", "signs"), [((0, 1, 2), (1, 1, 1)), ((0, 1, 2), (-1, -1, 1)), ((1, 2, 0), (1, -1, -1))]
)
def test_planes_whatever_the_order_of_the_voxels(tmp_path: Path, order, signs):
    affine = _affine(order, signs, (1.5, 1.2, 4.0))
    shape = tuple(int(96 / (1.5, 1.2, 4.0)[axis]) for axis in order)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    image, mask = _balls(affine, shape)
    write_overlay(image, mask, _LABELS, tmp_path / "o.png")
    picture = np.asarray(PIL.Image.open(tmp_path / "o.png").convert("RGB"))
    coronal, sagittal = picture[:_PANEL, _PANEL : 2 * _PANEL], picture[:_PANEL, 2 * _PANEL :]
    red, blue = _middle(coronal, 0), _middle(coronal, 2)
    assert blue[0] < red[0] - 40  # superior is up
    assert max(red[1], blue[1]) < _PANEL / 2 - 40  # the patient's right is at the left
    grey = (coronal.min(axis=-1) > 60).nonzero()
    height, width = np.ptp(grey[0]), np.ptp(grey[1])
    assert abs(height - width) < 0.08 * width  # a ball is round although voxels are not
    for plane in (coronal, sagittal):
        np.testing.assert_allclose(_middle(plane, 0)[0], red[0], atol=2)


@pytest.mark.parametrize("kind", ["dicom", "raster", "nifti"])
def test_a_plane_is_to_scale_and_upright(tmp_path: Path, kind: str):
    """A disc with a mark at its top and at the patient's right; columns are 4 times as far apart as rows."""
    spacing = {"dicom": (2.0, 0.5), "raster": (0.5, 2.0), "nifti": (2.0, 0.5)}[kind]
    shape = tuple(int(50 / s) for s in spacing)
    x, y = {"dicom": (0, 1), "raster": (1, 0), "nifti": (0, 1)}[kind]  # the index that runs along x, along y
    sign = 1 if kind == "nifti" else -1
    affine = np.zeros((4, 4))
    affine[0, x], affine[1, y] = sign * spacing[x], sign * spacing[y]
    affine[2, 2] = affine[3, 3] = 1
    affine[:3, 3] = -affine[:3, :2] @ ((np.array(shape) - 1) / 2)
    geometry = Geometry(affine, shape)
    world = geometry.to_world(np.stack([*np.indices(shape), np.zeros(shape)], axis=-1))[..., :2]
    image = np.where(np.linalg.norm(world, axis=-1) < 20, 100.0, 0.0).astype(np.float32)
    mask = np.zeros(shape, np.uint8)
    mask[np.linalg.norm(world - (0, 12), axis=-1) < 4] = 1
    mask[np.linalg.norm(world - (12, 0), axis=-1) < 4] = 2
    source = Source(format=kind)
    write_overlay(
        Volume(image[None], geometry, source=source), Volume(mask[None], geometry), _LABELS, tmp_path / "o.png"
    )
    picture = np.asarray(PIL.Image.open(tmp_path / "o.png").convert("RGB"))[:640]
    grey = (picture.min(axis=-1) > 60).nonzero()
    assert abs(np.ptp(grey[0]) - np.ptp(grey[1])) < 0.1 * np.ptp(grey[0])
    red, blue = _middle(picture, 0), _middle(picture, 2)
    np.testing.assert_allclose(red, (320 - 12 / 50 * 640, 320), atol=8)
    np.testing.assert_allclose(blue, (320, 320 - 12 / 50 * 640), atol=8)


def test_without_mask_in_colour_and_constant(tmp_path: Path):
    geometry = Geometry(np.eye(4), (20, 30))
    colours = np.zeros((3, 20, 30), np.uint8)
    colours[0, :, 15:] = 200
    write_overlay(Volume(colours, geometry, source=Source(format="raster")), None, (), tmp_path / "o.png")
    picture = np.asarray(PIL.Image.open(tmp_path / "o.png").convert("RGB"))
    assert (picture[..., 0] > 200).any()
    assert picture[: picture.shape[0] - 40, :, 1].max() == 0
    flat = Volume(np.full((1, 5, 5, 1), 7.0, np.float32), Geometry(np.eye(4), (5, 5, 1)))
    write_overlay(flat, None, (), tmp_path / "flat.png")
    with PIL.Image.open(tmp_path / "flat.png") as shown:
        assert shown.width == 3 * _PANEL


def test_a_large_image_is_drawn_without_copies_of_it(tmp_path: Path):
    """A mask that fills the image, of which a list of places would be 24 times as large."""
    shape = (160, 160, 160)
    geometry = Geometry(np.eye(4), shape)
    image = Volume(np.random.default_rng(0).integers(0, 1000, (1, *shape), dtype=np.int16), geometry)
    mask = Volume(np.ones((1, *shape), np.uint8), geometry)
    write_overlay(image, mask, _LABELS, tmp_path / "before.png")  # what is imported and cached
    tracemalloc.start()
    write_overlay(image, mask, _LABELS, tmp_path / "o.png")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * mask.array.size


def test_planes_go_through_the_middle_of_the_mask(rng: np.random.Generator):
    array = rng.integers(0, 3, (5, 7, 4)).astype(np.uint8)
    array[:2] = 0
    np.testing.assert_allclose(overlay._middle(array), np.argwhere(array).mean(axis=0))
