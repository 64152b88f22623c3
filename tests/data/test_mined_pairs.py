import pytest
import torch

from medssl.data.mined_pairs import cut_about, draw_points, mined_centres, other_patients


def test_the_partner_is_the_next_sample_of_another_patient():
    assert other_patients(torch.tensor([0, 0, 1, 2])).tolist() == [2, 2, 3, 0]
    assert other_patients(torch.tensor([5, 5])).tolist() == [0, 1]


@pytest.mark.parametrize("dims", [2, 3])
def test_points_lie_in_the_body_and_their_crops_in_the_image(dims: int):
    shape, size = (12, 9, 10)[:dims], (5, 4, 6)[:dims]
    image = torch.zeros(3, 1, *shape)
    image[:, :, 4:] = 1.0
    points = draw_points(image, size, 20, torch.Generator().manual_seed(0))
    assert points.shape == (3, 20, dims)
    half = (torch.tensor(size) - 1) / 2
    assert ((points - half) % 1 == 0).all()
    assert (points - half >= 0).all()
    assert (points + half <= torch.tensor(shape) - 1).all()
    assert (points[..., 0] >= 4).float().mean() > 0.9
    assert len(points[0].unique(dim=0)) > 5


def test_the_first_sure_find_is_taken_or_the_surest():
    points = torch.arange(12.0).view(2, 3, 2)
    scores = {0: [0.2, 0.8, 0.9], 1: [0.3, 0.6, 0.1]}

    def find(sample: int, places: torch.Tensor, partner: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert partner == 1 - sample
        return places + 100, torch.tensor(scores[sample])

    own, found, sure = mined_centres(points, torch.tensor([1, 0]), find, 0.7)
    assert own.tolist() == [[2.0, 3.0], [8.0, 9.0]]
    assert torch.equal(found, own + 100)
    assert sure.tolist() == [True, False]


@pytest.mark.parametrize("size", [(4, 5), (4, 5, 2)])
def test_crops_have_their_size_at_every_border(size: tuple[int, ...]):
    shape = (7, 8, 6)[: len(size)]
    image = torch.arange(float(torch.tensor(shape).prod())).view(1, 1, *shape)
    half = [(s - 1) / 2 for s in size]
    inside = cut_about(image, torch.tensor([[1 + h for h in half]]), size)
    assert torch.equal(inside[0, 0], image[0, 0][tuple(slice(1, 1 + s) for s in size)])
    for corner in ([0.0] * len(size), [float(n - 1) for n in shape], [50.0] * len(size)):
        crop = cut_about(image, torch.tensor([corner]), size)
        assert crop.shape == (1, 1, *size)
        assert crop.isfinite().all()
