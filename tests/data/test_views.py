import dataclasses

import pytest
import torch
from torch import Tensor

from medssl.data.augment_options import NO_AUGMENTATION, ViewAugment
from medssl.data.view_groups import ViewGroup
from medssl.data.views import MultiView, draw_views, make_views
from medssl.imaging.errors import ConfigError
from medssl.training.pretrain_options import ViewOptions

_PLAIN = ViewAugment(**NO_AUGMENTATION)
_SOURCES = {2: (30, 40), 3: (20, 24, 16)}


def _group(dims: int, **given) -> ViewGroup:
    size = (12, 8, 10)[:dims]
    return ViewGroup(**{"count": 2, "size": size, "extent": (0.3, 0.8), "aspect": 1.3, "augments": (_PLAIN,), **given})


def _ramps(shape: tuple[int, ...]) -> Tensor:
    """One channel an axis: the voxel's own coordinate, so that a view shows where it was taken."""
    return torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij"))


def _mm(count: int, dims: int) -> Tensor:
    """Voxels of 1 mm."""
    return torch.ones(count, dims, dtype=torch.float64)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_view_shows_its_box(dims: int) -> None:
    """Read from ramps: the mean coordinate is the box's centre, neighbours are a box side / size apart."""
    source, group = _SOURCES[dims], _group(dims)
    drawn = draw_views(group, [3, 4], 0, 0, source, _mm(2, dims).expand(2, -1, -1))
    views = make_views(drawn, _ramps(source).expand(2, -1, *[-1] * dims), group.size)
    assert views.shape == (2, 2, dims, *group.size)
    for view in range(2):
        for sample in range(2):
            for axis in range(dims):
                line = views[view, sample, axis].movedim(axis, 0).flatten(1)
                side, centre = drawn.side[view, sample, axis], drawn.centre[view, sample, axis]
                step = side / group.size[axis]
                wanted = centre + (torch.arange(group.size[axis]) - (group.size[axis] - 1) / 2) * step
                wanted = wanted.clamp(0, source[axis] - 1).float()  # half a voxel outside: the edge
                torch.testing.assert_close(line, wanted[:, None].expand_as(line), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_boxes_lie_inside_and_have_the_sides_asked_for(dims: int) -> None:
    source, group = _SOURCES[dims], _group(dims)
    drawn = draw_views(group, range(200), 0, 0, source, _mm(200, dims).expand(2, -1, -1))
    shape = torch.tensor(source, dtype=torch.float64)
    low, high = drawn.centre - drawn.side / 2 + 0.5, drawn.centre + drawn.side / 2 + 0.5
    assert (low > -1e-9).all()
    assert (high < shape + 1e-9).all()
    relative = drawn.side / shape
    mean = relative.log().mean(-1).exp()
    assert mean.min() >= 0.3 - 1e-9
    assert mean.max() <= 0.8 + 1e-9
    assert mean.min() < 0.35
    assert mean.max() > 0.75
    assert (relative / mean[..., None]).max() > 1.1
    assert (drawn.centre[0] - drawn.centre[1]).abs().min() > 0  # the two views are drawn apart


@pytest.mark.parametrize("dims", [2, 3])
def test_a_shifted_view_has_its_box_where_its_middle_lies(dims: int) -> None:
    moving = dataclasses.replace(_PLAIN, affine_p=1.0, shift=0.4, rotation_deg=20.0)
    group, source = _group(dims, augments=(moving,)), _SOURCES[dims]
    maker = MultiView(group, None, 3)
    made = maker({"image": torch.zeros(4, 1, *source), "index": torch.arange(4), "spacing_mm": _mm(4, dims)})
    middle = torch.tensor([*group.size, 3.0], dtype=torch.float64).sub(1) / 2
    middle[-1] = 1
    torch.testing.assert_close(made["views_centre"], made["views_affine"] @ middle)


def test_the_whole_box_without_aspect_is_the_image_itself() -> None:
    image = torch.randn(2, 1, 9, 7, generator=torch.Generator().manual_seed(0))
    group = ViewGroup(1, (9, 7), (1.0, 1.0), 1.0, (_PLAIN,))
    views = make_views(draw_views(group, [0, 1], 0, 0, (9, 7), _mm(2, 2).expand(2, -1, -1)), image, (9, 7))
    torch.testing.assert_close(views[0], image, atol=1e-5, rtol=1e-5)


def test_flips_turn_the_view_and_nothing_else() -> None:
    image = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    flipped = dataclasses.replace(_PLAIN, flip_axes=(0,))
    groups = [_group(2, augments=(options,)) for options in (_PLAIN, flipped)]
    plain, turned = (
        make_views(draw_views(g, range(4), 0, 5, (16, 16), _mm(4, 2).expand(2, -1, -1)), image, g.size) for g in groups
    )
    same = (plain - turned).abs().flatten(2).amax(2) < 1e-6
    mirrored = (plain.flip(3) - turned).abs().flatten(2).amax(2) < 1e-6
    assert (same ^ mirrored).all()
    assert same.any()
    assert mirrored.any()


def test_views_replay_and_know_neither_batch_nor_neighbours() -> None:
    strong = ViewAugment(**{**dict.fromkeys(NO_AUGMENTATION, 1.0), "stain_p": 0.0}, flip_axes=(0, 1))
    group = _group(2, augments=(strong, _PLAIN))
    local = _group(2, count=3, size=(6, 6), augments=(strong,))
    maker = MultiView(group, local, 7)
    image = torch.randn(3, 1, 30, 40, generator=torch.Generator().manual_seed(0))
    batch = {"image": image, "index": torch.tensor([5, 6, 7]), "spacing_mm": _mm(3, 2)}
    first, again = maker(batch), maker(batch)
    alone = maker({"image": image[1:2], "index": torch.tensor([6]), "spacing_mm": _mm(1, 2)})
    assert first["views"].shape == (2, 3, 1, 12, 8)
    assert first["local_views"].shape == (3, 3, 1, 6, 6)
    assert first["local_views_centre"].shape == (3, 3, 2)
    for name in ("views", "local_views", "views_side"):
        assert torch.equal(first[name], again[name])
        torch.testing.assert_close(first[name][:, 1:2], alone[name], atol=1e-5, rtol=1e-5)
    assert not torch.equal(first["views_centre"][0], first["local_views_centre"][0])


def test_views_made_under_autocast_are_those_made_without() -> None:
    strong = ViewAugment(**{**dict.fromkeys(NO_AUGMENTATION, 1.0), "stain_p": 0.0}, rotation_deg=20.0)
    maker = MultiView(_group(3, augments=(strong,)), _group(3, size=(6, 6, 4), augments=(strong,)), 7)
    batch = {"image": torch.randn(2, 1, *_SOURCES[3], generator=torch.Generator().manual_seed(0))}
    batch |= {"index": torch.tensor([5, 6]), "spacing_mm": _mm(2, 3)}
    plain = maker(batch)
    with torch.autocast("cpu", torch.bfloat16):
        within = maker(batch)
    for name in plain:
        assert torch.equal(within[name], plain[name]), name


def test_the_second_view_has_its_own_variation() -> None:
    noisy = dataclasses.replace(_PLAIN, noise_p=1.0, noise_std=3.0)
    group = ViewGroup(2, (9, 7), (1.0, 1.0), 1.0, (_PLAIN, noisy))
    image = torch.randn(2, 1, 9, 7, generator=torch.Generator().manual_seed(0))
    views = make_views(draw_views(group, [0, 1], 0, 0, (9, 7), _mm(2, 2).expand(2, -1, -1)), image, (9, 7))
    torch.testing.assert_close(views[0], image, atol=1e-5, rtol=1e-5)
    assert (views[1] - image).std() > 0.1


def test_local_views_may_have_their_own_variation() -> None:
    first, second, small = (ViewAugment(blur_p=p) for p in (1.0, 0.1, 0.5))
    main, local = ViewOptions((8, 8), augment=first, second=second, local_views=3, local_augment=small).groups(2)
    assert local is not None
    assert (main.augments, local.augments) == ((first, second), (small,))
    _, local = ViewOptions((8, 8), augment=first, second=second, local_views=3).groups(2)
    assert local is not None
    assert local.augments == (first,)
    with pytest.raises(ConfigError, match=r"local_augment needs local_views"):
        ViewOptions((8, 8), local_augment=small)


def test_the_second_view_is_taken_from_the_partner() -> None:
    maker = MultiView(_group(2, count=3), _group(2, count=1), 7)
    image, partner = torch.randn(2, 2, 1, 30, 40, generator=torch.Generator().manual_seed(0))
    numbers = {"index": torch.tensor([5, 6]), "spacing_mm": _mm(2, 2)}
    own, others = maker({"image": image, **numbers}), maker({"image": partner, **numbers})
    both = maker({"image": image, "partner": partner, "partner_spacing_mm": _mm(2, 2), **numbers})
    for view, expected in enumerate((own, others, own)):
        assert torch.equal(both["views"][view], expected["views"][view])
    assert torch.equal(both["local_views"], own["local_views"])


@pytest.mark.parametrize("dims", [2, 3])
def test_the_affine_leads_from_a_voxel_of_a_view_to_where_it_was_taken(dims: int) -> None:
    shape = (24, 20, 22)[:dims]
    turned = dataclasses.replace(_PLAIN, affine_p=1.0, rotation_deg=20.0, scale=0.1, flip_axes=tuple(range(dims)))
    maker = MultiView(_group(dims, extent=(0.3, 0.5), augments=(turned,)), None, 3)
    batch = {"image": _ramps(shape).expand(5, *[-1] * (dims + 1)), "index": torch.arange(5)}
    batch = maker({**batch, "spacing_mm": _mm(5, 3)[:, :dims] * torch.tensor([1.0, 2.0, 0.7])[:dims]})
    views, affine = batch["views"], batch["views_affine"].float()
    voxels = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in views.shape[3:]], indexing="ij")).flatten(1)
    expected = affine[..., :-1] @ voxels + affine[..., -1:]
    inside = ((expected >= 0) & (expected <= torch.tensor(shape)[:, None] - 1)).all(2, keepdim=True).expand_as(expected)
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(views.flatten(3)[inside], expected[inside], atol=1e-3, rtol=1e-4)


