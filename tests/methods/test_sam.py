"""SAM: where views overlap, the loss, and that it learns to find places."""

from typing import Any

import pytest
import torch
from fixed_batch import learn
from small_networks import small_encoder
from torch import Tensor

from medssl.data.augment_options import NO_AUGMENTATION, ViewAugment
from medssl.data.masking import step_generator
from medssl.data.view_groups import ViewGroup
from medssl.data.views import MultiView
from medssl.imaging.errors import ConfigError
from medssl.losses.anatomy import place_info_nce
from medssl.methods.sam import SAM, _places
from medssl.methods.simclr import SimCLR
from medssl.models.anatomy import cell_places, find_points
from medssl.models.unet import ResidualUNetEncoder
from medssl.training.pretrain_checks import unused_views
from medssl.training.pretrain_options import ViewOptions

_SMALL = {"width": 8, "fine": (60, 20, 60, 30), "coarse": (30, 8, 20, 10), "others": 12}


def _method(dims: int = 2, channels: int = 1, kind: str = "cnn", **given: Any) -> SAM:
    torch.manual_seed(0)
    if kind == "cnn":
        encoder = ResidualUNetEncoder(dims, channels, features=[8, 16, 16], blocks=[0, 1, 1])
    else:
        encoder = small_encoder(kind, dims, channels)
    return SAM(encoder, **{**_SMALL, **given})


def _batch(
    dims: int = 2, channels: int = 1, samples: int = 3, size: int = 16, patients: tuple[int, ...] = (0, 1, 2)
) -> dict[str, Tensor]:
    turned = ViewAugment(**{**NO_AUGMENTATION, "affine_p": 1.0}, rotation_deg=10, scale=0.1)
    maker = MultiView(ViewGroup(2, (size,) * dims, (0.6, 0.9), 1.2, (turned,)), None, 0)
    source = torch.randn(samples, channels, *[24] * dims, generator=torch.Generator().manual_seed(1))
    numbers = {"index": torch.arange(samples), "patient": torch.tensor(patients[:samples])}
    numbers["spacing_mm"] = torch.ones(samples, dims, dtype=torch.float64)
    return maker({"image": source, **numbers, "step": torch.tensor(2)})


@pytest.mark.parametrize(("dims", "channels"), [(2, 3), (3, 2)])
@pytest.mark.parametrize("kind", ["cnn", "resnet", "swin", "vit"])
def test_it_trains_all_weights_and_leaves_a_plain_encoder(dims: int, channels: int, kind: str) -> None:
    method = _method(dims, channels, kind)
    method(_batch(dims, channels))["loss"].backward()
    unused = [name for name, p in method.named_parameters() if p.grad is None]
    assert all("tokens" in name for name in unused), unused
    fresh = _method(dims, channels, kind)
    fresh.encoder.load_state_dict(method.encoder_state_dict(), strict=True)
    assert set(method.decoder_state_dict()) == {
        name for name in fresh.network.state_dict() if not name.startswith("encoder.")
    }


@pytest.mark.parametrize("patients", [(0, 1, 2), (4, 7, 4), (5, 5, 5)])
def test_the_loss_is_that_of_both_grids_with_places_in_the_source(patients: tuple[int, ...]) -> None:
    """Whose further negatives are places of other patients alone: another scan of the same body shows the same."""
    method, batch = _method().eval(), _batch(patients=patients)
    views, affine = batch["views"], batch["views_affine"].float()
    maps = [method.network(view) for view in views]
    generator, parts = step_generator(0, 2), []
    for sample in range(3):
        for name, stride, sampling in (("fine", 2, method.fine), ("coarse", 4, method.coarse)):
            grid = getattr(maps[0], name).shape[2:]
            rows = [getattr(m, name)[sample].flatten(1).T for m in maps]
            cells = cell_places(grid, (stride, stride))
            places = [(cells @ a[sample, :, :2].T + a[sample, :, 2]) / stride for a in affine]
            for part in places:
                part[((part * stride < -0.5) | (part * stride > 23.5)).any(1)] = torch.nan
            ranking = torch.stack([m.coarse_on_fine()[sample].flatten(1).T for m in maps]) if name == "fine" else None
            others = None
            if name == "coarse":
                rest = [m.coarse[n].flatten(1).T for m in maps for n in range(3) if patients[n] != patients[sample]]
                if rest:
                    drawn = torch.randperm(len(rest) * len(cells), generator=generator)[:12]
                    others = torch.cat(rest)[drawn]
            parts.append(
                place_info_nce(
                    torch.stack(rows), torch.stack(places), sampling, 0.5, generator, ranking=ranking, others=others
                )
            )
    found = method(batch)
    torch.testing.assert_close(found["loss"], torch.stack(parts).sum() / 3)
    torch.testing.assert_close(found["fine_loss"], torch.stack(parts[::2]).mean())


