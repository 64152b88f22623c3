import pytest
import torch

from medssl.models.resnet import ResNet


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [
        ({"depth": 18}, 11_176_512),
        ({"depth": 34}, 21_284_672),
        ({"depth": 50}, 23_508_032),
        ({"depth": 101}, 42_500_160),
    ],
)
def test_the_two_dimensional_networks_have_the_weights_of_the_paper(arguments: dict[str, int], weights: int) -> None:
    """Counts of the published networks of three channels without their classifier."""
    assert sum(p.numel() for p in ResNet(2, 3, **arguments).parameters()) == weights


def test_the_rs_network_has_the_weights_of_the_published_one() -> None:
    """ResNet-RS-50 has 35.69 million weights, 2.05 million of them in the classifier of 1,000 classes."""
    count = sum(p.numel() for p in ResNet(2, 3, depth=50, rs=True).parameters())
    assert (count + 2048 * 1000 + 1000) / 1e6 == pytest.approx(35.69, abs=0.005)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("rs", [False, True])
@pytest.mark.parametrize(("depth", "small"), [(10, False), (50, True)])
def test_maps_have_the_shapes_they_say(dims: int, rs: bool, depth: int, small: bool) -> None:
    network = ResNet(dims, 2, depth=depth, width=8, norm="instance", rs=rs, small=small)
    size = (64, 32, 96)[:dims]
    maps = network(torch.randn(2, 2, *size))
    for out, channels, strides in zip(maps, network.feature_channels, network.strides, strict=True):
        assert out.shape == (2, channels, *(n // s for n, s in zip(size, strides, strict=True)))
    assert network.embed(torch.randn(2, 2, *size)).shape == (2, network.feature_channels[-1])


def test_a_block_starts_as_its_shortcut() -> None:
    network = ResNet(2, 1, depth=18, width=8, small=True)
    image = torch.randn(2, 1, 16, 16)
    first = network.stages[0][0]
    out = network.stem(image)
    assert torch.equal(first(out), out)
    assert network.layer_depths() == {"stem": 0, "stages.0": 1, "stages.1": 2, "stages.2": 3, "stages.3": 4}
