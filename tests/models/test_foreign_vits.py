"""Vision transformers of MONAI as its defaults build them, and positions that are not those here."""

from pathlib import Path
from typing import Any

import monai.networks.nets as monai_nets
import pytest
import torch
from torch import Tensor, nn

from medssl.imaging.errors import CheckpointError
from medssl.models.layouts import layout_of
from medssl.models.positions import sincos_positions
from medssl.models.vit import ViT
from medssl.models.weights import LoadReport, load_encoder

_SIZES = {"hidden_size": 12, "num_heads": 2}

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")  # MONAI's own positions

_MODULES: dict[str, Any] = {
    "ViT": lambda: monai_nets.ViT(1, [8, 8, 12], 4, mlp_dim=48, num_layers=2, **_SIZES),
    "UNETR": lambda: monai_nets.UNETR(1, 2, [32, 32, 48], feature_size=4, mlp_dim=48, **_SIZES),
    "ViTAutoEnc": lambda: monai_nets.ViTAutoEnc(1, [8, 8, 12], 4, 1, 4, mlp_dim=48, num_layers=2, **_SIZES),
    "MaskedAutoEncoderViT": lambda: monai_nets.MaskedAutoEncoderViT(
        1, [8, 8, 12], 4, mlp_dim=48, num_layers=2, **_SIZES
    ),
}


def _made(name: str) -> tuple[nn.Module, Any, ViT]:
    """A module of MONAI with weights that are none of the start, its transformer, and an encoder of its numbers."""
    torch.manual_seed(0)
    module: Any = _MODULES[name]()
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.data = 0.5 + torch.rand_like(parameter)
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = 1e-6
    inner = module.vit if name == "UNETR" else module
    depth, patch_size = (12, 16) if name == "UNETR" else (2, 4)
    return module, inner, ViT(3, 1, patch_size=patch_size, width=12, depth=depth, heads=2)


def _load(state: dict[str, Tensor], vit: ViT, folder: Path) -> LoadReport:
    torch.save(state, folder / "weights.pt")
    return load_encoder(nn.ModuleDict({"encoder": vit}), folder / "weights.pt")


def _features(inner: Any, token: Tensor, image: Tensor) -> Tensor:
    """Mean of the patch tokens that MONAI's parts compute behind a class token."""
    tokens = torch.cat([token.expand(len(image), -1, -1), inner.patch_embedding(image)], dim=1)
    for block in inner.blocks:  # of MaskedAutoEncoderViT the last is the norm
        tokens = block(tokens)
    normalised: Tensor = inner.norm(tokens) if hasattr(inner, "norm") else tokens
    return normalised[:, 1:].mean(1)


@pytest.mark.parametrize("name", _MODULES)
def test_with_defaults_all_is_the_same_but_class_token_and_positions(tmp_path: Path, name: str) -> None:
    module, inner, vit = _made(name)
    start = vit.tokens.detach().clone()
    assert "blocks.0.attn.qkv.bias" not in inner.state_dict()
    report = _load(module.state_dict(), vit, tmp_path)
    told = "\n".join(report.notes)
    assert "patch_embedding.position_embeddings of the file, learned or made otherwise, left out" in told
    assert "features differ" in told
    if name == "MaskedAutoEncoderViT":
        assert report.fresh == ()
        assert torch.equal(vit.tokens, inner.cls_token)
        assert len(report.notes) == 1
    else:
        assert report.fresh == ("encoder.tokens",)
        assert "no cls_token in the file" in told
        assert torch.equal(vit.tokens, start)
    image = torch.randn(2, 1, *(n * vit.patch_size[0] for n in (2, 2, 3)))
    with torch.no_grad():
        assert (_features(inner, vit.tokens, image) - vit.embed(image)).abs().max() > 1e-3, "positions are others"
        inner.patch_embedding.position_embeddings.copy_(sincos_positions((2, 2, 3), vit.width)[None])
        torch.testing.assert_close(_features(inner, vit.tokens, image), vit.embed(image), atol=1e-4, rtol=1e-4)


def test_a_module_with_narrower_hidden_layers_is_refused(tmp_path: Path) -> None:
    """As MaskedAutoEncoderViT by its defaults, 768 wide with 512 in the hidden layers."""
    module = monai_nets.MaskedAutoEncoderViT(1, [8, 8, 8], 4, mlp_dim=24, num_layers=2, **_SIZES)
    with pytest.raises(
        CheckpointError, match=r"fc1\.weight \(24, 12\) != \(48, 12\); .*hidden layers .* 4 x its width"
    ):
        _load(module.state_dict(), ViT(3, 1, patch_size=4, width=12, depth=2, heads=2), tmp_path)


def _timm(registers: int = 0) -> tuple[dict[str, Tensor], ViT]:
    vit = ViT(2, 1, patch_size=4, width=12, depth=2, heads=2, registers=registers)
    return layout_of(vit, "timm", (8, 12)).there(vit.state_dict()), vit


def test_positions_of_any_grid_that_are_those_here_are_not_told(tmp_path: Path) -> None:
    state, vit = _timm(registers=2)
    table = state["pos_embed"]
    assert _load(state, vit, tmp_path).notes == ()
    assert _load({**state, "pos_embed": table.half()}, vit, tmp_path).notes == ()
    with_tokens = torch.cat([torch.zeros(1, 3, 12), table], dim=1)  # as MAE's authors write them
    assert _load({**state, "pos_embed": with_tokens}, vit, tmp_path).notes == ()
    assert _load({**state, "pos_embed": sincos_positions((7, 5), 12)[None]}, vit, tmp_path).notes == ()


def test_other_positions_and_absent_tokens_are_told_of_timm_too(tmp_path: Path) -> None:
    state, vit = _timm()
    table = state["pos_embed"]
    on_the_token = torch.cat([torch.full((1, 1, 12), 0.1), table], dim=1)
    for other in (table + 0.02 * torch.randn_like(table), table[:, :, [*range(6, 12), *range(6)]], on_the_token):
        (told,) = _load({**state, "pos_embed": other}, vit, tmp_path).notes
        assert told.startswith("pos_embed of the file, learned or made otherwise, left out: positions here are fixed")
    without = {name: tensor for name, tensor in state.items() if name != "pos_embed"}
    (told,) = _load(without, vit, tmp_path).notes
    assert told.startswith("no pos_embed in the file: fixed positions are added here")
    without = {name: tensor for name, tensor in state.items() if name != "cls_token" and "qkv.bias" not in name}
    report = _load(without, vit, tmp_path)
    assert report.fresh == ("encoder.tokens",)
    assert not any(block.qkv.bias.any() for block in vit.blocks)
    with_registers, vit = _timm(registers=2)
    with pytest.raises(CheckpointError, match="cls_token"):
        _load({name: t for name, t in with_registers.items() if name != "cls_token"}, vit, tmp_path)


def test_encoders_that_differ_in_what_may_be_absent_are_two(tmp_path: Path) -> None:
    state, vit = _timm()
    both = {f"{name}.{key}": tensor for name in ("student", "teacher") for key, tensor in state.items()}
    changed = "teacher.cls_token"
    with pytest.raises(CheckpointError, match="two encoders of different weights"):
        _load({"student": torch.zeros(1), **both, changed: both[changed] + 1}, vit, tmp_path)
