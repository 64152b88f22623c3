"""One transformer, two embeddings: shared weights, plain encoders, copies."""

import copy

import pytest
import torch

from medssl.imaging.errors import ConfigError
from medssl.models.networks import Network, build_encoder
from medssl.models.unified_vit import UnifiedViT
from medssl.models.vit import ViT
from medssl.training.optimizers import parameter_groups


def _unified(**extra) -> UnifiedViT:
    torch.manual_seed(0)
    return UnifiedViT(
        2, **{"patch_size_2d": 4, "patch_size_3d": [4, 4, 2], "width": 24, "depth": 2, "heads": 2, **extra}
    )


def _image(dims: int) -> torch.Tensor:
    return torch.randn(2, 2, *[8] * dims, generator=torch.Generator().manual_seed(dims))


def test_every_weight_has_one_name() -> None:
    encoder = _unified()
    names = {name.split(".")[0] for name in encoder.state_dict()}
    assert names == {"patch_embeds", "tokens", "blocks", "norm"}
    storages = [tensor.data_ptr() for tensor in encoder.state_dict().values()]
    assert len(storages) == len(set(storages))


@pytest.mark.parametrize("attention", ["plain", "rope_sigma"])
@pytest.mark.parametrize("dims", [2, 3])
def test_plain_encoders_are_built_from_their_description_and_load_strictly(dims: int, attention: str) -> None:
    encoder = _unified(attention=attention, registers=1).eval()
    described = encoder.description(dims)
    given = {k: v for k, v in described.init_args.items() if k not in ("spatial_dims", "in_channels")}
    plain = build_encoder(type(described)(described.class_path, given), dims, 2, trusted_only=True).eval()
    assert type(plain) is ViT
    plain.load_state_dict(encoder.plain(dims).state_dict(), strict=True)
    torch.testing.assert_close(plain.embed(_image(dims)), encoder.embed(_image(dims)))
    torch.testing.assert_close(plain(_image(dims)), encoder(_image(dims)))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_other_embedding_gets_no_gradient_and_all_else_does(dims: int) -> None:
    encoder = _unified()
    encoder.embed(_image(dims)).square().sum().backward()
    other = f"patch_embeds.{5 - dims}d."
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is None) == name.startswith(other), name


def test_copies_and_loaded_weights_stay_in_common() -> None:
    encoder = _unified()
    twin = copy.deepcopy(encoder)
    for parameter in twin.parameters():
        parameter.data.add_(0.1)
    for dims in (2, 3):
        assert not torch.equal(twin.embed(_image(dims)), encoder.embed(_image(dims)))
    assert twin.plain(2).blocks is twin.plain(3).blocks is twin.blocks
    assert twin.plain(3).patch_embed is twin.patch_embeds["3d"]
    encoder.load_state_dict(twin.state_dict())
    for dims in (2, 3):
        assert torch.equal(twin.embed(_image(dims)), encoder.embed(_image(dims)))
    moved = encoder.double()
    assert moved.embed(_image(3).double()).dtype == torch.float64


def test_embeddings_of_both_dimensions_learn_most_slowly() -> None:
    network = Network(_unified(), torch.nn.Identity())
    rates = {n: g.scale for g in parameter_groups(network, 0.5) for n in g.names}
    parts = [f"encoder.{name}" for name in ("patch_embeds", "tokens", "blocks.0", "blocks.1", "norm")]
    found = [{rate for name, rate in rates.items() if name.startswith(part)} for part in parts]
    assert found == [{0.125}, {0.125}, {0.25}, {0.5}, {1.0}]


def test_named_sizes_and_wrong_ones() -> None:
    assert _unified(width="tiny").width == 192
    with pytest.raises(ConfigError, match="divisible by heads"):
        _unified(heads=5)
