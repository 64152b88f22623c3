"""An encoder file of a small network with random weights, written as pretraining writes it."""

from pathlib import Path
from typing import Any

import torch

from medssl.models.component import Component
from medssl.models.networks import build_encoder
from medssl.models.weights import save_encoder

_UNET = {"features": [4, 8], "blocks": [0, 1]}


def small_encoder(
    folder: Path, dims: int = 2, seed: int = 0, factor: float = 1.0, in_channels: int = 1, **meta: Any
) -> Path:
    """A folder with encoder.safetensors, like that of a pretraining run."""
    torch.manual_seed(seed)
    component = Component("medssl.models.unet.ResidualUNetEncoder", _UNET)
    described = Component(component.class_path, {**_UNET, "spatial_dims": dims, "in_channels": in_channels})
    meta = {
        "channels": [f"channel {c}" for c in range(in_channels)],
        "provenance": {"crop": [8] * dims},
        "method": {"class_path": "a.b.SimCLR"},
        **meta,
    }
    weights = {name: value * factor for name, value in build_encoder(component, dims, in_channels).state_dict().items()}
    save_encoder(folder / "encoder.safetensors", weights, None, {"encoder": described.to_json(), **meta})
    return folder
