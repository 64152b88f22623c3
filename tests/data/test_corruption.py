"""Corrupted images: how much is covered, by what, and that the rest is left alone."""

import pytest
import torch
from torch import Tensor

from medssl.data.corruption import LONGEST, Corruption, corrupt, draw_corruption
from medssl.data.spatial import quarter_turned
from medssl.imaging.errors import ConfigError


def _draw(shape: tuple[int, ...], batch: int = 8, alien: float = 0.3, align: int = 1, seed: int = 0) -> Corruption:
    return draw_corruption(shape, batch, (0.5, alien), align, torch.Generator().manual_seed(seed))


def _images(shape: tuple[int, ...], batch: int = 8, channels: int = 2) -> Tensor:
    return 5 + torch.randn(batch, channels, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(40, 30), (24, 20, 16)])
def test_at_least_the_share_is_covered_and_not_much_more(shape: tuple[int, ...]) -> None:
    drawn = _draw(shape)
    covered = drawn.mask.flatten(1).double().mean(1)
    foreign = drawn.donor != torch.arange(8)
    wanted = torch.where(foreign, 0.3, 0.5).double() - 1e-6  # 0.3 is no float32
    assert drawn.mask.shape == (8, 1, *shape)
    assert foreign.any()
    assert not foreign.all()
    assert (covered >= wanted).all()
    assert (covered <= wanted + LONGEST ** len(shape)).all()  # the last box is the only surplus


def test_boxes_are_no_longer_than_said_and_aligned() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = draw_corruption((40, 60), 1, (0.001, 0.0), 1, generator).mask[0, 0]  # a single box
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    assert len(rows) <= 12
    assert len(columns) <= 18
    assert int(mask.sum()) == len(rows) * len(columns)
    cells = _draw((40, 60), align=4).mask.view(8, 10, 4, 15, 4)
    assert torch.equal(cells.any(4).any(2), cells.all(4).all(2))
    with pytest.raises(ConfigError, match="do not divide into cells of 7"):
        _draw((40, 60), align=7)


@pytest.mark.parametrize("content", ["noise", "zeros", "region"])
@pytest.mark.parametrize("shape", [(16, 20), (10, 12, 8)])
def test_what_is_not_masked_stays_and_what_is_comes_from_where_it_should(content, shape: tuple[int, ...]) -> None:
    drawn, image = _draw(shape, seed=2), _images(shape)
    spoilt = corrupt(image, drawn, content)
    masks = drawn.mask.expand_as(image)
    assert torch.equal(spoilt[~masks], image[~masks])
    for number, donor in enumerate(drawn.donor.tolist()):
        found, own = spoilt[number][masks[number]], image[number][masks[number]]
        if donor != number:
            assert torch.equal(found, image[donor][masks[number]])
        elif content == "zeros":
            assert not found.any()
        elif content == "region":
            rolled = image[number].roll(tuple(drawn.shift[number].tolist()), tuple(range(1, len(shape) + 1)))
            assert torch.equal(found, rolled[masks[number]])
        else:
            assert float(found.mean()) == pytest.approx(5, abs=0.25)
            assert float(found.std()) == pytest.approx(1, abs=0.25)
            assert not torch.isclose(found, own).all()
    assert torch.equal(corrupt(image, drawn, content), spoilt)


def test_each_image_is_corrupted_by_another_of_the_batch_or_by_itself() -> None:
    donors = torch.stack([_draw((8, 8), batch=3, seed=seed).donor for seed in range(60)])
    for number in range(3):
        assert set(donors[:, number].tolist()) == {0, 1, 2}
    assert float((donors != torch.arange(3)).double().mean()) == pytest.approx(0.5, abs=0.12)
    assert torch.equal(_draw((8, 8), alien=0.0).donor, torch.arange(8))
    assert all(_draw((8, 8), batch=1, seed=seed).donor.item() == 0 for seed in range(9))


def test_draws_repeat_themselves() -> None:
    first, again, other = _draw((12, 12)), _draw((12, 12)), _draw((12, 12), seed=1)
    for name in ("mask", "donor", "shift", "seeds"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.mask, other.mask)


def test_quarter_turns() -> None:
    image = torch.tensor([[1.0, 2], [3, 4]]).expand(3, 1, 2, 2)
    turned = quarter_turned(image, torch.tensor([0, 1, 2]), (1, 2))
    assert turned[:, 0].tolist() == [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]]]
    volume = torch.randn(1, 1, 4, 4, 3)
    torch.testing.assert_close(
        quarter_turned(volume, torch.tensor([1]), (1, 2))[..., 2], volume[..., 2].rot90(1, (2, 3))
    )
