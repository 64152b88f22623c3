import pytest
import torch

from medssl.models.anatomy import AnatomyMaps, AnatomyNetwork, cell_places, find_points
from medssl.models.encoder import Encoder
from medssl.models.resnet import ResNet
from medssl.models.swin import SwinV2
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.vit import ViT


def _encoder(kind: str, dims: int, channels: int = 1) -> Encoder:
    torch.manual_seed(0)
    if kind == "unet":
        return ResidualUNetEncoder(dims, channels, features=[4, 8, 8, 8], blocks=[0, 1, 1, 1])
    if kind == "resnet":
        return ResNet(dims, channels, depth=10, width=4, small=True)
    if kind == "swin":
        return SwinV2(dims, channels, patch_size=2, width=8, stages=[[2, 2], [2, 2]], window=2)
    return ViT(dims, channels, patch_size=4, width=24, depth=4, heads=2)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("kind", "stride"), [("unet", 2), ("resnet", 2), ("swin", 2), ("vit", 4)])
def test_embeddings_have_unit_length_on_both_grids(kind: str, stride: int, dims: int):
    network = AnatomyNetwork(_encoder(kind, dims, 2), 6)
    maps = network(torch.randn(3, 2, *[16] * dims))
    assert maps.stride == (stride,) * dims
    assert maps.fine.shape == (3, 6, *[16 // stride] * dims)
    assert maps.coarse_on_fine().shape == maps.fine.shape
    for part in (maps.fine, maps.coarse, maps.coarse_on_fine()):
        torch.testing.assert_close(part.norm(dim=1), torch.ones_like(part[:, 0]))
    sum(part.std() for part in (maps.fine, maps.coarse)).backward()
    unused = [name for name, p in network.named_parameters() if p.grad is None]
    assert all("class" in name or "tokens" in name for name in unused), unused


@pytest.mark.parametrize("dims", [2, 3])
def test_a_point_is_found_in_the_scan_itself(dims: int):
    network = AnatomyNetwork(_encoder("unet", dims), 8).eval()
    image = torch.randn(1, 1, *(26, 30, 18)[:dims], generator=torch.Generator().manual_seed(0))
    maps = network.embed_whole(image)
    points = torch.tensor([[10.5, 20.5, 6.5], [4.5, 3.5, 12.5]])[:, :dims] // 2 * 2 + 0.5
    found, score = find_points(maps, points, maps)
    torch.testing.assert_close(found, points)
    torch.testing.assert_close(score, torch.ones(2))
    off_centre, score = find_points(maps, points + 0.4, maps)
    assert (off_centre - points).abs().max() <= 2
    assert (score < 1).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_a_search_under_autocast_finds_what_it_finds_without(dims: int):
    network = AnatomyNetwork(_encoder("unet", dims), 8).eval()
    image = torch.randn(1, 1, *[32 if dims == 2 else 16] * dims, generator=torch.Generator().manual_seed(0))
    maps = network.embed_whole(torch.nn.functional.avg_pool2d(image, 5, 1, 2) if dims == 2 else image)
    points = cell_places(maps.fine.shape[2:], maps.stride)
    found, score = find_points(maps, points, maps)
    with torch.autocast("cpu", torch.bfloat16):
        again, other = find_points(maps, points, maps)
    assert torch.equal(again, found)
    assert torch.equal(other, score)


def test_the_match_follows_a_moved_body():
    network = AnatomyNetwork(_encoder("unet", 2), 8).eval()
    body = torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    scans = [torch.zeros(1, 1, 64, 64) for _ in range(2)]
    scans[0][:, :, 16:40, 16:40], scans[1][:, :, 24:48, 8:32] = body, body  # by whole steps of the coarsest map
    first, second = (network.embed_whole(scan) for scan in scans)
    points = torch.tensor([[26.5, 28.5], [30.5, 24.5]])
    found, _ = find_points(first, points, second)
    torch.testing.assert_close(found, points + torch.tensor([8.0, -8.0]))


def test_the_similarity_is_the_mean_of_both_cosines():
    generator = torch.Generator().manual_seed(0)
    maps = [
        AnatomyMaps(
            *(torch.nn.functional.normalize(torch.randn(1, 5, *s, generator=generator), dim=1) for s in sizes), (2, 2)
        )
        for sizes in (((4, 6), (2, 3)), ((6, 4), (3, 2)))
    ]
    places = cell_places((4, 6), (2, 2))
    assert places[0].tolist() == [0.5, 0.5]
    assert places[-1].tolist() == [6.5, 10.5]
    found, scores = find_points(maps[0], places[[7]], maps[1])
    cell = (7 // 6, 7 % 6)
    total = torch.zeros(6, 4)
    for part, other in ((maps[0].fine, maps[1].fine), (maps[0].coarse_on_fine(), maps[1].coarse_on_fine())):
        for a in range(6):
            for b in range(4):
                total[a, b] += part[0, :, cell[0], cell[1]] @ other[0, :, a, b] / 2
    best = divmod(int(total.argmax()), 4)
    assert found[0].tolist() == [2 * best[0] + 0.5, 2 * best[1] + 0.5]
    assert float(scores[0]) == pytest.approx(float(total.max()), abs=1e-5)
