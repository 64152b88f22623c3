"""Coefficient maps against boxes pasted one by one, and fused images between their sources."""

import pytest
import torch

from medssl.data.fusion import DrawnClasses, FusionOptions, class_map, draw_classes, fuse

_CPU = torch.device("cpu")
_OPTIONS = FusionOptions(levels=4, boxes=(10, 39), sides=(0.0625, 0.625))


@pytest.mark.parametrize("shape", [(16, 24), (8, 10, 12)])
def test_maps_equal_boxes_pasted_in_order(shape: tuple[int, ...]) -> None:
    drawn = draw_classes(_OPTIONS, 3, shape, torch.Generator().manual_seed(0))
    found = class_map(drawn, shape, _CPU)
    for sample in range(3):
        expected = torch.zeros(shape, dtype=torch.long)
        for start, size, value in zip(drawn.start[sample], drawn.size[sample], drawn.classes[sample], strict=True):
            expected[tuple(slice(int(b), int(b + s)) for b, s in zip(start, size, strict=True))] = value
        assert torch.equal(found[sample], expected)
    assert set(found.unique().tolist()) == set(range(5))


def test_the_number_of_boxes_and_their_sides_are_as_asked_for() -> None:
    drawn = draw_classes(_OPTIONS, 300, (128, 64), torch.Generator().manual_seed(1))
    counts = (drawn.size > 0).all(-1).sum(1)
    assert (counts.min(), counts.max()) == (10, 39)
    there = drawn.size[(drawn.size > 0).all(-1)]
    assert there.amin(0).tolist() == [8, 4]
    assert there.amax(0).tolist() == [80, 40]
    assert torch.bincount(drawn.classes.flatten()).shape == (5,)


def test_a_map_without_boxes_is_background_and_later_boxes_lie_on_top() -> None:
    start, size = torch.tensor([[[0, 0], [1, 1]]]), torch.tensor([[[3, 3], [3, 2]]])
    drawn = DrawnClasses(start, size, torch.tensor([[2, 4]]))
    drawn_map = [[2, 2, 2, 0], [2, 4, 4, 0], [2, 4, 4, 0], [0, 4, 4, 0]]
    assert class_map(drawn, (4, 4), _CPU).tolist() == [drawn_map]
    empty = DrawnClasses(start, size * 0, torch.tensor([[2, 4]]))
    assert not class_map(empty, (4, 4), _CPU).any()


@pytest.mark.parametrize("dims", [2, 3])
def test_fused_voxels_lie_between_their_sources(dims: int) -> None:
    generator = torch.Generator().manual_seed(2)
    front, back = torch.randn(2, 3, 2, *[6] * dims, generator=generator)
    classes = torch.randint(0, 5, (3, *[6] * dims), generator=generator)
    fused = fuse(front, back, classes, 4)
    share = (classes.double() / 4)[:, None]
    torch.testing.assert_close(fused.double(), share * front + (1 - share) * back)
    for value, source in ((0, back), (4, front)):
        where = (classes == value)[:, None].expand_as(fused)
        assert torch.equal(fused[where], source[where])
