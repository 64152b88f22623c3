"""A network is rebuilt from its description; a description from a file builds classes of medssl alone."""

import json

import pytest
import torch

from medssl.imaging.errors import ConfigError
from medssl.models.component import Component, resolve
from medssl.models.networks import NetworkSpec, build_encoder, build_network, output_strides

_UNET = Component("medssl.models.unet.ResidualUNetEncoder", {"features": [4, 8], "blocks": [0, 1]})
_VIT = Component("medssl.models.vit.ViT", {"patch_size": 4, "width": 24, "depth": 2, "heads": 2})
_PAIRS = {
    "unet": (_UNET, Component("medssl.models.decoders.UNetDecoder")),
    "unetr": (_VIT, Component("medssl.models.decoders.UNETRDecoder", {"features": 4})),
    "cnn_class": (_UNET, Component("medssl.models.decoders.ClassificationHead")),
    "vit_class": (_VIT, Component("medssl.models.decoders.ClassificationHead", {"dropout": 0.1})),
}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", _PAIRS)
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_description_goes_through_json_and_weights_fit(name: str, dims: int, channels: int):
    task = "classification" if "class" in name else "segmentation"
    spec = NetworkSpec(task, dims, channels, 3, *_PAIRS[name])
    again = NetworkSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    first, second = build_network(spec).eval(), build_network(again, trusted_only=True).eval()
    second.load_state_dict(first.state_dict(), strict=True)
    image = torch.randn(2, channels, *[8] * dims)
    out = first(image)
    assert torch.equal(out, second(image))
    assert out.shape == ((2, 3) if task == "classification" else (2, 3, *[8] * dims))


def test_every_wrong_argument_is_named():
    wrong = Component(_UNET.class_path, {"feature": [4], "block": [1]})
    with pytest.raises(ConfigError) as caught:
        build_encoder(wrong, 2, 1)
    assert "'feature'" in str(caught.value)
    assert "'block'" in str(caught.value)
    assert "features" in str(caught.value)


@pytest.mark.parametrize(
    "path",
    ["os.system", "medssl.models.nothing.X", "medssl.models.vit.Nothing", "medssl.models.positions.patchify", "X"],
)
def test_classes_that_cannot_be_used(path: str):
    with pytest.raises(ConfigError, match="class_path"):
        resolve(path, trusted_only=True)


def test_sides_must_divide_by_the_last_stride():
    assert output_strides(build_encoder(_UNET, 3, 1)) == (2, 2, 2)
    assert output_strides(build_encoder(_VIT, 2, 1)) == (4, 4)
