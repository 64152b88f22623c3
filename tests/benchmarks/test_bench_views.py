"""The measurement of views runs, and both sides make what they say."""

import torch

from medssl.commands.benchmarks import views


def test_both_sides_make_two_views_of_each_sample_and_are_compared() -> None:
    images = torch.randn(2, 1, 16, 16, 16)
    for side in (views._Ours(images, 12), views._Monai(images, 12)):
        first, second = side(), side()
        assert first.shape == (2, 2, 1, 12, 12, 12)
        assert torch.isfinite(first).all()
        assert not torch.equal(first, second)
        assert not torch.equal(first[0], first[1])
    (found,) = views.run(size=8, source=12, batch=2, rounds=1)
    assert found.ratio > 0
    assert "MONAI" in found.peer_name
