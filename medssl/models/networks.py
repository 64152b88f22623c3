"""A network for a task: encoder and decoder or head, built from a description stored beside the weights."""

import inspect
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor, nn

from medssl.imaging.errors import ConfigError
from medssl.models.component import Component, resolve
from medssl.models.encoder import Encoder


@dataclass(frozen=True)
class NetworkSpec:
    """What a network is made of; JSON-able.

    Args:
        task: `segmentation` or `classification`.
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        out_channels: Classes, background included for segmentation.
        encoder: Class and arguments of the encoder.
        decoder: Class and arguments of the decoder or head.
    """

    task: Literal["segmentation", "classification"]
    spatial_dims: int
    in_channels: int
    out_channels: int
    encoder: Component
    decoder: Component

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for model.json."""
        return {**self.__dict__, "encoder": self.encoder.to_json(), "decoder": self.decoder.to_json()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "NetworkSpec":
        """Inverse of `to_json`."""
        parts = {name: Component.from_json(content[name]) for name in ("encoder", "decoder")}
        return cls(**{**content, **parts})


class Network(nn.Module):
    """Encoder and decoder: image (B, C, *S) to logits (B, K, *S), or (B, K) with a classification head."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.decoder(image, self.encoder(image))
        return logits


def build_encoder(
    component: Component, spatial_dims: int, in_channels: int, *, trusted_only: bool = False
) -> nn.Module:
    """Build an encoder.

    Args:
        component: Class and arguments without `spatial_dims` and `in_channels`.
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        trusted_only: The description comes from a file: classes outside medssl are refused.

    Raises:
        ConfigError: Unknown class or arguments, all at once.
    """
    return _build(component, trusted_only, spatial_dims=spatial_dims, in_channels=in_channels)


def rebuild_encoder(component: Component, spatial_dims: int, in_channels: int) -> Encoder:
    """The encoder that a file describes, with fresh weights; classes outside medssl are refused.

    Raises:
        ConfigError: Unknown class or arguments, all at once.
    """
    given = {name: value for name, value in component.init_args.items() if name not in ("spatial_dims", "in_channels")}
    plain = Component(component.class_path, given)
    return cast(Encoder, build_encoder(plain, spatial_dims, in_channels, trusted_only=True))


def build_network(spec: NetworkSpec, *, trusted_only: bool = False) -> Network:
    """Build a network with fresh weights.

    Raises:
        ConfigError: Unknown classes or arguments, or parts that do not fit.
    """
    encoder = build_encoder(spec.encoder, spec.spatial_dims, spec.in_channels, trusted_only=trusted_only)
    return Network(encoder, build_decoder(spec.decoder, encoder, spec.out_channels, trusted_only=trusted_only))


def build_decoder(
    component: Component, encoder: nn.Module, out_channels: int, *, trusted_only: bool = False
) -> nn.Module:
    """Build a decoder or head for an encoder.

    Raises:
        ConfigError: Unknown class or arguments, or one that does not fit the encoder.
    """
    return _build(component, trusted_only, encoder=encoder, out_channels=out_channels)


def _build(component: Component, trusted_only: bool, **fixed: Any) -> nn.Module:
    found = resolve(component.class_path, trusted_only)
    parameters = inspect.signature(found).parameters
    unknown = [
        f"{component.class_path} has no argument {name!r}; it has {', '.join(p for p in parameters if p not in fixed)}"
        for name in component.init_args
        if name not in parameters or name in fixed
    ]
    if unknown:
        raise ConfigError(unknown)
    try:
        module = found(**fixed, **component.init_args)
    except (TypeError, ValueError) as error:
        raise ConfigError([f"{component.class_path} cannot be built with {component.init_args}: {error}"]) from error
    if not isinstance(module, nn.Module):
        raise ConfigError([f"{component.class_path} is no torch module"])
    return module


def output_strides(encoder: nn.Module) -> tuple[int, ...]:
    """By what each side of an image must be divisible."""
    strides: tuple[tuple[int, ...], ...] = encoder.strides  # type: ignore[assignment]
    return tuple(strides[-1])
