"""Run by `make test-peers`, in an environment of its own: both libraries need torchvision."""

from pathlib import Path

import pytest
import torch
from exported import features_there, make_run
from safetensors.torch import save_file

from medssl.models.component import Component
from medssl.models.encoder import Encoder
from medssl.models.networks import build_encoder
from medssl.models.swin import SwinV2
from medssl.models.weights import load_encoder

_VIT = {"patch_size": 8, "width": 24, "depth": 3, "heads": 3}
_SWIN = {"patch_size": 2, "width": 12, "stages": [[2, 2], [3, 3], [2, 4]], "window": 4}
_BASE = {"width": 128, "stages": [[2, 4], [2, 8], [18, 16], [2, 32]]}


def _compare(
    tmp_path: Path, library: str, kind: str, dims: int, arguments: dict, size: tuple[int, ...] = ()
) -> Encoder:
    run, encoder = make_run(tmp_path / "run", kind, dims, 3, **arguments)
    image = torch.randn(2, 3, *(size or [32] * dims), generator=torch.Generator().manual_seed(0))
    found = features_there(run, library, tmp_path / "out.safetensors", image, size)
    with torch.no_grad():
        torch.testing.assert_close(found, encoder.embed(image), atol=1e-4, rtol=1e-4)
    return encoder


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


@pytest.mark.parametrize(
    ("changed", "size"),
    [
        ({}, (32, 32)),
        ({"window": 8, "pretrained_window": 4}, (64, 32)),
        ({"window": 16}, (64, 64)),
        ({"window": [4, 2], "patch_size": [2, 4]}, (32, 64)),
        ({"stages": [[2, 12], [2, 24]]}, (32, 32)),
        ({"stages": [[2, 2], [0, 1]]}, (32, 32)),
    ],
    ids=["small", "window before", "window beyond the last grids", "by axis", "cosines of 1 and -1", "no blocks"],
)
def test_timm_computes_the_same_features_of_swin(tmp_path: Path, changed: dict, size: tuple[int, int]) -> None:
    """Scales are near 100: with cosines of 1 and -1, a mask of -100, timm's own, lets tokens through that are apart."""
    pytest.importorskip("timm", reason="timm is tested by make test-peers")
    encoder = _compare(tmp_path, "timm", "swin.SwinV2", 2, {**_SWIN, **changed}, size)
    fresh = build_encoder(Component("medssl.models.swin.SwinV2", {**_SWIN, **changed}), 2, 3)
    report = load_encoder(torch.nn.ModuleDict({"encoder": fresh}), tmp_path / "out.safetensors")
    assert (report.adapted, report.skipped, report.fresh) == ((), (), ())
    assert all(torch.equal(fresh.state_dict()[name], tensor) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("swinv2_tiny_window8_256", {"window": 8}),
        ("swinv2_tiny_window16_256", {"window": 16, "pretrained_window": [[16, 16]] * 3 + [[8, 8]]}),
        ("swinv2_base_window12to16_192to256", {**_BASE, "window": 16, "pretrained_window": [[12, 12]] * 3 + [[6, 6]]}),
    ],
)
def test_a_published_swin_of_timm_is_read_and_computes_the_same(tmp_path: Path, name: str, arguments: dict) -> None:
    """Its names and shapes with weights of our own: what is published is not downloaded."""
    timm = pytest.importorskip("timm", reason="timm is tested by make test-peers")
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=5).eval()
    for place, parameter in module.named_parameters():
        if parameter.ndim == 1:
            parameter.data = (-0.5 if place.endswith("bias") else 0.5) + torch.rand_like(parameter)
        elif "cpb_mlp" in place:
            parameter.data = 0.3 * torch.randn_like(parameter)
    save_file(module.state_dict(), tmp_path / "swin.safetensors")
    encoder = SwinV2(2, 3, **arguments).eval()
    report = load_encoder(torch.nn.ModuleDict({"encoder": encoder}), tmp_path / "swin.safetensors")
    assert set(report.skipped) == {"timm: head.fc.weight", "timm: head.fc.bias"}
    assert len(report.loaded) == len(encoder.state_dict())
    image = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        found, wanted = encoder.embed(image), module.forward_head(module.forward_features(image), pre_logits=True)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("strides", [None, [1, 2, 1]])
@pytest.mark.parametrize("features", [[8, 16, 24], [8, 16, 16]], ids=["widening", "as wide as before"])
def test_nnunet_computes_the_same_features(
    tmp_path: Path, dims: int, strides: list | None, features: list[int]
) -> None:
    pytest.importorskip("dynamic_network_architectures", reason="nnU-Net is tested by make test-peers")
    arguments = {"features": features, "blocks": [1, 3, 2], "strides": strides, "shortcut": "pooled"}
    _compare(tmp_path, "nnunet", "unet.ResidualUNetEncoder", dims, arguments)
