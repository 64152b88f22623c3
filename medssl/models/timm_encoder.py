"""Any 2D model of timm by name, as an encoder."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from torch import Tensor

from medssl.imaging.errors import ConfigError, how_to_install
from medssl.models.batch_norm import convert_batch_norms, several_processes
from medssl.models.encoder import Encoder


class TimmEncoder(Encoder):
    """A model of timm (Wightman, https://github.com/huggingface/pytorch-image-models), its feature maps fine to coarse.

    Needs `timm`, which needs torchvision: `pip install '.[train,timm]'` in an environment of its own. Batch norms take
    the statistics of the batch of all processes (`convert_batch_norms`).

    Args:
        spatial_dims: 2.
        in_channels: Channels of the image.
        name: Name of the model, for instance `resnet18` or `convnext_tiny`.
        pretrained: Start from the weights that timm downloads for it; they have licences of their own.
        image_size: Voxels of the crops, for models that keep positions; the run's crops where it is left out. Of
            timm's, ViT, DeiT, EVA and Swin also see images of other sizes; others that keep positions do not.

    Raises:
        ConfigError: 3D images, timm is not installed, or has no such model, or one without feature maps; of several
            processes, a model with other layers that keep statistics.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        name: str,
        pretrained: bool = False,
        image_size: list[int] | None = None,
    ) -> None:
        super().__init__()
        if spatial_dims != 2:
            raise ConfigError([f"timm's models are 2D, the images are {spatial_dims}D"])
        try:
            import timm  # noqa: PLC0415 (an extra)
        except ModuleNotFoundError as error:
            raise ConfigError(
                [f"encoder {name} needs timm ({error.name} is missing): {how_to_install('train,timm')}"]
            ) from error
        if name not in timm.list_models():
            near = ", ".join(timm.list_models(f"*{name.split('_', maxsplit=1)[0]}*")[:5])
            raise ConfigError([f"timm has no model {name!r}{f'; near: {near}' if near else ''}"])
        create = partial(timm.create_model, name, in_chans=in_channels, features_only=True, pretrained=pretrained)
        try:
            self.model = _of_any_size(create, {} if image_size is None else {"img_size": tuple(image_size)})
        except (RuntimeError, TypeError, AttributeError, ValueError, AssertionError) as error:
            raise ConfigError([f"timm's {name} gives no feature maps: {error}"]) from error
        if (left := convert_batch_norms(self.model)) and several_processes():
            raise ConfigError(
                [
                    f"timm's {name} has layers that would take statistics of the batch of each device alone "
                    f"({len(left)}, first {left[0]}): run it on one device, or choose another model"
                ]
            )
        self.spatial_dims, self.in_channels = 2, in_channels
        self.feature_channels = tuple(self.model.feature_info.channels())
        self.strides = tuple((step, step) for step in self.model.feature_info.reduction())

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps (B, F, *S / stride), fine to coarse."""
        last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"  # some convolutional ones do not say
        return [part.movedim(-1, 1) if last else part for part in self.model(image)]

    def embed(self, image: Tensor) -> Tensor:
        """Mean of the coarsest map: (B, F)."""
        return self.forward(image)[-1].flatten(2).mean(-1)

    def layer_depths(self) -> dict[str, int]:
        """Depth of each top-level part, 0 = nearest to the image, for layer-wise learning rates."""
        return {f"model.{name}": depth for depth, (name, _) in enumerate(self.model.named_children())}


def _of_any_size(create: Callable[..., Any], sized: dict[str, Any]) -> Any:
    """The model, where it can be had for images of any size, else for one size, else without being told a size."""
    for ways in ({"strict_img_size": False, **sized}, {"dynamic_img_size": True, **sized}, sized):
        with suppress(
            TypeError
        ):  # it has no such argument; Swin takes the second in vain, so that the first is asked for first
            return create(**ways)
    return create()
