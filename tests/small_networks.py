"""Small networks of every kind that can be exported, and small encoders."""

import torch

from medssl.models.component import Component
from medssl.models.encoder import Encoder
from medssl.models.networks import Network, NetworkSpec, build_network
from medssl.models.resnet import ResNet
from medssl.models.swin import SwinV2
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.vit import ViT


def network_spec(kind: str, dims: int, channels: int = 1, classes: int = 3) -> NetworkSpec:
    """Description of a network that trains in no time."""
    vit = Component("medssl.models.vit.ViT", {"width": 24, "depth": 2, "heads": 2, "patch_size": 4})
    unet = Component("medssl.models.unet.ResidualUNetEncoder", {"features": [4, 8, 8], "blocks": [0, 1, 1]})
    swin = Component(
        "medssl.models.swin.SwinV2", {"patch_size": 2, "width": 8, "stages": [[2, 2], [1, 2]], "window": 3}
    )
    slices = Component("medssl.models.slices.SliceEncoder", {"slices": unet.to_json(), "sequence": [8, 1, 2]})
    encoder, decoder = {
        "slices": (slices, Component("medssl.models.decoders.UNetDecoder")),
        "unet": (unet, Component("medssl.models.decoders.UNetDecoder")),
        "swin": (swin, Component("medssl.models.decoders.UNetDecoder")),
        "vit": (vit, Component("medssl.models.decoders.UNETRDecoder", {"features": 4})),
        "linear": (vit, Component("medssl.models.dense_heads.LinearDecoder")),
        "fpn": (swin, Component("medssl.models.dense_heads.FPNDecoder", {"width": 8})),
        "classifier": (unet, Component("medssl.models.decoders.ClassificationHead")),
    }[kind]
    task = "classification" if kind == "classifier" else "segmentation"
    return NetworkSpec(task, dims, channels, classes, encoder, decoder)  # type: ignore[arg-type]


def network(kind: str, dims: int, seed: int = 0, channels: int = 1, classes: int = 3) -> Network:
    """Network with seeded weights that are not what the layers begin with."""
    torch.manual_seed(seed)
    made = build_network(network_spec(kind, dims, channels, classes))
    for parameter in made.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return made.eval().requires_grad_(False)


def small_encoder(kind: str, dims: int, channels: int = 1) -> Encoder:
    """A `vit`, `swin`, `resnet` or `unet` encoder for images of 8 voxels and more a side."""
    if kind == "swin":
        return SwinV2(dims, channels, patch_size=2, width=8, stages=[[2, 2], [1, 2]], window=3)
    if kind == "vit":
        return ViT(dims, channels, patch_size=4, width=12, depth=2, heads=2)
    if kind == "resnet":
        return ResNet(dims, channels, depth=10, width=4, small=True)
    return ResidualUNetEncoder(dims, channels, features=(4, 8), blocks=(0, 1))
