"""Boxes replaced by noise and by another crop, and quarter turns."""

import pytest
import torch

from medssl.data.cutouts import Cutouts, cut_out, draw_cutouts
from medssl.data.masking import step_generator
from medssl.data.spatial import quarter_turned


@pytest.mark.parametrize("shape", [(20, 24), (12, 16, 20)])
def test_shares_are_spread_up_to_the_most(shape: tuple[int, ...]):
    drawn = draw_cutouts(shape, 400, 0.3, (0.05, 0.25), step_generator(0, 1))
    assert drawn.noise.shape == (400, 1, *shape)
    shares = drawn.noise.float().flatten(1).mean(1)
    largest = 1.0
    for n in shape:
        largest *= int(n * 0.25) / n
    assert 0.29 < shares.max() <= 0.3 + largest
    assert shares.min() < 0.02 + largest
    assert shares.mean().item() == pytest.approx(0.15, abs=0.03)
    own = drawn.donor == torch.arange(400)
    assert own.any()
    assert (drawn.pasted.flatten(1).any(1) == ~own).all(), "a crop is not pasted on itself"


def test_boxes_lie_between_the_shortest_and_the_longest_side():
    drawn = draw_cutouts((40, 40), 200, 1e-6, (0.1, 0.2), step_generator(3, 0))
    for mask in drawn.noise[:, 0]:  # so small a share is one box
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        sides = [len(rows), len(columns)]
        assert mask.sum() == sides[0] * sides[1]
        assert min(sides) >= 4
        assert max(sides) <= 8
    corners = torch.stack([mask.nonzero()[0] for mask in drawn.noise[:, 0]])
    assert corners.min() == 0
    assert corners.max() > 30


def test_drawn_by_hand():
    image = torch.arange(12.0).view(3, 1, 4)
    noise = torch.tensor([[[True, True, False, False]], [[False] * 4], [[True] * 4]])
    pasted = torch.tensor([[[False, True, False, True]], [[False] * 4], [[False] * 4]])
    out = cut_out(image, Cutouts(noise, pasted, torch.tensor([2, 1, 2]), 5))
    assert out[0, 0, 1:].tolist() == [9, 2, 11], "pasted over noise, from the clean crop"
    assert out[1].tolist() == image[1].tolist()
    assert (out[2].min(), out[2].max()) == (8, 11), "noise has the range of the crop"
    assert 0 <= out[0, 0, 0] <= 3
    assert torch.equal(out, cut_out(image, Cutouts(noise, pasted, torch.tensor([2, 1, 2]), 5)))
    assert not torch.equal(out, cut_out(image, Cutouts(noise, pasted, torch.tensor([2, 1, 2]), 6)))


def test_noise_is_that_of_each_channel():
    image = torch.stack([torch.linspace(0, 1, 400), torch.linspace(50, 90, 400)]).view(1, 2, 20, 20)
    everything = torch.ones(1, 1, 20, 20, dtype=torch.bool)
    out = cut_out(image, Cutouts(everything, ~everything, torch.zeros(1, dtype=torch.long), 0))
    assert out[:, 0].max() <= 1.0001
    assert out[:, 1].min() >= 49.999
    assert out.flatten(2).std(-1)[0, 1] > 3


@pytest.mark.parametrize("dims", [2, 3])
def test_quarter_turns_are_undone_by_the_rest_of_a_turn(dims: int):
    image, turns = torch.randn(4, 2, *(3, 5, 5)[3 - dims :]), torch.tensor([0, 1, 2, 3])
    turned = quarter_turned(image, turns, (-2, -1))
    assert torch.equal(turned[0], image[0])
    assert torch.equal(turned[2], image[2].flip(-1, -2))
    assert torch.equal(turned[1], image[1].transpose(-1, -2).flip(-2))
    assert torch.equal(quarter_turned(turned, (4 - turns) % 4, (-2, -1)), image)
