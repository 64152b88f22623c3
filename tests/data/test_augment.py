import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from medssl.data import intensity, spatial
from medssl.data.augment import Augmentation, apply, draw
from medssl.data.augment_options import NO_AUGMENTATION, AugmentOptions
from medssl.imaging.errors import ConfigError

_SHAPES = {2: (9, 7), 3: (6, 7, 5)}
_EVERYTHING = AugmentOptions(**{**dict.fromkeys(NO_AUGMENTATION, 1.0), "stain_p": 0.0}, flip_axes=(0, 1), shift=0.1)


def _batch(dims: int, numbers: list[int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    shape = _SHAPES[dims]
    return {
        "image": torch.randn((len(numbers), 2, *shape), generator=generator),
        "label": torch.randint(0, 4, (len(numbers), *shape), generator=generator),
        "index": torch.tensor(numbers),
        "step": torch.tensor(3),
        "spacing_mm": torch.ones(len(numbers), dims, dtype=torch.float64),
    }


@pytest.mark.parametrize("dims", [2, 3])
def test_nothing_drawn_changes_nothing_bit_for_bit(dims: int) -> None:
    batch = _batch(dims, [0, 1, 2])
    out = Augmentation(AugmentOptions(**NO_AUGMENTATION), seed=0)(batch)
    assert torch.equal(out["image"], batch["image"])
    assert torch.equal(out["label"], batch["label"])
    assert out["label"].dtype == torch.int64


@pytest.mark.parametrize("dims", [2, 3])
def test_a_sample_depends_on_seed_and_number_alone(dims: int) -> None:
    one = Augmentation(_EVERYTHING, seed=5)
    batch = _batch(dims, [4, 9, 6])
    before = batch["image"].clone()
    whole = one(batch)
    assert torch.equal(batch["image"], before)
    alone = one({name: batch[name][1:2] for name in ("image", "label", "index", "spacing_mm")})
    assert torch.equal(alone["label"][0], whole["label"][1])
    torch.testing.assert_close(alone["image"][0], whole["image"][1], rtol=1e-5, atol=1e-5)
    assert torch.equal(one(batch)["image"], whole["image"])
    other = Augmentation(_EVERYTHING, seed=6)(batch)
    assert not torch.equal(other["image"], whole["image"])
    assert not torch.equal(whole["image"], before)


@pytest.mark.parametrize("dims", [2, 3])
def test_autocast_changes_no_bit(dims: int) -> None:
    """The health check makes views under the run's bf16 autocast, training makes them outside it."""
    options = dataclasses.replace(_EVERYTHING, stain_p=1.0 if dims == 2 else 0.0)
    varied = Augmentation(options, seed=5)
    batch = _batch(dims, [0, 1, 2])
    if dims == 2:
        batch["image"] = torch.cat([batch["image"], batch["image"][:, :1]], 1)  # three colours
    plain = varied(batch)
    with torch.autocast("cpu", torch.bfloat16):
        within = varied(batch)
    assert within["image"].dtype == torch.float32
    assert torch.equal(within["image"], plain["image"])
    assert torch.equal(within["label"], plain["label"])


@pytest.mark.parametrize("option", ["blur_p", "low_resolution_p"])
def test_a_gpu_s_autocast_does_not_end_the_batch(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's autocast has no rule for `index_copy`, which then refuses a source of another dtype; the CPU's has one."""
    copied = torch.Tensor.index_copy

    def strict(self: torch.Tensor, dim: int, rows: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return copied(self, dim, rows, source)

    monkeypatch.setattr(torch.Tensor, "index_copy", strict)
    varied = Augmentation(AugmentOptions(**{**NO_AUGMENTATION, option: 1.0}), seed=5)
    with torch.autocast("cpu", torch.bfloat16):
        assert varied(_batch(3, [0, 1]))["image"].dtype == torch.float32


@pytest.mark.parametrize("dims", [2, 3])
def test_resampling_agrees_with_affine_grid_and_grid_sample(dims: int) -> None:
    shape, generator = _SHAPES[dims], torch.Generator().manual_seed(1)
    image = torch.randn((2, 1, *shape), generator=generator)
    matrix = torch.eye(dims, dtype=torch.float64) + 0.2 * torch.randn(
        (2, dims, dims), generator=generator, dtype=torch.float64
    )
    shift = torch.randn((2, dims), generator=generator, dtype=torch.float64)
    # torch orders coordinates last axis first and measures them in half extents
    half = torch.tensor([(n - 1) / 2 for n in shape], dtype=torch.float64)
    theta = torch.cat([matrix * half / half[:, None], (shift / half)[:, :, None]], dim=2)
    order = torch.arange(dims - 1, -1, -1)
    theta = theta[:, order][:, :, torch.cat([order, torch.tensor([dims])])].float()
    oracle = functional.affine_grid(theta, [2, 1, *shape], align_corners=True)
    grid = spatial.sampling_grid(matrix, shift, shape)
    torch.testing.assert_close(grid, oracle, rtol=1e-5, atol=1e-5)
    expected = functional.grid_sample(image, oracle, padding_mode="border", align_corners=True)
    torch.testing.assert_close(spatial.resample_image(image, grid), expected, rtol=1e-4, atol=1e-4)


def test_a_quarter_turn_moves_voxels_exactly() -> None:
    label = torch.arange(25).view(1, 5, 5)
    matrix = spatial.affine_matrices(
        torch.tensor([[90.0]], dtype=torch.float64), torch.ones(1, 1).double(), torch.ones(1, 2).double()
    )
    grid = spatial.sampling_grid(matrix, torch.zeros(1, 2), (5, 5))
    moved = spatial.resample_label(label, grid)
    assert torch.equal(moved[0], torch.rot90(label[0], -1))
    torch.testing.assert_close(spatial.resample_image(label[:, None].float(), grid)[0, 0], moved[0].float())


def test_a_rotation_about_each_axis_leaves_that_axis_alone() -> None:
    for axis in range(3):
        angles = torch.zeros(1, 3, dtype=torch.float64)
        angles[0, axis] = 30.0
        matrix = spatial.affine_matrices(angles, torch.ones(1, 1).double(), torch.ones(1, 3).double())[0]
        unit = torch.eye(3, dtype=torch.float64)[axis]
        assert torch.allclose(matrix @ unit, unit)
        assert torch.allclose(matrix @ matrix.T, torch.eye(3, dtype=torch.float64))


def test_rotation_is_one_in_millimetres() -> None:
    """On 1 x 3 mm voxels, 3 voxels along the first axis turn into 1 voxel along the second."""
    matrix = spatial.affine_matrices(
        torch.tensor([[90.0]], dtype=torch.float64), torch.ones(1, 1).double(), torch.tensor([[1.0, 3.0]]).double()
    )
    torch.testing.assert_close(matrix[0] @ torch.tensor([3.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double())


@pytest.mark.parametrize("dims", [2, 3])
def test_each_sample_is_turned_in_its_own_millimetres(dims: int) -> None:
    """Seen in mm a turn with a change of size has equal singular values: nothing is stretched or sheared."""
    spacing = torch.tensor([[0.7, 0.7, 5.0], [1.0, 1.0, 1.0], [3.0, 0.5, 2.0]], dtype=torch.float64)[:, -dims:]
    options = AugmentOptions(**{**NO_AUGMENTATION, "affine_p": 1.0}, rotation_deg=60, scale=0.25)
    matrix = draw(options, [0, 1, 2], 3, (9,) * dims, spacing).matrix
    sizes = torch.linalg.svdvals(spacing[:, :, None] * matrix / spacing[:, None, :])
    torch.testing.assert_close(sizes, sizes[:, :1].expand_as(sizes))
    assert (sizes[:, 0] - 1).abs().min() > 1e-3
    assert (matrix - torch.diag_embed(torch.diagonal(matrix, dim1=1, dim2=2))).abs().amax((1, 2)).min() > 1e-2
    for number in range(3):  # and neither knows of the other's
        alone = draw(options, [number], 3, (9,) * dims, spacing[number : number + 1]).matrix
        assert torch.equal(alone[0], matrix[number])


def test_zoom_two_doubles_what_is_seen() -> None:
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 3:6, 3:6] = 1
    matrix = spatial.affine_matrices(
        torch.zeros(1, 1).double(), torch.tensor([[2.0, 2.0]]).double(), torch.ones(1, 2).double()
    )
    zoomed = spatial.resample_image(image, spatial.sampling_grid(matrix, torch.zeros(1, 2), (9, 9)))[0, 0]
    assert torch.equal(zoomed[4], torch.tensor([0, 0.5, 1, 1, 1, 1, 1, 0.5, 0]))


def test_shift_reads_from_further_along_and_outside_is_edge_and_no_class() -> None:
    row = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    grid = spatial.sampling_grid(torch.eye(2)[None], torch.tensor([[0.0, 1.0]]), (1, 4))
    assert spatial.resample_image(row[None, None], grid)[0, 0, 0].tolist() == [2, 3, 4, 4]
    assert spatial.resample_label(row[None].long(), grid)[0, 0].tolist() == [2, 3, 4, spatial.OUTSIDE]


@pytest.mark.parametrize("shape", [(7, 9), (6, 7, 5)])
def test_a_moved_label_has_the_class_of_most_weight(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Beside scipy's linear interpolation of each class alone; 255 is a class like any other."""
    dims = len(shape)
    label = rng.choice([0, 1, 2, 255], (2, *shape))
    matrix = torch.eye(dims).double() + 0.2 * torch.from_numpy(rng.standard_normal((2, dims, dims)))
    shift = torch.from_numpy(rng.uniform(-1, 1, (2, dims)))
    moved = spatial.resample_label(torch.from_numpy(label), spatial.sampling_grid(matrix, shift, shape)).numpy()
    centre = (np.array(shape) - 1) / 2
    offsets = np.moveaxis(np.indices(shape), 0, -1) - centre
    for sample in range(2):
        where = np.moveaxis(offsets @ matrix[sample].numpy().T + shift[sample].numpy() + centre, -1, 0)

        def share(mask: np.ndarray, where: np.ndarray = where) -> np.ndarray:
            return ndimage.map_coordinates(np.pad(mask.astype(float), 1), where + 1, order=1, mode="constant")

        scores = np.stack([1 - share(label[sample] != 0), *(share(label[sample] == value) for value in (1, 2, 255))])
        outside = ((where < -0.5) | (where > np.array(shape).reshape(-1, *[1] * dims) - 0.5)).any(0)
        clear = (np.diff(np.sort(scores, axis=0)[-2:], axis=0)[0] > 1e-4) & ~outside
        assert clear.mean() > 0.9 - outside.mean()
        assert (moved[sample][outside] == spatial.OUTSIDE).all()
        assert 0 < outside.mean() < 1
        np.testing.assert_array_equal(moved[sample][clear], np.array([0, 1, 2, 255])[scores.argmax(0)][clear])


def test_labels_move_with_the_image() -> None:
    """A ball drawn by intensity alone stays that ball after rotation, zoom, shift and flip."""
    axes = torch.meshgrid(*[torch.arange(24.0)] * 3, indexing="ij")
    ball = sum((a - c) ** 2 for a, c in zip(axes, (9, 12, 14), strict=True)) < 36
    options = AugmentOptions(
        **{**NO_AUGMENTATION, "affine_p": 0.7, "elastic_p": 0.9}, flip_axes=(0, 1, 2), shift=0.1, stretch=0.2
    )
    batch = {"image": ball[None, None].float(), "label": ball[None].long(), "index": torch.tensor([0])}
    batch["spacing_mm"] = torch.ones(1, 3, dtype=torch.float64)
    for number in range(8):
        out = Augmentation(options, 0)({**batch, "index": torch.tensor([number])})
        inside, seen = out["label"][0] > 0, out["image"][0, 0] > 0.5
        dice = 2 * (inside & seen).sum() / (inside.sum() + seen.sum())
        assert dice > 0.999
        assert not torch.equal(inside, ball)


def test_elastic_of_equal_controls_is_a_shift_and_of_a_ramp_a_zoom() -> None:
    row = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    controls = torch.zeros(1, 2, 4, 4)
    controls[:, 1] = 1
    still = torch.eye(2)[None], torch.zeros(1, 2), (1, 5)
    image = row[None, None]
    assert spatial.resample_image(image, spatial.sampling_grid(*still, controls))[0, 0, 0].tolist() == [2, 3, 4, 5, 5]
    controls[:, 1] = torch.linspace(1, -1, 4)
    moved = spatial.resample_image(image, spatial.sampling_grid(*still, controls))
    torch.testing.assert_close(moved[0, 0, 0], torch.tensor([2.0, 2.5, 3.0, 3.5, 4.0]))


def test_flips_are_exact_and_only_along_the_axes_allowed() -> None:
    batch = _batch(3, list(range(40)))
    options = AugmentOptions(**NO_AUGMENTATION, flip_axes=(1,))
    out = Augmentation(options, 0)(batch)
    flipped = 0
    for before, after, label, moved in zip(batch["image"], out["image"], batch["label"], out["label"], strict=True):
        if torch.equal(before, after):
            assert torch.equal(label, moved)
        else:
            flipped += 1
            assert torch.equal(before.flip(2), after)
            assert torch.equal(label.flip(1), moved)
    assert 10 <= flipped <= 30


def test_blur_is_a_gaussian_that_keeps_constants() -> None:
    image = torch.zeros(2, 1, 15, 15)
    image[:, :, 7, 7] = 1
    smooth = intensity.blur(image, torch.tensor([1.0, 2.0]))
    line = torch.exp(-0.5 * (torch.arange(15.0) - 7) ** 2)
    line = line / line.sum()
    torch.testing.assert_close(smooth[0, 0], line[:, None] * line, rtol=1e-4, atol=1e-6)
    assert smooth[1, 0, 7, 7] < smooth[0, 0, 7, 7]
    torch.testing.assert_close(
        intensity.blur(torch.ones(1, 1, 4, 5, 6), torch.tensor([1.0])), torch.ones(1, 1, 4, 5, 6)
    )


def test_coarsen_by_two_is_averaging_and_interpolating() -> None:
    line = torch.tensor([0.0, 2, 4, 6, 8, 8]).view(1, 1, 6, 1)
    coarse = intensity.coarsen(line, torch.tensor([2.0])).flatten()
    # cells 1, 5, 8 lie at 0.5, 2.5, 4.5
    torch.testing.assert_close(coarse, torch.tensor([1.0, 2.0, 4.0, 5.75, 7.25, 8.0]))
    torch.testing.assert_close(intensity.coarsen(line, torch.tensor([1.0])), line)


def test_contrast_and_brightness_by_hand() -> None:
    image = torch.tensor([-1.0, 1.0, -3.0, 3.0]).view(1, 1, 2, 2)  # mean 0, deviation sqrt(5)
    halved = intensity.scale_contrast(image, torch.tensor([0.5]))
    assert halved.flatten().tolist() == [-0.5, 0.5, -1.5, 1.5]
    doubled = intensity.scale_contrast(image, torch.tensor([2.0]))
    assert doubled.flatten().tolist() == [-2.0, 2.0, -3.0, 3.0]
    brighter = intensity.add_brightness(image, torch.tensor([1.0]))
    torch.testing.assert_close(brighter, image + math.sqrt(5))


def test_gamma_bends_between_the_extremes_and_keeps_mean_and_deviation() -> None:
    image = torch.tensor([0.0, 1.0, 2.0, 4.0]).view(1, 1, 2, 2)
    bent = intensity.apply_gamma(image, torch.tensor([2.0]), torch.tensor([0]))
    torch.testing.assert_close(bent.mean(), image.mean())
    torch.testing.assert_close(bent.std(), image.std())
    unit = (bent - bent.min()) / (bent.max() - bent.min())
    torch.testing.assert_close(unit.flatten(), torch.tensor([0.0, 1 / 16, 1 / 4, 1.0]))
    inverted = intensity.apply_gamma(image, torch.tensor([2.0]), torch.tensor([1]))
    unit = (inverted - inverted.min()) / (inverted.max() - inverted.min())
    torch.testing.assert_close(unit.flatten(), torch.tensor([0.0, 7 / 16, 3 / 4, 1.0]))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_constant_image_stays_finite(dims: int) -> None:
    batch = {"image": torch.full((4, 1, *_SHAPES[dims]), 2.0), "index": torch.arange(4)}
    batch["spacing_mm"] = torch.ones(4, dims, dtype=torch.float64)
    out = Augmentation(_EVERYTHING, 0)(batch)["image"]
    torch.testing.assert_close(out, batch["image"])


def test_noise_has_the_deviation_asked_for() -> None:
    image = torch.randn((2, 1, 40, 40, 40), generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1.0, 10.0]
    ).view(2, 1, 1, 1, 1)
    noise = intensity.add_noise(image, torch.tensor([0.5, 0.5]), [1, 1]) - image
    torch.testing.assert_close(noise.std((1, 2, 3, 4)), torch.tensor([0.5, 5.0]), rtol=0.02, atol=0)
    torch.testing.assert_close(noise[1], noise[0] * 10, rtol=0.02, atol=0.02)


def test_bias_field_of_equal_controls_is_a_factor_above_the_lowest_value() -> None:
    image = torch.tensor([1.0, 2.0, 3.0, 5.0]).view(1, 1, 2, 2)
    field = torch.full((1, 3, 3), math.log(2.0))
    assert intensity.add_bias_field(image, field).flatten().tolist() == pytest.approx([1, 3, 5, 9])


def test_probabilities_and_ranges_are_those_asked_for() -> None:
    options = AugmentOptions(shift=0.25)
    v = draw(options, range(2000), 0, (10, 20, 40), torch.ones(2000, 3).double())
    for values, idle, share in (
        (v.noise, 0, options.noise_p),
        (v.blur, 0, options.blur_p),
        (v.brightness, 0, options.brightness_p),
        (v.contrast, 1, options.contrast_p),
        (v.coarse, 1, options.low_resolution_p),
        (v.gamma, 1, options.gamma_p),
    ):
        assert (values != idle).double().mean() == pytest.approx(share, abs=0.04)
    assert v.moved.double().mean() == pytest.approx(options.affine_p, abs=0.04)
    assert float(v.gamma.max()) <= 1.5
    assert float(v.gamma.min()) >= 1 / 1.5
    assert np.allclose(v.shift.abs().amax(0), (2.5, 5, 10), rtol=0.03)
    zoom = torch.linalg.det(v.matrix[v.moved]).pow(-1 / 3)
    assert float(zoom.max()) == pytest.approx(1.25, abs=0.01)
    assert float(zoom.min()) == pytest.approx(0.8, abs=0.01)
    assert not v.flips.any()
    assert float(v.bias.abs().max()) == 0
    assert float(v.elastic.abs().max()) == 0
    still = ~v.moved
    assert torch.equal(v.matrix[still], torch.eye(3).double().expand(int(still.sum()), 3, 3))


def test_elastic_and_stretch_have_their_own_ranges() -> None:
    bent = draw(
        AugmentOptions(affine_p=0, elastic_p=0.5, elastic_voxels=3), range(500), 0, (9, 9), torch.ones(500, 2).double()
    )
    assert bent.moved.double().mean() == pytest.approx(0.5, abs=0.06)
    assert torch.equal(bent.moved, bent.elastic.flatten(1).any(1))
    assert float(bent.elastic.abs().max()) == pytest.approx(3, abs=0.02)
    options = AugmentOptions(affine_p=1, rotation_deg=0, scale=0, stretch=0.5)
    zoom = 1 / torch.diagonal(
        draw(options, range(500), 0, (9, 9), torch.tensor([[1.0, 2.0]]).double()).matrix, dim1=1, dim2=2
    )
    assert float(zoom.max()) == pytest.approx(1.5, abs=0.02)
    assert float(zoom.min()) == pytest.approx(1 / 1.5, abs=0.02)
    assert float(torch.corrcoef(zoom.log().T)[0, 1].abs()) < 0.15


def test_a_variation_replays_and_is_frozen() -> None:
    v = draw(_EVERYTHING, [3, 4], 0, _SHAPES[3], torch.ones(2, 3).double())
    batch = _batch(3, [3, 4])
    first, second = (apply(v, batch["image"], batch["label"]) for _ in range(2))
    assert torch.equal(first[0], second[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        v.blur = torch.zeros(2)  # type: ignore[misc]


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        AugmentOptions(noise_p=1.5, scale=-1, flip_axes=(0, 0), low_resolution=0.5)
    assert len(caught.value.problems) == 4
    assert "augment.noise_p must lie in [0, 1], got 1.5" in caught.value.problems
