"""What is done to images for Models Genesis: windows, curves, painting, and that everything replays."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.data.intensity import bend
from medssl.data.masking import step_generator
from medssl.data.spoiling import Corruption, CorruptionOptions, draw_corruption, shuffle, spoil

_SHAPES = [(24, 30), (14, 20, 12)]
_NOTHING = CorruptionOptions(shuffle_p=0, windows=50, bend_p=0, paint_p=0, outside=0.8)


def _image(shape: tuple[int, ...], batch: int = 3, channels: int = 2) -> Tensor:
    return torch.randn(batch, channels, *shape, generator=torch.Generator().manual_seed(1))


def _draw(shape: tuple[int, ...], batch: int = 3, **given: float) -> Corruption:
    return draw_corruption(replace(_NOTHING, **given), batch, shape, step_generator(0, 3))


def _blocks(drawn: Corruption, sample: int, shape: tuple[int, ...]) -> Tensor:
    found = torch.zeros(shape, dtype=torch.bool)
    for start, size in zip(drawn.block_start[sample], drawn.block_size[sample], strict=True):
        found[tuple(slice(int(b), int(b + s)) for b, s in zip(start, size, strict=True))] = True
    return found


@pytest.mark.parametrize("shape", _SHAPES)
def test_one_window_is_permuted_and_nothing_else_changes(shape: tuple[int, ...]) -> None:
    dims, image = len(shape), _image(shape)
    start, size = torch.tensor([[[2, 3, 1][:dims]]] * 3), torch.tensor([[[4, 5, 6][:dims]]] * 3)
    moved = shuffle(image, start, size, torch.Generator().manual_seed(0))
    assert moved.shape == image.shape
    box = (slice(None), slice(None), slice(2, 6), slice(3, 8), slice(1, 7))[: 2 + dims]
    before, after = image[box].flatten(2), moved[box].flatten(2)
    assert torch.equal(before.sort(2).values, after.sort(2).values)
    assert not torch.equal(before, after)
    order = [before[0, 0].tolist().index(value) for value in after[0, 0].tolist()]
    assert torch.equal(after[0, 1], before[0, 1, order]), "channels stay together"
    assert [before[1, 0].tolist().index(value) for value in after[1, 0].tolist()] != order, "samples differ"
    moved[box] = image[box]
    assert torch.equal(moved, image)


@pytest.mark.parametrize("shape", _SHAPES)
def test_each_voxel_comes_from_the_last_window_over_it_and_from_the_original(shape: tuple[int, ...]) -> None:
    image = torch.arange(2 * int(np.prod(shape)), dtype=torch.float32).view(2, 1, *shape)
    drawn = _draw(shape, 2)
    moved = shuffle(image, drawn.window_start, drawn.window_size, torch.Generator().manual_seed(0))
    for sample in range(2):
        last = np.full(shape, -1)
        boxes = [
            tuple(slice(int(b), int(b + s)) for b, s in zip(start, size, strict=True))
            for start, size in zip(drawn.window_start[sample], drawn.window_size[sample], strict=True)
        ]
        for number, box in enumerate(boxes):
            last[box] = number
        for number, box in enumerate(boxes):
            origins = set(image[sample, 0][box].flatten().tolist())
            seen = moved[sample, 0].numpy()[last == number].tolist()
            assert set(seen) <= origins
            assert len(set(seen)) == len(seen), "a permutation takes each voxel once"
        untouched = last == -1
        assert np.array_equal(moved[sample, 0].numpy()[untouched], image[sample, 0].numpy()[untouched])


def test_windows_are_up_to_a_tenth_of_the_side_and_two_voxels_at_least() -> None:
    drawn = draw_corruption(replace(_NOTHING, windows=3000), 1, (64, 12), step_generator(0, 0))
    assert drawn.window_size.amin((0, 1)).tolist() == [1, 1]
    assert drawn.window_size.amax((0, 1)).tolist() == [6, 2]


@pytest.mark.parametrize("inverted", [False, True])
def test_curves_are_monotone_and_keep_the_range(inverted: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    curve = torch.cat([torch.rand(40, 2, 2, generator=generator), torch.tensor([[[1.0, 0.0], [0.5, 0.2]]])])
    ramp = torch.linspace(-3, 5, 81).expand(41, 1, 81)[..., None]
    bent = bend(ramp, curve, torch.full((41,), inverted))[:, 0, :, 0]
    steps = bent.diff(dim=1)
    assert (steps <= 1e-5).all() if inverted else (steps >= -1e-5).all()
    ends = (5.0, -3.0) if inverted else (-3.0, 5.0)
    torch.testing.assert_close(bent[:, 0], torch.full((41,), ends[0]))
    torch.testing.assert_close(bent[:, -1], torch.full((41,), ends[1]))


@pytest.mark.parametrize("inverted", [False, True])
def test_a_curve_equals_the_solved_polynomial(inverted: bool) -> None:
    control = np.array([[0.2, 0.7], [0.9, 0.3]])
    values = np.linspace(0, 1, 33)
    expected = []
    for value in values:
        roots = np.roots([1 + 3 * control[0, 0] - 3 * control[0, 1], 3 * control[0, 1] - 6 * control[0, 0],
                          3 * control[0, 0], -value])  # fmt: skip
        t = next(r.real for r in roots if abs(r.imag) < 1e-9 and -1e-9 <= r.real <= 1 + 1e-9)
        t = 1 - t if inverted else t
        expected.append(3 * (1 - t) ** 2 * t * control[1, 0] + 3 * (1 - t) * t**2 * control[1, 1] + t**3)
    image = torch.tensor(values, dtype=torch.float32).view(1, 1, 3, 11)
    bent = bend(image, torch.tensor(control[None], dtype=torch.float32), torch.tensor([inverted]))
    torch.testing.assert_close(bent.flatten(), torch.tensor(expected, dtype=torch.float32), atol=2e-5, rtol=0)


def test_the_line_changes_nothing_and_constant_channels_stay() -> None:
    line = torch.tensor([[[1 / 3, 2 / 3], [1 / 3, 2 / 3]]])
    image = _image((8, 8), 1)
    image[:, 1] = 4.0
    torch.testing.assert_close(bend(image, line, torch.tensor([False])), image)
    assert torch.isfinite(bend(image, line, torch.tensor([True]))).all()


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("outside", [0.0, 1.0])
def test_painting_changes_the_blocks_or_all_else_never_both(outside: float, shape: tuple[int, ...]) -> None:
    image, drawn = _image(shape), _draw(shape, paint_p=1, outside=outside)
    spoilt = spoil(drawn, image)
    for sample in range(3):
        blocks = _blocks(drawn, sample, shape)
        changed = (spoilt[sample] != image[sample]).all(0)
        same = (spoilt[sample] == image[sample]).all(0)
        assert torch.equal(changed, ~blocks if outside else blocks)
        assert torch.equal(same, ~changed)
    low, high = image.flatten(2).amin(2), image.flatten(2).amax(2)
    assert (spoilt.flatten(2).amin(2) >= low).all()
    assert (spoilt.flatten(2).amax(2) <= high).all()


def test_blocks_have_the_sides_of_the_paper() -> None:
    for outside, sides in ((0.0, (10, 21)), (1.0, (27, 36))):  # 1/6 to 1/3, and 3/7 to 4/7, of 64
        drawn = draw_corruption(replace(_NOTHING, outside=outside), 500, (64, 64), step_generator(0, 1))
        there = drawn.block_size[drawn.block_size > 0]
        assert (there.min(), there.max()) == sides
        counts = (drawn.block_size[..., 0] > 0).sum(1)
        assert (counts.min(), counts.max()) == (1, 5)
        assert (counts == 5).float().mean().item() == pytest.approx(0.95**4, abs=0.06)


def test_shares_are_as_asked_for() -> None:
    options = CorruptionOptions(shuffle_p=0.5, windows=1, bend_p=0.9, paint_p=0.9, outside=0.8)
    drawn = draw_corruption(options, 4000, (8, 8), step_generator(0, 2))
    wanted = {"shuffled": 0.5, "bent": 0.9, "painted": 0.9, "outside": 0.8, "inverted": 0.5}
    for name, share in wanted.items():
        assert getattr(drawn, name).float().mean().item() == pytest.approx(share, abs=0.03), name


@pytest.mark.parametrize("shape", _SHAPES)
def test_a_drawn_corruption_replays_and_samples_that_drew_nothing_stay(shape: tuple[int, ...]) -> None:
    image, given = _image(shape), {"shuffle_p": 0.5, "bend_p": 0.5, "paint_p": 0.5}
    drawn = _draw(shape, **given)
    torch.manual_seed(9)
    first = spoil(drawn, image)
    torch.manual_seed(10)
    assert torch.equal(spoil(_draw(shape, **given), image), first)
    assert torch.equal(image, _image(shape)), "the input is not written to"
    other = draw_corruption(replace(_NOTHING, **given), 3, shape, step_generator(0, 4))
    assert not torch.equal(spoil(other, image), first)
    assert torch.equal(spoil(_draw(shape), image), image)


def test_curves_are_the_same_under_autocast() -> None:
    image, drawn = _image((16, 16)), _draw((16, 16), bend_p=1)
    with torch.autocast("cpu", torch.bfloat16):
        low = spoil(drawn, image)
    assert torch.equal(low, spoil(drawn, image))


def test_no_windows_are_no_shuffling() -> None:
    image, drawn = _image((8, 8)), _draw((8, 8), shuffle_p=1, windows=0)
    assert torch.equal(spoil(drawn, image), image)
