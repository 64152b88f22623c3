"""Weights that fit an encoder with other arguments compute something else, and nothing in them tells."""

import pytest

from medssl.models.component import Component, unlike_arguments

_VIT, _UNET = "medssl.models.vit.ViT", "medssl.models.unet.ResidualUNetEncoder"


@pytest.mark.parametrize(
    ("path", "then", "now", "told"),
    [
        (_VIT, {"heads": 6}, {"heads": 3}, ["heads 6, here 3"]),
        (_VIT, {}, {"attention": "rope"}, ["attention plain, here rope"]),
        (_VIT, {"patch_size": [4, 16]}, {"patch_size": [16, 4]}, ["patch_size [4, 16], here [16, 4]"]),
        (_UNET, {"norm": "batch"}, {}, ["norm batch, here instance"]),
        (_VIT, {"patch_size": 8, "in_channels": 1, "spatial_dims": 2}, {"patch_size": [8, 8], "in_channels": 3}, []),
        (_VIT, {"width": "small"}, {"width": 384}, []),
        (_UNET, {"strides": None}, {"strides": [1, 2, 2, 2]}, []),
        (
            _UNET,
            {"features": [8, 8, 16], "blocks": [0, 1, 1]},
            {"features": [8, 8, 16], "blocks": [0, 1, 1], "strides": [1, [1, 2, 2], [2, 2, 2]]},
            ["strides [1, 2, 2], here [1, [1, 2, 2], 2]"],
        ),
        ("medssl.models.swin.SwinV2", {"window": 7}, {"window": 8, "pretrained_window": 7, "drop_path": 0.2}, []),
    ],
)
def test_arguments_of_which_no_weight_tells(path: str, then: dict, now: dict, told: list[str]):
    found = list(unlike_arguments(Component(path, then), Component(path, now)))
    assert [text.removeprefix("was pretrained with ").partition(":")[0] for text in found] == told
    assert list(unlike_arguments(Component(path, then), Component(path, then))) == []


def test_other_classes_are_told_elsewhere():
    assert list(unlike_arguments(Component(_VIT, {"heads": 6}), Component(_UNET, {}))) == []
