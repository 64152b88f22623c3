"""Metrics against closed forms, a slow oracle and MONAI's own summary functions."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

from medssl.evaluation.metrics import score_classes
from medssl.imaging.errors import ImageError


def _oracle(
    a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_], steps: npt.NDArray[np.float64], tolerance: float
) -> tuple[float, float]:
    """HD95 and NSD by looking at every pair of boundary voxels, `steps` mm apart along each axis, in columns."""

    def boundary(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        points = []
        for index in np.argwhere(mask):
            for axis in range(mask.ndim):
                for step in (-1, 1):
                    other = index.copy()
                    other[axis] += step
                    outside = not 0 <= other[axis] < mask.shape[axis]
                    if outside or not mask[tuple(other)]:
                        points.append(tuple(index))
        return np.array(sorted(set(points))) @ steps.T

    first, second = boundary(a), boundary(b)
    table = np.linalg.norm(first[:, None] - second[None], axis=-1)
    there, back = table.min(axis=1), table.min(axis=0)
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    nsd = ((there <= tolerance).sum() + (back <= tolerance).sum()) / (len(there) + len(back))
    return float(hd95), float(nsd)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 3.0), (2.0, 0.5)])
def test_surface_metrics_equal_slow_oracle(rng: np.random.Generator, spacing: tuple[float, ...]) -> None:
    shape = (9, 8, 7)[: len(spacing)]
    for tolerance in (0.6, 1.0, 2.5):
        a = (rng.random(shape) < 0.25).astype(np.uint8)
        b = (rng.random(shape) < 0.25).astype(np.uint8)
        score = score_classes(a, b, [1], spacing, tolerance)[1]
        hd95, nsd = _oracle(a == 1, b == 1, np.diag(spacing), tolerance)
        assert score.hd95_mm == pytest.approx(hd95, rel=1e-5)
        assert score.nsd == pytest.approx(nsd)
        assert score.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_surface_metrics_equal_monai_summaries(rng: np.random.Generator) -> None:
    spacing = (0.9, 1.1, 2.0)
    a = np.zeros((14, 15, 16), np.uint8)
    b = np.zeros_like(a)
    a[3:9, 4:11, 2:9] = 1
    b[4:11, 3:10, 4:12] = 1
    b[rng.random(a.shape) < 0.02] = 1
    tensors = [torch.from_numpy(np.stack([m == 0, m == 1])[None].astype(np.float32)) for m in (a, b)]
    score = score_classes(a, b, [1], spacing, 1.5)[1]
    expected = compute_hausdorff_distance(*tensors, percentile=95, spacing=list(spacing))
    assert score.hd95_mm == pytest.approx(float(expected), rel=1e-5)
    assert score.nsd == pytest.approx(float(compute_surface_dice(*tensors, [1.5], spacing=list(spacing))))


@pytest.mark.parametrize("shape", [(14, 15), (9, 8, 7)])
def test_dice_is_that_of_monai(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    """Class 3 is missed, class 4 is in neither, which MONAI leaves out as well."""
    reference = rng.integers(0, 4, shape).astype(np.uint8)
    prediction = np.where(rng.random(shape) < 0.7, reference, 1).astype(np.uint8)
    prediction[prediction == 3] = 0
    one_hot = [
        torch.from_numpy(np.stack([m == k for k in range(5)])[None].astype(np.float32)) for m in (prediction, reference)
    ]
    theirs = compute_dice(*one_hot, include_background=False)[0]
    ours = score_classes(prediction, reference, [1, 2, 3, 4], (1.0,) * len(shape))
    assert [one.dice for one in ours.values()] == pytest.approx(theirs.tolist(), nan_ok=True)
    assert ours[3].dice == 0
    assert math.isnan(ours[4].dice)


def test_distances_on_a_tilted_grid_are_those_of_the_places(rng: np.random.Generator) -> None:
    steps = np.array([[0.5, 0, 0], [0, 0.5, 1.7], [0, 0, 4.7]])
    for tolerance in (0.6, 2.5):
        a, b = ((rng.random((9, 8, 7)) < 0.25).astype(np.uint8) for _ in range(2))
        score = score_classes(a, b, [1], np.linalg.norm(steps, axis=0), tolerance, steps_mm=steps)[1]
        hd95, nsd = _oracle(a == 1, b == 1, steps, tolerance)
        assert score.hd95_mm == pytest.approx(hd95, rel=1e-9)
        assert score.nsd == pytest.approx(nsd)
    straight = score_classes(a, b, [1], (0.5, 0.7, 3.0), 1.0)[1]
    same = score_classes(a, b, [1], (0.5, 0.7, 3.0), 1.0, steps_mm=np.diag([0.5, 0.7, 3.0]))[1]
    assert same.hd95_mm == pytest.approx(straight.hd95_mm, rel=1e-6)
    assert same.nsd == straight.nsd


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shifted_plate_has_the_shift_as_distance(axis: int) -> None:
    """Two thin plates across the whole image, apart along one axis: every boundary voxel is exactly as far as that."""
    spacing = (0.5, 1.25, 3.0)
    a = np.zeros((12, 12, 12), np.uint8)
    b = np.zeros_like(a)
    a[tuple(slice(4, 5) if d == axis else slice(None) for d in range(3))] = 1
    b[tuple(slice(7, 8) if d == axis else slice(None) for d in range(3))] = 1
    apart = 3 * spacing[axis]
    within = score_classes(a, b, [1], spacing, apart + 1e-4)[1]
    assert within.hd95_mm == pytest.approx(apart, rel=1e-6)
    assert within.nsd == 1.0
    assert score_classes(a, b, [1], spacing, apart - 1e-4)[1].nsd == 0.0
    assert within.dice == 0.0


@pytest.mark.parametrize("spacing", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 2.4])
def test_an_error_of_exactly_the_tolerance_is_within_it_whatever_its_digits(spacing: float) -> None:
    cube, moved = np.zeros((2, 12, 12, 12), np.uint8)
    cube[3:8, 3:8, 3:8] = moved[4:9, 3:8, 3:8] = 1
    for voxels in (1, 2):
        assert score_classes(cube, moved, [1], (spacing / voxels,) * 3, spacing)[1].nsd == 1.0
    assert score_classes(cube, moved, [1], (spacing,) * 3, 0.99 * spacing)[1].nsd < 1


def test_concentric_balls_differ_by_their_radii() -> None:
    spacing = (0.5, 0.5, 0.5)
    grid = np.indices((61, 61, 61)) * 0.5 - 15.0
    radius = np.sqrt((grid**2).sum(axis=0))
    small, large = (radius <= 8).astype(np.uint8), (radius <= 11).astype(np.uint8)
    score = score_classes(small, large, [1], spacing, 3.5)[1]
    assert score.hd95_mm == pytest.approx(3.0, abs=0.5)
    assert score.dice == pytest.approx(2 * 8**3 / (8**3 + 11**3), abs=0.01)
    assert score.nsd == 1.0


def test_empty_masks_follow_the_stated_conventions() -> None:
    empty, full = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    both = score_classes(empty, empty, [1], (1, 1))[1]
    assert both.state == "both-empty"
    assert all(math.isnan(x) for x in (both.dice, both.hd95_mm, both.nsd))
    for prediction, reference, state in ((empty, full, "missed"), (full, empty, "invented")):
        score = score_classes(prediction, reference, [1], (1, 1))[1]
        assert (score.dice, score.nsd, score.hd95_mm, score.state) == (0.0, 0.0, math.inf, state)


def test_ignored_voxels_count_nowhere() -> None:
    reference = np.zeros((8, 8), np.uint8)
    reference[2:6, 2:6] = 1
    prediction = reference.copy()
    prediction[:, 6:] = 1  # wrong, but nobody judged there
    reference[:, 6:] = 255
    score = score_classes(prediction, reference, [1], (1, 1), 0.5, ignore=255)[1]
    assert score.dice == 1.0
    assert score.prediction_voxels == score.reference_voxels == 16
    assert score.hd95_mm == 0.0
    assert score.nsd == 1.0
    assert score_classes(prediction, reference, [1], (1, 1), 0.5)[1].dice < 1


def test_a_mask_cut_by_the_ignored_region_gets_no_boundary_there() -> None:
    """Reference continues into the ignored region; the prediction does too, so the cut must not count as distance."""
    reference = np.zeros((12, 20), np.uint8)
    reference[3:9, 2:18] = 1
    prediction = reference.copy()
    reference[:, 10:] = 255
    score = score_classes(prediction, reference, [1], (1.0, 1.0), 0.5, ignore=255)[1]
    assert (score.dice, score.hd95_mm, score.nsd) == (1.0, 0.0, 1.0)


def test_a_border_beside_ignored_voxels_is_measured_to_the_nearest_one() -> None:
    """Two pixels short of an unclear rim are two pixels, not the way to the other side of the structure."""
    reference = np.zeros((24, 44), np.uint8)
    reference[2:22, 2:42] = 1
    prediction = reference.copy()
    prediction[:, 40:] = 0
    assert score_classes(prediction, reference, [1], (1, 1))[1].hd95_mm == 2.0
    reference[:, 42:] = 255
    score = score_classes(prediction, reference, [1], (1, 1), ignore=255)[1]
    assert score.hd95_mm == 2.0
    assert score.nsd < 1


def test_a_structure_whose_rim_nobody_judged_has_no_distance() -> None:
    reference = np.zeros((12, 12), np.uint8)
    reference[2:10, 2:10] = 255
    reference[3:9, 3:9] = 1
    score = score_classes((reference == 1).astype(np.uint8), reference, [1], (1, 1), ignore=255)[1]
    assert (score.dice, score.state) == (1.0, "scored")
    assert math.isnan(score.hd95_mm)
    assert math.isnan(score.nsd)


def test_several_classes_are_scored_apart() -> None:
    reference = np.array([[1, 1, 2, 2]], np.uint8)
    prediction = np.array([[1, 2, 2, 2]], np.uint8)
    scores = score_classes(prediction, reference, [1, 2, 3], (1, 1))
    assert scores[1].dice == pytest.approx(2 / 3)
    assert scores[2].dice == pytest.approx(4 / 5)
    assert scores[3].state == "both-empty"


def test_different_grids_are_refused() -> None:
    with pytest.raises(ImageError, match="different grids"):
        score_classes(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), [1], (1, 1))
