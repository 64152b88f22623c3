import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)

from medssl.losses.anatomy import PairSampling, place_info_nce

_ALL = PairSampling(candidates=1000, anchors=1000, hard=1000, taken=1000, near=0.6, ignored=1.1)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _two_views(dims: int = 2, side: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings, and places of two views, the second of which lies 2 steps further along the first axis."""
    line = torch.arange(float(side))
    first = torch.stack(torch.meshgrid(*[line] * dims, indexing="ij"), -1).flatten(0, -2)
    second = first + 0.2
    second[:, 0] += 1.8
    embedding = F.normalize(torch.randn(2, side**dims, 6, generator=_generator()), dim=-1)
    return embedding, torch.stack([first, second])


@pytest.mark.parametrize("dims", [2, 3])
def test_it_is_the_cross_entropy_of_each_place_that_both_views_show(dims: int):
    embedding, places = _two_views(dims)
    everyone, everywhere = embedding.flatten(0, 1), places.flatten(0, 1)
    rows, losses = places.shape[1], []
    for anchor in range(2 * rows):
        other = range(rows, 2 * rows) if anchor < rows else range(rows)
        distance, partner = min((float((everywhere[anchor] - everywhere[n]).norm()), n) for n in other)
        if distance > 0.6:
            continue
        logits = [everyone[anchor] @ everyone[partner] / 0.5]
        for n in range(2 * rows):
            if min((everywhere[n] - everywhere[c]).norm() for c in (anchor, partner)) > 1.1:
                logits.append(everyone[anchor] @ everyone[n] / 0.5)
        losses.append(-torch.log_softmax(torch.stack(logits), 0)[0])
    assert 0 < len(losses) < 2 * rows
    found = place_info_nce(embedding, places, _ALL, 0.5, _generator())
    torch.testing.assert_close(found, torch.stack(losses).mean())


@pytest.mark.parametrize("dims", [2, 3])
def test_cells_without_a_place_are_left_out(dims: int):
    """As if they were not there: in neither part of the loss, and without a gradient."""
    embedding, places = _two_views(dims)
    rows = places.shape[1]
    kept = torch.rand(2, rows, generator=_generator()) < 0.7
    count = min(int(k.sum()) for k in kept)
    numbers = [k.nonzero()[:count, 0] for k in kept]
    nowhere = torch.full_like(places, torch.nan)
    for view, rest in enumerate(numbers):
        nowhere[view, rest] = places[view, rest]
    embedding.requires_grad_()
    found = place_info_nce(embedding, nowhere, _ALL, 0.5, _generator())
    found.backward()
    fewer = [torch.stack([part[view, rest] for view, rest in enumerate(numbers)]) for part in (embedding, places)]
    torch.testing.assert_close(found, place_info_nce(*fewer, _ALL, 0.5, _generator()))
    lost = nowhere.isnan().any(-1)
    assert lost.any()
    assert (embedding.grad[lost] == 0).all()
    assert found.detach() > 0


def test_a_collapse_costs_the_logarithm_of_the_number_of_negatives():
    _, places = _two_views(side=40)
    same = F.normalize(torch.ones(2, 1600, 128), dim=-1)
    fine = PairSampling(2000, 100, 2000, 500, 1.25, 0.75)
    found = place_info_nce(same, places, fine, 0.5, _generator())
    assert float(found) == pytest.approx(math.log(501), abs=1e-4) == pytest.approx(6.2166, abs=1e-4)
    coarse = PairSampling(2000, 100, 250, 200, 1.25, 0.75)
    found = place_info_nce(same, places, coarse, 0.5, _generator(), others=F.normalize(torch.ones(300, 128), dim=-1))
    assert float(found) == pytest.approx(math.log(501), abs=1e-4)


def test_the_hardest_are_drawn_by_both_embeddings():
    embedding, places = _two_views(side=6)
    sampling = PairSampling(1000, 1000, 5, 5, 0.6, 1.1)
    plain = place_info_nce(embedding, places, sampling, 0.5, _generator())
    fewer = place_info_nce(embedding, places, _ALL, 0.5, _generator())
    assert plain < fewer
    by_place = F.normalize(torch.cat([places, torch.ones(2, 36, 1)], -1), dim=-1)
    assert place_info_nce(embedding, places, sampling, 0.5, _generator(), ranking=50 * by_place) < plain


def test_views_without_a_common_place_cost_nothing_and_leave_no_gradient():
    embedding, places = _two_views()
    embedding.requires_grad_()
    loss = place_info_nce(embedding, places + torch.tensor([0.0, 100.0])[:, None, None], _ALL, 0.5, _generator())
    loss.backward()
    assert float(loss.detach()) == 0
    assert (embedding.grad == 0).all()


def test_other_images_are_negatives_for_all():
    embedding, places = _two_views()
    others = F.normalize(torch.randn(7, 6, generator=_generator()), dim=-1)
    alone = place_info_nce(embedding, places, _ALL, 0.5, _generator())
    assert place_info_nce(embedding, places, _ALL, 0.5, _generator(), others=others) > alone
