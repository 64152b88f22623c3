import json
from pathlib import Path

import pytest
import torch
from exported import features_there, make_run
from safetensors import safe_open

from medssl.__main__ import main
from medssl.export.foreign_encoder import write_foreign_encoder
from medssl.imaging.errors import ConfigError

_VIT = {"patch_size": 8, "width": 24, "depth": 3, "heads": 3}
_SWIN = {"patch_size": 2, "width": 8, "stages": [[1, 2], [1, 2]], "window": 2}
_UNET = {"features": [4, 8, 8], "blocks": [1, 1, 2]}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("vit.ViT", _VIT),
        ("resnet.ResNet", {"depth": 18, "width": 8}),
        ("resnet.ResNet", {"depth": 50, "width": 8}),
    ],
)
def test_monai_computes_the_same_features(tmp_path: Path, kind: str, arguments: dict, dims: int) -> None:
    run, encoder = make_run(tmp_path / "run", kind, dims, 2, **arguments)
    image = torch.randn(2, 2, *[32] * dims, generator=torch.Generator().manual_seed(0))
    found = features_there(run, "monai", tmp_path / "out.safetensors", image)
    with torch.no_grad():
        torch.testing.assert_close(found, encoder.embed(image), atol=1e-4, rtol=1e-4)


def test_another_size_has_its_own_positions(tmp_path: Path) -> None:
    run, encoder = make_run(tmp_path / "run", "vit.ViT", 3, 1, **_VIT)
    image = torch.randn(1, 1, 16, 40, 24, generator=torch.Generator().manual_seed(0))
    found = features_there(run, "monai", tmp_path / "out.safetensors", image, (16, 40, 24))
    with torch.no_grad():
        torch.testing.assert_close(found, encoder.embed(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [("vit.ViT", {**_VIT, "attention": "rope_sigma", "registers": 2}), ("unet.ResidualUNetEncoder", _UNET)],
)
def test_torch_is_the_plain_encoder(tmp_path: Path, kind: str, arguments: dict) -> None:
    run, encoder = make_run(tmp_path / "run", kind, 2, 1, **arguments)
    image = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    found = features_there(run, "torch", tmp_path / "out.safetensors", image)
    with torch.no_grad():
        assert torch.equal(found, encoder.embed(image))


@pytest.mark.parametrize(
    ("kind", "arguments", "dims", "library", "words"),
    [
        ("vit.ViT", {**_VIT, "attention": "rope"}, 2, "monai", "attention rope"),
        ("vit.ViT", {**_VIT, "attention": "sigma"}, 2, "timm", "sigma-reparam"),
        ("vit.ViT", {**_VIT, "registers": 2}, 3, "monai", "registers"),
        ("vit.ViT", _VIT, 3, "timm", "are 2D"),
        ("vit.ViT", _VIT, 2, "nnunet", "monai, timm and torch"),
        ("resnet.ResNet", {"depth": 10, "width": 8, "small": True}, 3, "monai", "small or rs"),
        ("resnet.ResNet", {"depth": 10, "width": 8, "norm": "group"}, 3, "monai", "group"),
        ("resnet.ResNet", {"depth": 10, "width": 8}, 2, "timm", "64 channels"),
        ("unet.ResidualUNetEncoder", _UNET, 3, "nnunet", "shortcut pooled"),
        ("unet.ResidualUNetEncoder", {**_UNET, "blocks": [0, 1, 1], "shortcut": "pooled"}, 3, "nnunet", "first level"),
        ("unet.ResidualUNetEncoder", _UNET, 3, "monai", "nnunet and torch"),
        ("swin.SwinV2", _SWIN, 3, "monai", "timm and torch"),
        ("swin.SwinV2", _SWIN, 3, "timm", "are 2D"),
        ("swin.SwinV2", {**_SWIN, "window": 5}, 2, "timm", r"\(16, 16\) patches in stage 1, which windows of \(5, 5\)"),
    ],
)  # fmt: skip
def test_what_no_module_computes_is_refused_with_the_reason(
    tmp_path: Path, kind: str, arguments: dict, dims: int, library: str, words: str
) -> None:
    run, _ = make_run(tmp_path / "run", kind, dims, 1, **arguments)
    with pytest.raises(ConfigError, match=words):
        write_foreign_encoder(run, library, (), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_the_command_reports_and_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = make_run(tmp_path / "run", "vit.ViT", 3, 1, **_VIT)
    out = tmp_path / "vit.safetensors"
    assert main(["export-encoder", str(run), "--to", "monai", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "patch_embed.weight -> patch_embedding.patch_embeddings.weight" in told
    assert "1 left out: no part of the encoder (decoder.head.weight)" in told
    assert "module.load_state_dict" in told
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["channels"]) == ["a"]
    for options, words in (
        (["--to", "monai", "--out", str(out)], "is there already"),
        (["--to", "monai", "--out", "x.pt"], "must end in .safetensors"),
        (["--to", "keras", "--out", "x.safetensors"], "to"),
        (["--to", "monai", "--out", "x.safetensors", "--size", "[8]"], "size needs 3 positive numbers"),
        (["--to", "monai", "--out", "x.safetensors", "--size", "[9, 8, 8]"], "does not divide"),
    ):
        assert main(["export-encoder", str(run), *options]) == 2
        assert words in capsys.readouterr().err