def test_views_are_turned_in_the_millimetres_of_what_each_is_taken_from() -> None:
    """Seen in mm a view is turned and scaled alike along all axes, whatever its neighbours' voxels are."""
    turned = dataclasses.replace(_PLAIN, affine_p=1.0, rotation_deg=40.0, scale=0.2, flip_axes=(0, 1, 2))
    own = torch.tensor([[0.7, 0.7, 5.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    partner = torch.tensor([[1.0, 2.0, 0.5], [1.0, 1.0, 1.0]], dtype=torch.float64)
    group = ViewGroup(3, (8, 8, 8), (0.5, 0.5), 1.0, (turned,))
    maker, image = MultiView(group, group, 7), torch.randn(2, 1, 16, 16, 16)
    batch = {"image": image, "partner": image, "index": torch.tensor([5, 6])}
    batch = maker({**batch, "spacing_mm": own, "partner_spacing_mm": partner})
    for name in ("views", "local_views"):
        for view, matrix in enumerate(batch[f"{name}_affine"][..., :-1]):
            spacing = partner if (name, view) == ("views", 1) else own
            sizes = torch.linalg.svdvals(spacing[:, :, None] * matrix / spacing[:, None, :])
            torch.testing.assert_close(sizes, sizes[:, :1].expand_as(sizes))