@pytest.mark.parametrize("dims", [2, 3])
def test_it_learns_a_fixed_batch_and_then_finds_places_in_the_other_view(dims: int) -> None:
    method, batch = _method(dims), _batch(dims)
    points = cell_places((4,) * dims, (2,) * dims) + 4
    affine = batch["views_affine"].float()
    source = points @ affine[0, 0, :, :-1].T + affine[0, 0, :, -1]
    expected = (source - affine[1, 0, :, -1]) @ torch.linalg.inv(affine[1, 0, :, :-1]).T
    points, expected = (part[((expected > 1) & (expected < 14)).all(1)] for part in (points, expected))

    def error() -> float:
        maps = [method.network.embed_whole(view[:1]) for view in batch["views"]]
        found, _ = find_points(maps[0], points, maps[1])
        return float((found - expected).norm(dim=1).median())

    before = error()
    learn(method, batch, 0.01)
    assert error() < before / 2


def test_a_single_image_has_no_others_and_bf16_is_finite() -> None:
    method, batch = _method(), _batch(samples=1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(batch)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()


@pytest.mark.parametrize("dims", [2, 3])
def test_places_are_exact_under_autocast(dims: int) -> None:
    """In bf16 a place 90 voxels from the border would be known to half a voxel."""
    affine = _batch(dims)["views_affine"].float()
    affine[..., -1] += 70
    exact = torch.stack(
        [
            torch.stack([(cell_places((4,) * dims, (2,) * dims) @ a[:, :-1].T + a[:, -1]) / 2 for a in view])
            for view in affine
        ]
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = _places(affine, (4,) * dims, (2,) * dims, (200,) * dims)
    torch.testing.assert_close(found, exact)


def test_cells_beyond_the_source_have_no_place() -> None:
    """A view turned by 45 degrees about the middle of its source, whose corners reach beyond it."""
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]]) / 2**0.5
    middle = torch.tensor([7.5, 7.5])
    affine = torch.cat([turn, (middle - turn @ middle)[:, None]], 1)[None, None]
    found = _places(affine, (8, 8), (2, 2), (16, 16))[0, 0].view(8, 8, 2)
    outside = found.isnan().any(-1)
    corners = outside[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.all()
    assert not outside[2:6, 2:6].any()
    assert torch.equal(outside, outside.T)
    for row, column in ((0, 0), (1, 2), (3, 4), (7, 3)):
        place = turn @ (torch.tensor([row, column]) * 2 + 0.5 - middle) + middle
        within = bool(((place >= -0.5) & (place <= 15.5)).all())
        assert within != bool(outside[row, column])
        if within:
            torch.testing.assert_close(found[row, column], place / 2)


def test_wrong_numbers_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        _method(width=0, temperature=0, others=-1, fine=(1, 0, 1, 1), radii=(1, 1, 0, 1))
    assert len(caught.value.problems) == 5


def test_views_whose_places_would_be_wrong_are_refused() -> None:
    views = ViewOptions((16, 16), partner="patient", augment=ViewAugment(elastic_p=0.5), second=ViewAugment())
    told = unused_views(SAM, views)
    assert [text.split(":")[0] for text in told] == ["views.partner patient", "views.augment.elastic_p 0.5"]
    assert unused_views(SAM, ViewOptions((16, 16))) == []
    assert unused_views(SimCLR, views) == [], "who is told of no places may be shown others"
