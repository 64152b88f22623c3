"""Masked statistics: by hand over visible voxels, for each norm; dense where nothing is hidden."""

import pytest
import torch
from torch import Tensor, nn

from medssl.imaging.errors import ConfigError
from medssl.models.masked import Densify, HiddenBlocks, Norm

_KINDS = ("instance", "batch", "group")
_CHANNELS = 16


def _norm(kind: str) -> Norm:
    torch.manual_seed(1)
    norm = Norm(_CHANNELS, kind)  # type: ignore[arg-type]
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    return norm


def _draw(dims: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = 3 + 2 * torch.randn(3, _CHANNELS, *(4, 5, 6)[:dims], generator=generator)
    return image, (torch.rand(3, 1, *image.shape[2:], generator=generator) < 0.4).float()


def _by_hand(norm: Norm, image: Tensor, visible: Tensor) -> Tensor:
    """One mean and variance at a time, from the list of active values."""
    out = torch.zeros_like(image)
    active = visible[:, 0].bool()
    width = _CHANNELS // norm.groups
    for channel in range(_CHANNELS):
        for sample in range(len(image)):
            if norm.kind == "instance":
                values = image[sample, channel][active[sample]]
            elif norm.kind == "batch":
                values = image[:, channel][active]
            else:
                first = channel // width * width
                values = image[sample, first : first + width][:, active[sample]]
            mean, deviation = values.mean(), (values.var(unbiased=False) + norm.eps).sqrt()
            scaled = (image[sample, channel] - mean) / deviation * norm.weight[channel] + norm.bias[channel]
            out[sample, channel] = torch.where(active[sample], scaled, 0.0)
    return out


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", _KINDS)
def test_statistics_are_those_of_the_visible_voxels(kind: str, dims: int):
    norm, (image, visible) = _norm(kind), _draw(dims)
    torch.testing.assert_close(norm(image, visible), _by_hand(norm, image, visible), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", _KINDS)
def test_what_is_hidden_does_not_matter(kind: str):
    norm, (image, visible) = _norm(kind), _draw(3)
    assert torch.equal(norm(image, visible), norm(image * visible + 1e3 * (1 - visible), visible))


@pytest.mark.parametrize("kind", _KINDS)
def test_number_of_hidden_positions_does_not_matter(kind: str):
    """The same active values among more hidden ones give the same output."""
    norm, (image, visible) = _norm(kind), _draw(2)
    wider, mask = (
        torch.cat([image, torch.randn(3, _CHANNELS, 9, 5)], 2),
        torch.cat([visible, torch.zeros(3, 1, 9, 5)], 2),
    )
    torch.testing.assert_close(norm(wider, mask)[:, :, :4], norm(image, visible), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", _KINDS)
def test_dense_where_nothing_is_hidden(kind: str, dims: int, training: bool):
    norm, (image, visible) = _norm(kind).train(training), _draw(dims)
    if kind == "batch":
        norm.running_mean.normal_()
    torch.testing.assert_close(norm(image, torch.ones_like(visible)), norm(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_dense_norm_is_that_of_torch(dims: int):
    image, _ = _draw(dims)
    peers = {
        "instance": (nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 2](_CHANNELS, affine=True),
        "batch": (nn.BatchNorm2d, nn.BatchNorm3d)[dims - 2](_CHANNELS),
        "group": nn.GroupNorm(8, _CHANNELS),
    }
    for kind, peer in peers.items():
        norm = _norm(kind)
        peer.weight.data, peer.bias.data = norm.weight.data, norm.bias.data
        torch.testing.assert_close(norm(image), peer(image))
        if kind == "batch":
            torch.testing.assert_close(norm.running_var, peer.running_var)


def test_running_statistics_by_hand():
    norm, (image, visible) = _norm("batch"), _draw(2)
    norm(image, visible)
    active = image.movedim(1, -1)[visible[:, 0].bool()]  # (n, C)
    torch.testing.assert_close(norm.running_mean, 0.1 * active.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * active.var(0))
    before = norm.running_mean.clone()
    norm.eval()
    out = norm(image, visible)
    assert torch.equal(norm.running_mean, before), "evaluation must not learn"
    centred = (image - norm.running_mean.view(1, -1, 1, 1)) / (norm.running_var + norm.eps).sqrt().view(1, -1, 1, 1)
    expected = (centred * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)) * visible
    torch.testing.assert_close(out, expected)


def test_sample_without_a_visible_voxel_is_zero_and_finite():
    norm, (image, visible) = _norm("instance"), _draw(2)
    visible[1] = 0
    out = norm(image.requires_grad_(), visible)
    out.square().sum().backward()
    assert (out[1] == 0).all()
    assert torch.isfinite(image.grad).all()


def test_bf16_features_far_from_zero_keep_their_variance():
    norm = Norm(1)
    image = (100 + torch.arange(64.0).reshape(1, 1, 8, 8)).bfloat16()
    out = norm(image, torch.ones(1, 1, 8, 8)).float()
    assert out.std(unbiased=False).item() == pytest.approx(1, abs=0.02)
    assert out.mean().item() == pytest.approx(0, abs=0.02)


def test_blocks_at_each_stride():
    hidden = torch.tensor([[[True, False], [False, True]]])
    blocks = HiddenBlocks(hidden, (4, 2))
    full = blocks.visible((1, 1))
    assert full.shape == (1, 1, 8, 4)
    assert full[0, 0].tolist() == [[0, 0, 1, 1]] * 4 + [[1, 1, 0, 0]] * 4
    assert blocks.visible((4, 2))[0, 0].tolist() == [[0, 1], [1, 0]]
    assert blocks.visible((2, 1)).shape == (1, 1, 4, 4)
    assert blocks.visible((4, 4)) is None, "a level coarser than the blocks is dense"


def test_unknown_norm_is_refused():
    with pytest.raises(ConfigError, match="norm"):
        Norm(4, "layer")  # type: ignore[arg-type]


def test_densify_fills_hidden_positions_alone():
    fill = Densify((4, 8), (True, False))
    pyramid = [torch.randn(2, 4, 4, 4), torch.randn(2, 8, 2, 2)]
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, :2] = 1
    fine, coarse = fill([pyramid[0] * mask, pyramid[1]], [mask, None])
    assert torch.equal(fine[:, :, :2], pyramid[0][:, :, :2])
    assert torch.equal(fine[:, :, 2:], fill.fills["0"].detach().view(1, 4, 1, 1).expand(2, 4, 2, 4))
    assert torch.equal(coarse, pyramid[1])
    assert list(fill.fills) == ["0"]
    assert 0 < fill.fills["0"].abs().max() <= 0.02
