"""Encoders written for another library, and their features beside those of the other library's module."""

from pathlib import Path
from typing import Any

import torch

from medssl.export.foreign_encoder import write_foreign_encoder
from medssl.imaging.preprocess import Preprocess
from medssl.models.component import Component
from medssl.models.encoder import Encoder
from medssl.models.layouts import Library
from medssl.models.networks import build_encoder
from medssl.models.weights import save_encoder


def make_run(folder: Path, kind: str, dims: int, channels: int, **arguments: Any) -> tuple[Path, Encoder]:
    """A run's folder with an encoder of random weights, whose norms have seen something and attention is sharp."""
    torch.manual_seed(0)
    component = Component(f"medssl.models.{kind}", arguments)
    encoder = build_encoder(component, dims, channels)
    for name, tensor in encoder.state_dict().items():
        if tensor.ndim == 1 or name == "tokens":
            tensor.copy_((-0.5 if name.endswith("bias") else 0.5) + torch.rand_like(tensor))
        if ".attention." in name:  # so that positions, and which tokens are apart, show in the features
            tensor.copy_(torch.randn_like(tensor) + (5 if "log_scale" in name else 0))
    folder.mkdir()
    meta = {
        "encoder": component.to_json(),
        "method": {"class_path": "medssl.methods.mae.MAE", "init_args": {}},
        "preprocess": Preprocess(spatial_dims=dims).to_json(),
        "channels": ["a"] * channels,
        "provenance": {"crop": [32] * dims},
    }
    save_encoder(folder / "encoder.safetensors", encoder.state_dict(), {"head.weight": torch.zeros(2)}, meta)
    return folder, encoder.eval()


def features_there(run: Path, library: Library, out: Path, image: torch.Tensor, size: tuple[int, ...] = ()) -> Any:
    """Features that the other library's module computes, built and loaded by the snippet that the user is given."""
    written = write_foreign_encoder(run, library, size, out)
    code, _, features = written.snippet.rpartition("# features")
    names: dict[str, Any] = {}
    exec(f"{code}\nwith torch.no_grad():\n    features{features}", {"torch": torch, "image": image}, names)  # noqa: S102 (our own)
    return names["features"]
