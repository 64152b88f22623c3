"""Run by `make test-peers`, in an environment of its own: both libraries need torchvision."""

from pathlib import Path

import pytest
import torch
from exported import features_there, make_run

_VIT = {"patch_size": 8, "width": 24, "depth": 3, "heads": 3}


def _compare(tmp_path: Path, library: str, kind: str, dims: int, arguments: dict) -> None:
    run, encoder = make_run(tmp_path / "run", kind, dims, 3, **arguments)
    image = torch.randn(2, 3, *[32] * dims, generator=torch.Generator().manual_seed(0))
    found = features_there(run, library, tmp_path / "out.safetensors", image)
    with torch.no_grad():
        torch.testing.assert_close(found, encoder.embed(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("vit.ViT", _VIT),
        ("vit.ViT", {**_VIT, "registers": 4}),
        ("resnet.ResNet", {"depth": 18}),
        ("resnet.ResNet", {"depth": 50}),
    ],
)
def test_timm_computes_the_same_features(tmp_path: Path, kind: str, arguments: dict) -> None:
    pytest.importorskip("timm", reason="timm is tested by make test-peers")
    _compare(tmp_path, "timm", kind, 2, arguments)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("strides", [None, [1, 2, 1]])
@pytest.mark.parametrize("features", [[8, 16, 24], [8, 16, 16]], ids=["widening", "as wide as before"])
def test_nnunet_computes_the_same_features(
    tmp_path: Path, dims: int, strides: list | None, features: list[int]
) -> None:
    pytest.importorskip("dynamic_network_architectures", reason="nnU-Net is tested by make test-peers")
    arguments = {"features": features, "blocks": [1, 3, 2], "strides": strides, "shortcut": "pooled"}
    _compare(tmp_path, "nnunet", "unet.ResidualUNetEncoder", dims, arguments)
