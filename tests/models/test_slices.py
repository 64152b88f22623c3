"""A 3D encoder out of a 2D one: maps of slices, their order, one slice, strict loading."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from medssl.imaging.errors import ConfigError
from medssl.models.decoders import ClassificationHead, UNetDecoder
from medssl.models.networks import Network, build_encoder
from medssl.models.slices import SliceEncoder
from medssl.training.optimizers import parameter_groups

_PARTS = {
    "resnet": {"class_path": "medssl.models.resnet.ResNet", "init_args": {"depth": 10, "width": 4, "small": True}},
    "vit": {"class_path": "medssl.models.vit.ViT", "init_args": {"patch_size": 4, "width": 12, "depth": 4, "heads": 2}},
    "unet": {
        "class_path": "medssl.models.unet.ResidualUNetEncoder",
        "init_args": {"features": [4, 8], "blocks": [0, 1]},
    },
}


def _encoder(kind: str = "resnet", channels: int = 1, sequence: tuple[int, int, int] = (8, 1, 2)) -> SliceEncoder:
    torch.manual_seed(0)
    return SliceEncoder(3, channels, _PARTS[kind], sequence).eval()


def _volume(channels: int = 1, slices: int = 5) -> torch.Tensor:
    return torch.randn(2, channels, 16, 16, slices, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", _PARTS)
@pytest.mark.parametrize("channels", [1, 2])
def test_vectors_and_maps_are_those_of_each_slice_alone(kind: str, channels: int) -> None:
    encoder, volume = _encoder(kind, channels), _volume(channels)
    vectors, maps = encoder.vectors(volume), encoder(volume)
    assert [level.shape[1] for level in maps] == list(encoder.feature_channels)
    for number in range(volume.shape[-1]):
        alone = encoder.slices(volume[..., number])
        means = [level.mean((2, 3)) for level in alone]
        expected = torch.cat([*(F.normalize(mean, dim=1) for mean in means), means[-1]], dim=1)
        torch.testing.assert_close(vectors[:, number], expected)
        for level, own, stride in zip(maps, alone, encoder.strides, strict=True):
            torch.testing.assert_close(level[:, : own.shape[1], ..., number], own)
            assert level.shape[2:] == (16 // stride[0], 16 // stride[1], 5)
    tokens = encoder.sequence(vectors)
    wide = maps[-1][:, -8:]
    torch.testing.assert_close(wide, tokens.transpose(1, 2)[:, :, None, None].expand_as(wide))
    torch.testing.assert_close(encoder.embed(volume), maps[-1].flatten(2).mean(-1))


def test_the_order_of_slices_matters_and_an_image_is_one_slice() -> None:
    encoder, volume = _encoder(), _volume()
    order = torch.tensor([4, 2, 0, 3, 1])
    assert not torch.allclose(
        encoder.sequence(encoder.vectors(volume)).mean(1), encoder.sequence(encoder.vectors(volume[..., order])).mean(1)
    )
    torch.testing.assert_close(encoder.embed(volume[..., 0]), encoder.embed(volume[..., :1]))


def test_hidden_slices_are_seen_by_none() -> None:
    encoder, vectors = _encoder(), _encoder().vectors(_volume())
    hidden = torch.tensor([[True, False, False, True, False]] * 2)
    token = torch.randn(1, 1, 8)
    changed = torch.where(hidden[..., None], 100.0, vectors)
    torch.testing.assert_close(encoder.sequence(changed, (hidden, token)), encoder.sequence(vectors, (hidden, token)))
    assert not torch.allclose(encoder.sequence(vectors, (hidden, token)), encoder.sequence(vectors))


@pytest.mark.parametrize("dims", [2, 3])
def test_plain_encoders_are_built_from_their_description_and_load_strictly(dims: int) -> None:
    encoder = _encoder(channels=2)
    described = encoder.description(dims)
    given = {k: v for k, v in described.init_args.items() if k not in ("spatial_dims", "in_channels")}
    plain = build_encoder(type(described)(described.class_path, given), dims, 2, trusted_only=True).eval()
    plain.load_state_dict(encoder.plain(dims).state_dict(), strict=True)
    image = _volume(2) if dims == 3 else _volume(2)[..., 0]
    torch.testing.assert_close(plain.embed(image), encoder.plain(dims).embed(image))


def test_tasks_in_3d_learn_through_all_of_it() -> None:
    encoder = _encoder().train()
    assert Network(encoder, ClassificationHead(encoder, 2))(_volume()).shape == (2, 2)
    logits = Network(encoder, UNetDecoder(encoder, 3))(_volume())
    assert logits.shape == (2, 3, 16, 16, 5)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_layers_nearer_to_the_image_learn_more_slowly() -> None:
    encoder = Network(_encoder(), torch.nn.Identity())
    rates = {n: g.scale for g in parameter_groups(encoder, 0.5) for n in g.names}
    parts = [f"encoder.{name}" for name in ("slices.stem", "slices.stages.0", "slices.stages.3", "mixing", "norm")]
    found = [{rate for name, rate in rates.items() if name.startswith(part)} for part in parts]
    assert found == [{0.5**5}, {0.5**4}, {0.5}, {1.0}, {1.0}]


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"spatial_dims": 2}, "the data is 2D"),
        ({"sequence": (8, 1, 3)}, "width 8 must be divisible by heads 3"),
        ({"slices": {"init_args": {}}}, "slices needs class_path"),
        ({"slices": {"class_path": "torch.nn.Linear", "init_args": {}}}, "refused"),
        ({"slices": {"class_path": "medssl.models.resnet.ResNet", "init_args": {"deep": 3}}}, "no argument 'deep'"),
    ],
)
def test_what_does_not_fit_is_told(given: dict, word: str) -> None:
    arguments = {"spatial_dims": 3, "in_channels": 1, "slices": _PARTS["resnet"], "sequence": (8, 1, 2)}
    with pytest.raises(ConfigError, match=word):
        SliceEncoder(**{**arguments, **given})
