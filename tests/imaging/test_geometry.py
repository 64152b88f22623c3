"""The grid: where its voxels lie, and which grids are refused."""

import nibabel as nib
import numpy as np
import pytest

from medssl.imaging.errors import ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Volume


def _affine(seed: int, spacing: tuple[float, float, float] = (0.5, 0.7, 2.0)) -> np.ndarray:
    """A random rotation with these spacings."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation * spacing, rng.normal(size=3) * 100
    return affine


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6)])
def test_spacing_and_volume_follow_the_index_axes(shape: tuple[int, ...]):
    geometry = Geometry(_affine(1), shape)
    np.testing.assert_allclose(geometry.spacing_mm, (0.5, 0.7, 2.0)[: len(shape)])
    assert geometry.spatial_dims == len(shape)
    assert geometry.voxel_ml == pytest.approx(0.5 * 0.7 * 2.0 / 1000)
    assert not geometry.is_sheared


@pytest.mark.parametrize("seed", range(20))
def test_world_and_index_are_inverse_and_codes_are_those_of_nibabel(seed: int):
    geometry = Geometry(_affine(seed), (4, 5, 6))
    index = np.random.default_rng(seed).normal(size=(7, 2, 3)) * 10
    world = geometry.to_world(index)
    np.testing.assert_allclose(world[3, 1], (geometry.affine @ [*index[3, 1], 1])[:3])
    np.testing.assert_allclose(geometry.to_index(world), index, atol=1e-9)
    share = np.abs(geometry.affine[:3, :3] / geometry.spacing_mm)
    assert sorted(geometry.orientation.translate(str.maketrans("LPI", "RAS"))) == ["A", "R", "S"]
    if len(set(share.argmax(axis=0))) == 3:  # each index axis has a world axis of its own
        assert geometry.orientation == "".join(nib.aff2axcodes(geometry.affine))


@pytest.mark.parametrize(("diagonal", "codes"), [((1, 1, 1), "RAS"), ((-1, -1, 1), "LPS"), ((-1, 1, -1), "LAI")])
def test_codes_of_plain_axes(diagonal: tuple[int, ...], codes: str):
    assert Geometry(np.diag([*diagonal, 1]), (2, 2, 2)).orientation == codes


def test_permuted_axes_have_permuted_codes():
    affine = np.array([[0, 0, 1.0, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    assert Geometry(affine, (2, 2, 2)).orientation == "PSR"


def test_shear_is_seen():
    affine = np.eye(4)
    affine[1, 2] = np.tan(np.deg2rad(1))
    assert Geometry(affine, (2, 2, 2)).is_sheared


@pytest.mark.parametrize(
    ("affine", "shape", "reason"),
    [
        (np.diag([1.0, 1, 0, 1]), (2, 2, 2), "bad-affine"),
        (np.diag([1.0, 0, 1, 1]), (2, 2), "bad-affine"),
        (np.diag([1.0, np.nan, 1, 1]), (2, 2, 2), "bad-affine"),
        (np.eye(3), (2, 2, 2), "bad-affine"),
        (np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), (2, 2, 2), "bad-affine"),
        (np.eye(4), (2, 0, 2), "bad-shape"),
        (np.eye(4), (2,), "bad-shape"),
        (np.eye(4), (2, 2, 2, 2), "bad-shape"),
    ],
)
def test_grids_without_a_place_are_refused(affine: np.ndarray, shape: tuple[int, ...], reason: str):
    with pytest.raises(ImageError) as error:
        Geometry(affine, shape)
    assert error.value.reason == reason


def test_tiny_voxels_are_not_singular():
    assert Geometry(np.diag([1e-4, 1e-4, 1e-4, 1]), (2, 2, 2)).voxel_ml == pytest.approx(1e-15)


def test_the_affine_cannot_be_changed_from_outside():
    given = np.eye(4)
    geometry = Geometry(given, (2, 2, 2))
    given[0, 3] = 5
    assert geometry.affine[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 3] = 1


def test_closeness_is_that_of_the_farthest_corner():
    affine = np.eye(4)
    turned = affine.copy()
    turned[0, 1] = 1e-5  # 1 micrometre at the far end of 101 rows
    assert Geometry(affine, (3, 101, 3)).is_close(Geometry(turned, (3, 101, 3)), atol_mm=1.01e-3)
    assert not Geometry(affine, (3, 101, 3)).is_close(Geometry(turned, (3, 101, 3)), atol_mm=0.99e-3)
    assert not Geometry(affine, (3, 4, 5)).is_close(Geometry(affine, (3, 4, 6)))


@pytest.mark.parametrize(("array", "shape"), [((1, 2, 3), (3, 2)), ((2, 3), (2, 3)), ((1, 2, 3, 4), (2, 3))])
def test_an_array_that_does_not_fit_its_grid_is_refused(array: tuple[int, ...], shape: tuple[int, ...]):
    with pytest.raises(ImageError) as error:
        Volume(np.zeros(array), Geometry(np.eye(4), shape))
    assert error.value.reason == "bad-shape"


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4)])
def test_a_volume_tells_channels_and_dimensions(shape: tuple[int, ...]):
    volume = Volume(np.zeros((5, *shape)), Geometry(np.eye(4), shape))
    assert (volume.channels, volume.spatial_dims) == (5, len(shape))
