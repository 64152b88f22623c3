"""Models of timm as encoders, without their weights: nothing is downloaded. Run by `make test-peers`."""

import pytest
import torch

from medssl.imaging.errors import ConfigError
from medssl.methods.simclr import SimCLR
from medssl.models.decoders import UNetDecoder
from medssl.models.timm_encoder import TimmEncoder

pytestmark = pytest.mark.filterwarnings("ignore")  # timm's imports warn of torch's own future


def test_3d_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="2D"):
        TimmEncoder(3, 1, "resnet18")


def test_without_timm_the_message_says_what_to_install() -> None:
    try:
        import timm  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(ConfigError, match="timm"):
            TimmEncoder(2, 1, "resnet18")
    else:
        with pytest.raises(ConfigError, match="no model 'resnet1888'"):
            TimmEncoder(2, 1, "resnet1888")


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_atto", "efficientnet_b0", "swinv2_tiny_window8_256", "vit_tiny_patch16_224"]
)
def test_a_model_by_name_has_a_pyramid_trains_and_segments(name: str) -> None:
    pytest.importorskip("timm", reason="timm is tested by make test-peers")
    torch.manual_seed(0)
    encoder = TimmEncoder(2, 2, name, image_size=[64, 64])
    image = torch.randn(2, 2, 64, 64)
    maps = encoder(image)
    assert [m.shape[1] for m in maps] == list(encoder.feature_channels)
    assert [tuple(64 // n for n in m.shape[2:]) for m in maps] == list(encoder.strides)
    assert encoder.embed(image).shape == (2, encoder.feature_channels[-1])
    assert set(dict(encoder.model.named_children())) == {n.removeprefix("model.") for n in encoder.layer_depths()}
    SimCLR(encoder, width=8, hidden=8)({"views": torch.stack([image, image.flip(3)]), "patient": torch.arange(2)})[
        "loss"
    ].backward()
    if "vit" not in name:
        assert UNetDecoder(encoder, 3)(image, maps).shape == (2, 3, 64, 64)
