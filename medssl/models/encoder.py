"""What methods and tasks may expect of an encoder."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class Encoder(nn.Module, ABC):
    """A backbone: image (B, C, *S) to a pyramid of feature maps, and to one vector."""

    spatial_dims: int
    in_channels: int
    feature_channels: tuple[int, ...]
    """Channels of each map, fine to coarse; the last is the width of `embed`."""

    strides: tuple[tuple[int, ...], ...]
    """By how much each map is smaller than the image, an axis each."""

    @abstractmethod
    def forward(self, image: Tensor) -> Any:
        """Feature maps, fine to coarse: a list of (B, F, *S / stride)."""

    @abstractmethod
    def embed(self, image: Tensor) -> Tensor:
        """One vector an image: (B, E)."""

    def summary(self, image: Tensor) -> Tensor:
        """One vector (B, E) where a method wants a token that stands for the image; `embed` unless overridden."""
        return self.embed(image)
