"""Residual U-Net encoder: shapes, anisotropic strides, and a network that cannot see what is hidden."""

import pytest
import torch
from torch import Tensor

from medssl.imaging.errors import ConfigError
from medssl.models.masked import HiddenBlocks
from medssl.models.unet import ResidualUNetEncoder

_NORMS = ("instance", "batch", "group")


def _encoder(dims: int, channels: int = 1, **extra) -> ResidualUNetEncoder:
    torch.manual_seed(0)
    return ResidualUNetEncoder(dims, channels, **{"features": (4, 8, 16), "blocks": (1, 1, 2), **extra})


def _hidden(dims: int, block: int = 4, side: int = 16) -> HiddenBlocks:
    cells = torch.rand(2, *[side // block] * dims, generator=torch.Generator().manual_seed(5)) < 0.6
    return HiddenBlocks(cells, [block] * dims)


def _voxels(blocks: HiddenBlocks) -> Tensor:
    visible = blocks.visible([1] * len(blocks.block))
    assert visible is not None
    return visible


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_shapes(dims: int, channels: int):
    model, image = _encoder(dims, channels), torch.randn(2, channels, *(16, 8, 12)[:dims])
    maps = model(image)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (width, *(n // s for n in image.shape[2:])) for width, s in zip((4, 8, 16), (1, 2, 4), strict=True)
    ]
    assert model.strides == ((1,) * dims, (2,) * dims, (4,) * dims)
    assert model.embed(image).shape == (2, 16)


def test_strides_of_each_axis():
    model = _encoder(3, strides=[1, (2, 2, 1), 2])
    assert model.strides == ((1, 1, 1), (2, 2, 1), (4, 4, 2))
    assert [tuple(m.shape[2:]) for m in model(torch.randn(1, 1, 8, 8, 4))] == [(8, 8, 4), (4, 4, 4), (2, 2, 2)]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", _NORMS)
def test_hidden_voxels_have_no_gradient_and_do_not_matter(norm: str, dims: int):
    model, blocks = _encoder(dims, norm=norm), _hidden(dims)
    image = torch.randn(2, 1, *[16] * dims, requires_grad=True)
    maps = model(image, blocks)
    visible = _voxels(blocks)
    for out in maps:
        (gradient,) = torch.autograd.grad(out.square().sum(), image, retain_graph=True)
        assert (gradient[visible == 0] == 0).all()
        assert (gradient[visible == 1] != 0).any()
    other = image.detach() + 1e3 * (1 - visible)
    for out, again in zip(maps, model(other, blocks), strict=True):
        assert torch.equal(out, again)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", _NORMS)
def test_hidden_positions_of_every_map_are_zero(norm: str, dims: int):
    model, blocks = _encoder(dims, norm=norm), _hidden(dims)
    for parameter in model.parameters():
        parameter.data += 0.1  # biases that would show
    for out, stride in zip(model(torch.randn(2, 1, *[16] * dims), blocks), model.strides, strict=True):
        mask = blocks.visible(stride)
        assert mask is not None
        assert (out * (1 - mask) == 0).all()
        assert (out * mask != 0).any()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", _NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_nothing_hidden_is_the_dense_network(norm: str, dims: int, training: bool):
    model = _encoder(dims, 2, norm=norm).train(training)
    image = torch.randn(2, 2, *[16] * dims)
    blocks = HiddenBlocks(torch.zeros(2, *[4] * dims, dtype=torch.bool), [4] * dims)
    for out, dense in zip(model(image, blocks), model(image), strict=True):
        torch.testing.assert_close(out, dense, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_levels_coarser_than_a_block_are_dense(dims: int):
    model, blocks = _encoder(dims), _hidden(dims, block=2)
    fine, _, coarse = model(torch.randn(2, 1, *[16] * dims), blocks)
    assert blocks.visible(model.strides[1]) is not None
    assert blocks.visible(model.strides[2]) is None
    assert (fine * (1 - _voxels(blocks)) == 0).all()
    assert (coarse != 0).float().mean() > 0.99


def test_one_feature_voxel_sees_only_its_receptive_field_within_the_mask():
    """A visible block must not see the next visible block through the hidden one between them."""
    model = _encoder(2, features=(4, 8), blocks=(2, 1))
    cells = torch.tensor([[[False, True, False]]])
    blocks = HiddenBlocks(cells, (8, 8))
    image = torch.randn(1, 1, 8, 24, requires_grad=True)
    norms = [model.stem.norm] + [norm for block in model.stages[0] for norm in (block.first.norm, block.norm)]
    for norm in norms:  # their statistics reach everywhere
        norm.forward = lambda x, visible: x * visible
    (gradient,) = torch.autograd.grad(model(image, blocks)[0][..., :8].square().sum(), image)
    assert (gradient[..., :8] != 0).any()
    assert (gradient[..., 8:] == 0).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_pooled_shortcuts_project_only_where_the_channels_change(dims: int):
    """As in nnU-Net, whose last levels are equally wide: there a step is the mean alone, without weights."""
    model = _encoder(dims, features=(4, 8, 8), blocks=(1, 1, 1), shortcut="pooled")
    assert {n.split(".shortcut.")[0] for n in model.state_dict() if ".shortcut." in n} == {"stages.1.0"}
    block, image = model.stages[2][0], torch.randn(2, 8, *[8] * dims)
    torch.nn.init.zeros_(block.norm.weight)  # the shortcut alone is left
    means = image
    for axis in range(2, dims + 2):
        means = means.unflatten(axis, (4, 2)).mean(axis + 1)
    torch.testing.assert_close(block(image), torch.where(means > 0, means, 0.01 * means))


@pytest.mark.parametrize("dims", [2, 3])
def test_pooled_shortcuts_do_not_see_what_is_hidden(dims: int):
    model, blocks = _encoder(dims, features=(4, 8, 8), shortcut="pooled"), _hidden(dims)
    for parameter in model.parameters():
        parameter.data += 0.1  # biases that would show
    image, visible = torch.randn(2, 1, *[16] * dims), _voxels(blocks)
    again = model(image + 1e3 * (1 - visible), blocks)
    for out, other, stride in zip(model(image, blocks), again, model.strides, strict=True):
        mask = blocks.visible(stride)
        assert mask is not None
        assert torch.equal(out, other)
        assert (out * (1 - mask) == 0).all()
        assert (out * mask != 0).any()


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({"blocks": (1, 1)}, "length"),
        ({"blocks": (1, 0, 1)}, "blocks"),
        ({"strides": [2, 2, 2]}, "strides"),
        ({"strides": [1, (2, 2), 2]}, "strides"),
        ({"norm": "layer"}, "norm"),
    ],
)
def test_what_does_not_fit_is_refused(extra: dict, word: str):
    with pytest.raises(ConfigError, match=word):
        _encoder(3, **extra)


def test_layer_depths_name_every_parameter():
    model = _encoder(2)
    names = model.layer_depths()
    assert all(any(p == n or p.startswith(n + ".") for n in names) for p, _ in model.named_parameters())
