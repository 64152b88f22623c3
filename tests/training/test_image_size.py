"""The size of image that an encoder was made for stays that of its weights, whatever it is fine-tuned on."""

from collections.abc import Sequence
from pathlib import Path

from phantoms import phantom_cache

from medssl.data.augment_options import AugmentOptions
from medssl.models.component import Component
from medssl.models.resnet import ResNet
from medssl.tasks.options import CropOptions, InferenceOptions, NetworkOptions, SubsetOptions, TransferOptions
from medssl.training.finetune_settings import Settings, network_spec
from medssl.training.options import TrainOptions


class SizedResNet(ResNet):
    """Asks for the size, as models of timm do."""

    def __init__(self, spatial_dims: int, in_channels: int, image_size: Sequence[int] = (224, 224)) -> None:
        super().__init__(spatial_dims, in_channels, depth=10, width=4, small=True)
        self.image_size = tuple(image_size)


def test_an_encoder_is_fine_tuned_as_what_it_was_pretrained_as(tmp_path: Path) -> None:
    cache = phantom_cache(tmp_path / "cache", 2, 6)
    described = Component("test_image_size.SizedResNet", {"image_size": [64, 64], "spatial_dims": 2, "in_channels": 1})
    settings = Settings(
        "segmentation", "dice_ce", NetworkOptions(described), CropOptions((32, 32)), TransferOptions(),
        AugmentOptions(), InferenceOptions(), TrainOptions(), SubsetOptions(),
    )  # fmt: skip
    assert network_spec(settings, cache).encoder.init_args == {"image_size": [64, 64]}
