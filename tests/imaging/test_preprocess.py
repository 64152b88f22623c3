"""One preprocessing, invertible: oracles, round trips and closed forms."""

import itertools
import json

import numpy as np
import PIL.Image
import pytest
import SimpleITK

from medssl.imaging import resample
from medssl.imaging.errors import ConfigError, ImageError
from medssl.imaging.geometry import Geometry
from medssl.imaging.preprocess import (
    Intensity,
    Preprocess,
    prepare_label,
    prepare_volume,
    restore_label,
    restore_scores,
)
from medssl.imaging.resample import regrid_image, regrid_label
from medssl.imaging.volume import Volume

_RAW = Intensity("none")


def _affines() -> list[np.ndarray]:
    """All 48 orientations, anisotropic and shifted."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = 0
            for index, (world, sign) in enumerate(zip(order, signs, strict=True)):
                affine[world, index] = sign * (1 + index)
            affine[:3, 3] = 3, -5, 7
            found.append(affine)
    return found


@pytest.mark.parametrize("affine", _affines(), ids=lambda a: Geometry(a, (7, 9, 11)).orientation)
def test_reorientation_keeps_every_voxel_at_its_place_and_comes_back_exactly(affine, rng):
    array = rng.normal(size=(1, 7, 9, 11)).astype(np.float32)
    label = rng.integers(0, 3, size=(1, 7, 9, 11)).astype(np.uint8)
    geometry = Geometry(affine, (7, 9, 11))
    prepared = prepare_volume(Volume(array, geometry), Preprocess(intensity=_RAW))
    assert prepared.record.prepared.orientation == "RAS"
    for index in ((0, 0, 0), (6, 8, 10), (2, 3, 4)):
        place = np.rint(prepared.record.prepared.to_index(geometry.to_world(index))).astype(int)
        assert prepared.array[(0, *place)] == array[(0, *index)]
    back = restore_label(prepare_label(Volume(label, geometry), prepared.record), prepared.record)
    np.testing.assert_array_equal(back.array, label)
    assert back.geometry.is_close(geometry)
    np.testing.assert_array_equal(restore_scores(prepared.array, prepared.record), array)


def test_scores_are_nothing_outside_the_part_that_was_prepared():
    image = np.zeros((1, 40, 40, 12), np.float32)
    image[:, 15:22, 15:22, 4:9] = np.arange(1, 8)[:, None, None]
    prepared = prepare_volume(
        Volume(image, Geometry(np.diag([2.0, 1, 3, 1]), image.shape[1:])), Preprocess(crop="nonzero")
    )
    scores = np.stack([np.full(prepared.array.shape[1:], s, np.float32) for s in (0.5, 0.25)])
    back = restore_scores(scores, prepared.record)
    inside = np.zeros(image.shape[1:], bool)
    inside[11:26, 11:26, :] = True
    np.testing.assert_array_equal(back, np.stack([inside * 0.5, inside * 0.25]))


def _sphere(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(-1, 1, n)
    grid = np.stack(np.meshgrid(x, x, x, indexing="ij"))
    return grid[:1].astype(np.float32), ((grid**2).sum(axis=0) < 0.5).astype(np.uint8)


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (0.7, 1.1, 2.0), (2.0, 2.0, 2.0)])
def test_a_mask_survives_another_spacing_and_back(spacing):
    image, mask = _sphere()
    geometry = Geometry(np.diag([1, 1, 3.0, 1]), mask.shape)
    prepared = prepare_volume(Volume(image, geometry), Preprocess(spacing_mm=spacing))
    np.testing.assert_allclose(prepared.record.prepared.spacing_mm, spacing)
    back = restore_label(prepare_label(Volume(mask[None], geometry), prepared.record), prepared.record)
    assert back.array.shape[1:] == mask.shape
    assert _dice(back.array[0], mask) > 0.96


def test_the_centre_of_the_image_stays_when_spacing_changes():
    geometry = Geometry(np.diag([1, 1, 3.0, 1]), (40, 41, 10))
    image = np.zeros((1, 40, 41, 10), np.float32)
    image[0, 0] = 1
    new = prepare_volume(Volume(image, geometry), Preprocess(spacing_mm=(1.7, 0.6, 2.0))).record.prepared
    centres = [g.to_world((np.array(g.shape) - 1) / 2) for g in (geometry, new)]
    np.testing.assert_allclose(*centres, atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "spacing", "wanted"), [((40, 30), 1.0, (20, 15)), ((10, 16), 1.0, (12, 20)), ((20, 8), 0.3, (20, 8))]
)
def test_pictures_of_several_sizes_get_one_longer_side(shape, spacing, wanted):
    mask = np.zeros(shape, np.uint8)
    mask[shape[0] // 4 : -shape[0] // 4, 2:-2] = 1
    geometry = Geometry(np.diag([spacing, spacing, 1, 1]), shape)
    image = mask[None] * 50.0 + np.arange(shape[1], dtype=np.float32)
    prepared = prepare_volume(Volume(image, geometry), Preprocess(spatial_dims=2, longest=20))
    assert prepared.array.shape == (1, *wanted)
    grid = prepared.record.prepared
    assert grid.spacing_mm[0] == pytest.approx(grid.spacing_mm[1])
    back = restore_label(prepare_label(Volume(mask[None], geometry), prepared.record), prepared.record)
    assert back.geometry.is_close(geometry)
    assert _dice(back.array[0], mask) > 0.85
    assert Preprocess.from_json(Preprocess(spatial_dims=2, longest=20).to_json()).longest == 20
    for wrong in (
        {"longest": 20},
        {"spatial_dims": 2, "longest": 0},
        {"spatial_dims": 2, "longest": 5, "spacing_mm": (1, 1)},
    ):
        with pytest.raises(ConfigError, match="longest is for 2D"):
            Preprocess(**wrong)


def test_pictures_in_colour_become_grey_and_grey_ones_stay():
    geometry = Geometry(np.eye(4), (6, 5))
    colours = np.random.default_rng(0).integers(0, 256, (3, 6, 5)).astype(np.uint8)
    grey = Preprocess(spatial_dims=2, intensity=Intensity("none"), grey=True)
    made = prepare_volume(Volume(colours, geometry), grey).array
    np.testing.assert_allclose(
        made, np.array(PIL.Image.fromarray(colours.transpose(1, 2, 0)).convert("L"))[None], atol=1
    )
    for alike in (colours[:1], np.repeat(colours[:1], 3, axis=0)):
        np.testing.assert_allclose(prepare_volume(Volume(alike, geometry), grey).array, colours[:1], rtol=1e-6)
    assert [grey.channels_of(n) for n in (1, 2, 3, 4)] == [1, 2, 1, 4]
    assert Preprocess.from_json(grey.to_json()) == grey
    with pytest.raises(ConfigError, match="grey is for 2D"):
        Preprocess(grey=True)


def test_a_tilted_stack_is_put_upright_and_its_mask_comes_back():
    image, mask = _sphere()
    affine = np.eye(4)
    affine[1, 2] = np.tan(np.deg2rad(15))
    geometry = Geometry(affine, mask.shape)
    prepared = prepare_volume(Volume(image, geometry), Preprocess())
    assert not prepared.record.prepared.is_sheared
    corners = geometry.to_world(np.array(list(np.ndindex(2, 2, 2))) * 39)
    inside = prepared.record.prepared.to_index(corners)
    assert inside.min() > -1e-6
    assert np.all(inside <= np.array(prepared.record.prepared.shape) - 1 + 1e-6)
    back = restore_label(prepare_label(Volume(mask[None], geometry), prepared.record), prepared.record)
    assert _dice(back.array[0], mask) > 0.97


def test_linear_resampling_equals_simpleitk(rng):
    array = rng.normal(size=(1, 9, 10, 11)).astype(np.float32)
    source = Geometry(np.diag([2.0, 1.0, 1.5, 1]), (9, 10, 11))
    for angle in (0.0, 0.3):
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        affine = turn @ np.diag([0.9, 0.8, 1.1, 1])
        affine[:3, 3] = (6, 2, 3)
        target = Geometry(affine, (8, 7, 9))
        image = SimpleITK.GetImageFromArray(array[0].transpose(2, 1, 0))
        image.SetSpacing((2.0, 1.0, 1.5))
        resampler = SimpleITK.ResampleImageFilter()
        resampler.SetSize(target.shape)
        resampler.SetOutputSpacing((0.9, 0.8, 1.1))
        resampler.SetOutputDirection(turn[:3, :3].ravel().tolist())
        resampler.SetOutputOrigin((6.0, 2.0, 3.0))
        resampler.SetInterpolator(SimpleITK.sitkLinear)
        resampler.SetDefaultPixelValue(-99)
        expected = SimpleITK.GetArrayFromImage(resampler.Execute(image)).transpose(2, 1, 0)
        inside = expected != -99
        assert inside.mean() > 0.3
        np.testing.assert_allclose(regrid_image(array, source, target)[0][inside], expected[inside], atol=1e-4)


def test_shrinking_is_anti_aliased():
    """A pattern finer than the new voxels becomes its mean, not a new pattern."""
    array = np.tile(np.array([0.0, 1.0], np.float32), 60)[None, :, None, None] * np.ones((1, 120, 4, 4), np.float32)
    source, target = Geometry(np.eye(4), (120, 4, 4)), Geometry(np.diag([4.0, 1, 1, 1]), (30, 4, 4))
    np.testing.assert_allclose(regrid_image(array, source, target)[0, 2:-2], 0.5, atol=1e-5)


def test_labels_beyond_their_grid_are_background():
    label = np.ones((4, 4, 4), np.uint8)
    source, target = Geometry(np.eye(4), (4, 4, 4)), Geometry(np.diag([0.5, 1, 1, 1]), (16, 4, 4))
    moved = regrid_label(label, source, target)
    assert moved[:7].all()
    assert not moved[9:].any()


def test_a_many_class_label_keeps_all_classes_when_refined(rng):
    label = rng.integers(0, 6, size=(5, 6, 7)).astype(np.uint8)
    source = Geometry(np.eye(4), (5, 6, 7))
    fine = np.diag([1 / 3, 1 / 3, 1 / 3, 1])
    fine[:3, 3] = -1 / 3
    moved = regrid_label(label, source, Geometry(fine, (15, 18, 21)))
    np.testing.assert_array_equal(moved[1::3, 1::3, 1::3], label)


@pytest.mark.parametrize("seed", range(12))
def test_labels_are_sampled_only_where_they_reach_and_lose_nothing(seed: int, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(seed)
    label = np.zeros((14, 12, 10), np.uint8)
    start, size = rng.integers(0, 8, 3), rng.integers(1, 6, 3)
    label[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))] = rng.integers(0, 3, 1)
    label[tuple(rng.integers(0, 10, 3))] = 1
    matrix = np.eye(3) if seed % 3 == 0 else np.linalg.qr(rng.normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = matrix * rng.uniform(0.3, 3, 3)
    affine[:3, 3] = rng.uniform(-8, 8, 3)
    target = Geometry(affine, (13, 17, 15))
    source = Geometry(np.diag([1.0, 0.7, 2.0, 1.0]), label.shape)
    found = regrid_label(label, source, target)
    monkeypatch.setattr(resample, "_reach", lambda *_: (np.zeros(3, int), np.array(target.shape)))
    np.testing.assert_array_equal(found, regrid_label(label, source, target))


def test_intensities():
    values = np.array([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9], np.float32)
    volume = Volume(np.broadcast_to(values[None, :, None, None], (1, 10, 2, 2)).copy(), Geometry(np.eye(4), (10, 2, 2)))

    def along(intensity: Intensity) -> np.ndarray:
        return prepare_volume(volume, Preprocess(intensity=intensity)).array[0, :, 0, 0]

    np.testing.assert_allclose(along(Intensity("zscore")), (values - 4.5) / np.std(values), atol=1e-6)
    np.testing.assert_allclose(along(Intensity("zscore", nonzero=True)), (values - 5) / np.std(values[1:]), atol=1e-6)
    np.testing.assert_allclose(along(Intensity("window", (2.0,), (6.0,))), np.clip((values - 4) / 2, -1, 1), atol=1e-6)
    low, high = np.percentile(volume.array, [10, 90])
    expected = np.clip((values - low) / (high - low), 0, 1) * 2 - 1
    np.testing.assert_allclose(along(Intensity("percentile", (10.0,), (90.0,))), expected, atol=1e-5)


def test_crop_to_foreground_keeps_the_object_and_its_place():
    array = np.zeros((1, 30, 30, 30), np.float32)
    array[0, 10:15, 12:14, 20:28] = 5
    geometry = Geometry(np.diag([1.0, 2, 3, 1]), (30, 30, 30))
    prepared = prepare_volume(Volume(array, geometry), Preprocess(crop="nonzero", intensity=_RAW))
    assert prepared.array.shape == (1, 13, 10, 14)  # 4 voxels of margin, cut at the image's end
    np.testing.assert_allclose(prepared.record.prepared.to_world((4, 4, 4)), geometry.to_world((10, 12, 20)))
    mask = (array[0] > 0).astype(np.uint8)
    back = restore_label(prepare_label(Volume(mask[None], geometry), prepared.record), prepared.record)
    np.testing.assert_array_equal(back.array[0], mask)


@pytest.mark.parametrize("shape", [(1, 20, 30, 1), (1, 20, 30)])
def test_one_slice_and_2d_go_through(shape, rng):
    array = rng.normal(size=shape).astype(np.float32)
    volume = Volume(array, Geometry(np.eye(4), shape[1:]))
    spacing = (2.0, 2.0, 1.0)[: len(shape) - 1]
    prepared = prepare_volume(volume, Preprocess(spatial_dims=len(shape) - 1, spacing_mm=spacing))
    assert prepared.array.shape[1:3] == (10, 15)
    back = restore_label(np.ones(prepared.array.shape[1:], np.uint8), prepared.record)
    assert back.array.shape == shape


def test_constant_images_are_refused():
    volume = Volume(np.full((1, 4, 4, 4), 7.0, np.float32), Geometry(np.eye(4), (4, 4, 4)))
    for preprocess in (
        Preprocess(),
        Preprocess(crop="above_mean"),
        Preprocess(intensity=Intensity("window", (0,), (9,))),
    ):
        with pytest.raises(ImageError) as error:
            prepare_volume(volume, preprocess)
        assert error.value.reason == "constant-image"


def test_options_report_all_their_mistakes():
    with pytest.raises(ConfigError) as error:
        Preprocess(spatial_dims=4, orientation="RAX", spacing_mm=(1, 0), intensity=Intensity("window"))
    assert len(error.value.problems) == 4


def test_json_round_trip():
    preprocess = Preprocess(spacing_mm=(1, 2, 3), crop="nonzero", intensity=Intensity("window", (-100,), (300,)))
    assert Preprocess.from_json(json.loads(json.dumps(preprocess.to_json()))) == preprocess


def test_every_option_that_differs_is_told():
    ours = Preprocess(spatial_dims=2, longest=64, intensity=Intensity("window", (0,), (9,)))
    assert ours.differences(json.loads(json.dumps(ours.to_json()))) == {}
    others = {
        "spatial_dims": 3, "orientation": "LPS", "spacing_mm": [1.0, 2.0], "longest": 32, "grey": True,
        "crop": "nonzero", "intensity": {"kind": "window", "low": [0], "high": [9.0], "nonzero": True},
    }  # fmt: skip
    assert others.keys() == ours.to_json().keys(), "a new option must be compared as well"
    for name, value in others.items():
        found = ours.differences({**ours.to_json(), name: value})
        assert list(found) == [name]
        assert found[name][0] == value
    assert ours.differences({"spatial_dims": 2, "intensity": {"kind": "window", "low": [0], "high": [9]}}) == {
        "longest": (None, 64)
    }, "what an older file does not know had its default"


def test_shrinking_an_oblique_grid_is_anti_aliased():
    """Turned by 30 degrees and four times coarser: a pattern finer than the new voxels becomes its mean."""
    array = np.tile(np.array([0.0, 1.0], np.float32), 40)[None, :, None, None] * np.ones((1, 80, 80, 3), np.float32)
    angle = np.deg2rad(30)
    affine = np.eye(4)
    affine[:2, :2] = 4 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine[:2, 3] = (30, 20)
    moved = regrid_image(array, Geometry(np.eye(4), (80, 80, 3)), Geometry(affine, (8, 8, 3)))
    np.testing.assert_allclose(moved, 0.5, atol=0.06)


def test_shrinking_an_oblique_grid_keeps_places():
    """A linear ramp is kept by any symmetric filter, so its values tell the place of every voxel."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (60, 50, 20)), indexing="ij")).astype(np.float32)
    angle = np.deg2rad(20)
    affine = np.eye(4)
    affine[:2, :2] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([2.5, 0.8])
    affine[:3, 3] = (20, 8, 4)
    target = Geometry(affine, (8, 12, 12))
    moved = regrid_image(grid, Geometry(np.eye(4), (60, 50, 20)), target)
    expected = np.moveaxis(
        target.to_world(np.stack(np.meshgrid(*map(np.arange, target.shape), indexing="ij"), -1)), -1, 0
    )
    np.testing.assert_allclose(moved[:, 1:-1], expected[:, 1:-1], atol=1e-4)


