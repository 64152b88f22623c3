"""What methods and tasks may expect of an encoder."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from medssl.imaging.errors import ConfigError
from medssl.models.component import Component


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


class PatchEncoder(Encoder):
    """An encoder that embeds patches, and in which a token can take the place of any of them; abstract."""

    patch_size: tuple[int, ...]
    """Side of a patch in voxels, an axis each."""

    width: int
    """Width E of an embedded patch."""

    @abstractmethod
    def forward(self, image: Tensor, fill: tuple[Tensor, Tensor] | None = None) -> list[Tensor]:
        """Feature maps, fine to coarse.

        Args:
            image: (B, C, *S).
            fill: Which patches are hidden (B, N) bool, and the token (1, 1, E) that takes their place.
        """

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Number of patches an axis of an image of spatial shape `shape`.

        Raises:
            ConfigError: The shape does not divide into patches, or into the largest merged ones.
        """
        largest = self.strides[-1]
        if any(n % p for n, p in zip(shape, largest, strict=True)):
            raise ConfigError([f"image of {tuple(shape)} does not divide into patches of {largest}"])
        return tuple(n // p for n, p in zip(shape, self.patch_size, strict=True))


class MixedEncoder(nn.Module, ABC):
    """An encoder of 2D and of 3D images with weights in common; abstract.

    What is kept of it are plain encoders, one a dimension, which fine-tuning loads like any other.
    """

    in_channels: int

    @abstractmethod
    def plain(self, spatial_dims: int) -> Encoder:
        """The encoder of one dimension; its weights are those of this one."""

    @abstractmethod
    def description(self, spatial_dims: int) -> Component:
        """Class and arguments that build it."""

    def embed(self, image: Tensor) -> Tensor:
        """One vector an image, of either dimension: (B, E)."""
        return self.plain(image.ndim - 2).embed(image)