@pytest.mark.parametrize("shape", [(17, 23), (9, 12, 11)])
@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0])
def test_refining_equals_scipy(shape, factor, rng):
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy is not in the base install")

    array = rng.normal(size=(1, *shape)).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] *= factor
    affine[: len(shape), 3] = 0.3
    target = Geometry(affine, tuple(n - 2 for n in shape))
    places = np.stack(np.meshgrid(*(factor * np.arange(n) + 0.3 for n in target.shape), indexing="ij"))
    expected = ndimage.map_coordinates(array[0], places, order=1, mode="nearest")
    np.testing.assert_allclose(regrid_image(array, Geometry(np.eye(4), shape), target)[0], expected, atol=1e-5)


def test_a_tilted_stack_at_another_spacing_comes_back():
    image, mask = _sphere(48)
    affine = np.diag([0.7, 0.7, 1.4, 1])
    affine[1, 2] = 1.4 * np.tan(np.deg2rad(15))
    geometry = Geometry(affine, mask.shape)
    prepared = prepare_volume(Volume(image, geometry), Preprocess(spacing_mm=(1.0, 1.0, 1.0)))
    np.testing.assert_allclose(prepared.record.prepared.spacing_mm, 1)
    assert any("tilted" in note for note in prepared.notes)
    back = restore_label(prepare_label(Volume(mask[None], geometry), prepared.record), prepared.record)
    np.testing.assert_array_equal(back.geometry.affine, geometry.affine)
    assert _dice(back.array[0], mask) > 0.97


def test_a_label_on_another_grid_is_refused():
    image, mask = _sphere(8)
    prepared = prepare_volume(Volume(image, Geometry(np.eye(4), mask.shape)), Preprocess())
    shifted = np.eye(4)
    shifted[0, 3] = 1
    with pytest.raises(ImageError) as error:
        prepare_label(Volume(mask[None], Geometry(shifted, mask.shape)), prepared.record)
    assert error.value.reason == "label-grid"


def test_wrong_dimensions_and_channels_are_refused(rng):
    volume = Volume(rng.normal(size=(3, 8, 8)).astype(np.float32), Geometry(np.eye(4), (8, 8)))
    with pytest.raises(ImageError, match="2D image where 3D is due"):
        prepare_volume(volume, Preprocess())
    two = Preprocess(spatial_dims=2, intensity=Intensity("window", (0, 0), (1, 1)))
    with pytest.raises(ImageError, match=r"3 channels, but intensity\.low has 2"):
        prepare_volume(volume, two)
