"""Checkpoints under other libraries' names, with what such files have around them; the modules: tests/peers."""

from pathlib import Path
from typing import Any

import monai.networks.nets
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medssl.imaging.errors import CheckpointError
from medssl.models.encoder import Encoder
from medssl.models.layouts import layout_of
from medssl.models.resnet import ResNet
from medssl.models.swin import SwinV2
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.vit import ViT
from medssl.models.weights import load_encoder


def _encoder(kind: str, dims: int = 3, channels: int = 1, seed: int = 0, **given: Any) -> Encoder:
    torch.manual_seed(seed)
    if kind == "unet":
        return ResidualUNetEncoder(
            dims, channels, **{"features": [4, 8, 8], "blocks": [1, 2, 1], "shortcut": "pooled", **given}
        )
    if kind == "swin":
        return SwinV2(dims, channels, **{"patch_size": 2, "width": 8, "stages": [[1, 2], [2, 4]], "window": 4, **given})
    if kind == "resnet":
        return ResNet(dims, channels, depth=10, width=4)
    return ViT(dims, channels, patch_size=4, width=12, depth=2, heads=2, **given)


def _load(path: Path, encoder: Encoder) -> Any:
    return load_encoder(nn.ModuleDict({"encoder": encoder}), path)


@pytest.mark.parametrize(
    ("kind", "library", "dims"),
    [
        ("vit", "monai", 3),
        ("vit", "timm", 2),
        ("swin", "timm", 2),
        ("resnet", "monai", 3),
        ("unet", "nnunet", 3),
        ("unet", "nnunet", 2),
    ],
)
@pytest.mark.parametrize("wrapped", ["plain", "nested"])
def test_what_was_written_for_a_library_comes_back(
    tmp_path: Path, kind: str, library: Any, dims: int, wrapped: str
) -> None:
    there = _encoder(kind, dims, seed=1)
    state = layout_of(there, library, (8,) * dims).there(there.state_dict())
    state = {f"module.encoder.{name}": tensor.clone().contiguous() for name, tensor in state.items()}
    state["module.decoder.seg.weight"] = torch.zeros(3)
    path = tmp_path / ("weights.safetensors" if wrapped == "plain" else "weights.pt")
    if wrapped == "plain":
        save_file(state, path)
    else:
        torch.save({"epoch": 7, "network_weights": state, "optimizer": {"lr": 0.1}}, path)
    here = _encoder(kind, dims)
    report = _load(path, here)
    for name, tensor in there.state_dict().items():
        assert torch.equal(here.state_dict()[name], tensor), name
    assert len(report.loaded) == len(here.state_dict())
    assert report.fresh == ()
    assert f"{library}: module.decoder.seg.weight" in report.skipped


def test_nnunet_has_no_projection_where_a_level_is_as_wide_as_the_one_before() -> None:
    """Its ResEnc-L ends in two levels of 320 channels; names as in dynamic_network_architectures 0.4.4."""
    unet = _encoder("unet")
    names = layout_of(unet, "nnunet", (8, 8, 8)).there(unet.state_dict())
    projections = {name.split(".skip.")[0] for name in names if ".skip." in name}
    assert projections == {"stages.1.blocks.0"}
    assert {name.split(".skip.")[1][0] for name in names if ".skip." in name} == {"1"}, "behind the pooling"


def test_each_tensor_of_a_swin_has_one_place_in_timm() -> None:
    """Names and shapes as timm 1.0.22 to 1.0.31 give them; tests/peers loads them into its module."""
    swin = _encoder("swin", 2, 3)
    layout = layout_of(swin, "timm", (16, 16))
    state = layout.there(swin.state_dict())
    assert set(layout.names) == set(swin.state_dict())
    assert sum(len(places) for places in layout.names.values()) == len(state) + 3 * 2, "three tensors make one qkv"
    block = {
        name.removeprefix("layers.1.blocks.1."): tuple(t.shape) for name, t in state.items() if "1.blocks.1" in name
    }
    assert block == {
        **{f"{norm}.{part}": (16,) for norm in ("norm1", "norm2") for part in ("weight", "bias")},
        **{"attn.logit_scale": (4, 1, 1), "attn.q_bias": (16,), "attn.v_bias": (16,), "attn.qkv.weight": (48, 16)},
        **{"attn.cpb_mlp.0.weight": (512, 2), "attn.cpb_mlp.0.bias": (512,), "attn.cpb_mlp.2.weight": (4, 512)},
        **{"attn.proj.weight": (16, 16), "attn.proj.bias": (16,)},
        **{"mlp.fc1.weight": (64, 16), "mlp.fc1.bias": (64,), "mlp.fc2.weight": (16, 64), "mlp.fc2.bias": (16,)},
    }
    others = {name: tuple(tensor.shape) for name, tensor in state.items() if ".blocks." not in name}
    assert others == {
        **{"patch_embed.proj.weight": (8, 3, 2, 2), "patch_embed.proj.bias": (8,)},
        **{"patch_embed.norm.weight": (8,), "patch_embed.norm.bias": (8,), "norm.weight": (16,), "norm.bias": (16,)},
        **{"layers.1.downsample.reduction.weight": (16, 32)},
        **{"layers.1.downsample.norm.weight": (16,), "layers.1.downsample.norm.bias": (16,)},
    }


def test_timm_merges_neighbours_below_each_other_first() -> None:
    swin = _encoder("swin", 2)
    weight = layout_of(swin, "timm", (16, 16)).there(swin.state_dict())["layers.1.downsample.reduction.weight"]
    merge, tokens = swin.stages[1].merge, torch.randn(2, 4, 6, 8)
    merged = torch.cat([tokens[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=-1)
    torch.testing.assert_close(merge(tokens), merge.norm(merged @ weight.T))


def test_a_swin_under_microsofts_names_is_refused(tmp_path: Path) -> None:
    """There a stage ends with the merging that timm's next stage begins with."""
    swin = _encoder("swin", 2)
    state = layout_of(swin, "timm", (16, 16)).there(swin.state_dict())
    state = {name.replace("layers.1.down", "layers.0.down"): tensor.clone() for name, tensor in state.items()}
    save_file(state, tmp_path / "swin.safetensors")
    with pytest.raises(CheckpointError, match=r"3 of .* are not there, first layers\.1\.downsample"):
        _load(tmp_path / "swin.safetensors", _encoder("swin", 2))


def test_a_real_monai_module_is_read_and_its_learned_positions_are_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = monai.networks.nets.ViT(1, [8, 8, 8], [4, 4, 4], 12, 48, 2, 2, classification=True, qkv_bias=True)
    torch.save(module.state_dict(), tmp_path / "vit.pt")
    vit = _encoder("vit")
    report = _load(tmp_path / "vit.pt", vit)
    assert torch.equal(vit.state_dict()["blocks.1.fc2.weight"], module.blocks[1].mlp.linear2.weight)
    assert "monai: patch_embedding.position_embeddings" in report.skipped
    assert not any("cross_attn" in name for name in report.skipped)


def test_biases_before_a_batch_norm_are_taken_into_its_mean(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = monai.networks.nets.ResNet(
        "basic", [1, 1, 1, 1], [4, 8, 16, 32], n_input_channels=1, conv1_t_stride=2, feed_forward=False
    )
    for tensor in module.state_dict().values():
        if tensor.ndim == 1:
            tensor.copy_(0.5 + torch.rand_like(tensor))
    assert "layer2.0.downsample.0.bias" in module.state_dict()
    torch.save(module.state_dict(), tmp_path / "resnet.pt")
    here = _encoder("resnet")
    report = _load(tmp_path / "resnet.pt", here)
    assert report.skipped == ()
    image = torch.randn(2, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(here.eval().embed(image), module.eval()(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["vit", "swin", "unet"])
def test_other_channels_are_adapted_and_told(tmp_path: Path, kind: str) -> None:
    there, library = _encoder(kind, 2, 3), "nnunet" if kind == "unet" else "timm"
    state = layout_of(there, library, (16, 16)).there(there.state_dict())
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, tmp_path / "w.safetensors")
    here = _encoder(kind, 2, 1)
    report = _load(tmp_path / "w.safetensors", here)
    assert len(report.adapted) == 1
    grey = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(here.eval().embed(grey), there.eval().embed(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    ("library", "dims", "there", "here", "told"),
    [
        ("monai", 3, 8, 4, r"patches are \(8, 8, 8\) and those here \(4, 4, 4\): set patch_size to \[8, 8, 8\]"),
        ("monai", 3, (8, 8, 2), (2, 8, 8), r"patches are \(8, 8, 2\) and those here \(2, 8, 8\)"),
        ("timm", 2, 8, 4, r"patches are \(8, 8\)"),
        ("timm", 2, (8, 24), 8, r"patches are \(8, 24\)"),
    ],
)
def test_patches_of_another_size_are_no_other_channels(
    tmp_path: Path, library: Any, dims: int, there: Any, here: Any, told: str
) -> None:
    """Flattened, a kernel of 8^3 voxels looks like one of 4^3 with eight channels."""
    parts = {"width": 12, "depth": 1, "heads": 2}
    vit = ViT(dims, 3 if dims == 2 else 1, patch_size=there, **parts)
    state = layout_of(vit, library, (24,) * dims).there(vit.state_dict())
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=told):
        _load(tmp_path / "w.safetensors", ViT(dims, 1, patch_size=here, **parts))


def _resnet_with_excitation() -> dict[str, torch.Tensor]:
    resnet = ResNet(2, 1, depth=10, width=64)
    state = layout_of(resnet, "timm", (32, 32)).there(resnet.state_dict())
    return {**state, "layer1.0.se.fc1.weight": torch.ones(4, 64, 1, 1)}


def _written(encoder: Encoder, library: Any) -> dict[str, torch.Tensor]:
    return layout_of(encoder, library, (16,) * encoder.spatial_dims).there(encoder.state_dict())


_MORE = {
    "deeper": lambda: (_written(ViT(2, 1, patch_size=4, width=12, depth=3, heads=2), "timm"), _encoder("vit", 2)),
    "layer scale": lambda: (
        {**_written(_encoder("vit", 2), "timm"), "blocks.0.ls1.gamma": torch.full((12,), 1e-5)},
        _encoder("vit", 2),
    ),
    "registers": lambda: (_written(_encoder("vit", 2, registers=4), "timm"), _encoder("vit", 2)),
    "norm first": lambda: (
        {**_written(_encoder("vit", 2), "timm"), "norm_pre.weight": torch.ones(12)},
        _encoder("vit", 2),
    ),
    "excitation": lambda: (_resnet_with_excitation(), ResNet(2, 1, depth=10, width=64)),
    "resnet 18 in 10": lambda: (
        _written(ResNet(3, 1, depth=18, width=4), "monai"),
        _encoder("resnet"),
    ),
    "swin": lambda: (
        _written(_encoder("swin", 2, stages=[[1, 2], [3, 4]]), "timm"),
        _encoder("swin", 2),
    ),
    "levels": lambda: (
        _written(_encoder("unet", features=[4, 8, 8, 8], blocks=[1, 2, 1, 1]), "nnunet"),
        _encoder("unet"),
    ),
    "blocks": lambda: (_written(_encoder("unet", blocks=[1, 3, 1]), "nnunet"), _encoder("unet")),
}


@pytest.mark.parametrize("which", list(_MORE))
def test_an_encoder_with_more_parts_is_no_smaller_one(tmp_path: Path, which: str) -> None:
    """What would be left out computes in the other library: another function would come out of it."""
    state, here = _MORE[which]()
    save_file(
        {f"backbone.{name}": tensor.clone().contiguous() for name, tensor in state.items()}, tmp_path / "w.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"no place here, first backbone\..*Name the encoder with the numbers"):
        _load(tmp_path / "w.safetensors", here)


def test_what_lies_around_an_encoder_is_skipped_and_told(tmp_path: Path) -> None:
    vit, swin = _encoder("vit", 2, seed=1), _encoder("swin", 2, seed=1)
    around = ("mask_token", "head.weight", "fc_norm.weight", "decoder_blocks.0.norm1.weight", "decoder_norm.weight")
    tables = ("attn_mask", "attn.relative_coords_table", "attn.relative_position_index")
    for encoder, more in ((vit, around), (swin, [f"layers.0.blocks.0.{name}" for name in tables])):
        state = {**_written(encoder, "timm"), **{name: torch.ones(3) for name in more}}
        torch.save(state, tmp_path / "w.pt")
        here = _encoder("vit" if encoder is vit else "swin", 2)
        report = _load(tmp_path / "w.pt", here)
        assert {f"timm: {name}" for name in more} <= set(report.skipped)
        assert all(torch.equal(here.state_dict()[name], tensor) for name, tensor in encoder.state_dict().items())
    attention = {f"blocks.{n}.cross_attn.to_q.weight": torch.ones(12, 12) for n in range(2)}  # MONAI 1.4, never called
    torch.save({**_written(_encoder("vit"), "monai"), **attention}, tmp_path / "monai.pt")
    assert "monai: blocks.0.cross_attn.to_q.weight" in _load(tmp_path / "monai.pt", _encoder("vit")).skipped


def test_names_outside_the_encoder_do_not_take_its_place(tmp_path: Path) -> None:
    there = _encoder("resnet", seed=1)
    state = {f"encoder.{name}": tensor for name, tensor in _written(there, "monai").items()}
    torch.save({**state, "conv1.weight": torch.full_like(state["encoder.conv1.weight"], 7.0)}, tmp_path / "w.pt")
    here = _encoder("resnet")
    assert "monai: conv1.weight" in _load(tmp_path / "w.pt", here).skipped
    assert torch.equal(here.state_dict()["stem.0.0.weight"], there.state_dict()["stem.0.0.weight"])


def test_two_encoders_of_equal_standing_are_refused(tmp_path: Path) -> None:
    """MoCo's encoder_k and encoder_q: the alphabet would take the key encoder."""
    query = _written(_encoder("resnet", seed=1), "monai")
    key = {name: tensor + 1 for name, tensor in query.items()}
    state = {f"encoder_q.{n}": t for n, t in query.items()} | {f"encoder_k.{n}": t for n, t in key.items()}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"below 'encoder_k\.' and 'encoder_q\.'\. Save the tensors below one"):
        _load(tmp_path / "w.pt", _encoder("resnet"))
    torch.save({**state, **{f"encoder_k.{n}": t for n, t in query.items()}}, tmp_path / "w.pt")
    assert _load(tmp_path / "w.pt", _encoder("resnet")).skipped == ()


def test_what_cannot_be_taken_is_told(tmp_path: Path) -> None:
    vit = _encoder("vit")
    state = layout_of(vit, "monai", (8, 8, 8)).there(vit.state_dict())
    fewer = {name: tensor.clone().contiguous() for name, tensor in state.items() if "blocks.1.norm1" not in name}
    save_file(fewer, tmp_path / "fewer.safetensors")
    torch.save({"a": object}, tmp_path / "code.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    for name, words in (
        ("fewer.safetensors", "blocks.1.norm1.weight"),
        ("code.pt", "could run code"),
        ("empty.pt", "no tensors"),
        ("cut.pt", "damaged"),
        ("cut.safetensors", "damaged"),
        ("missing.pt", "does not exist"),
    ):
        with pytest.raises(CheckpointError, match=words):
            _load(tmp_path / name, _encoder("vit"))
    with pytest.raises(CheckpointError, match="attention rope"):
        _load(tmp_path / "fewer.safetensors", _encoder("vit", attention="rope"))
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, tmp_path / "wide.safetensors")
    with pytest.raises(CheckpointError, match="does not fit"):
        _load(tmp_path / "wide.safetensors", ViT(3, 1, patch_size=4, width=24, depth=2, heads=2))


def test_the_encoder_that_lies_in_the_decoder_a_second_time_is_not_told_as_skipped(tmp_path: Path) -> None:
    there = _encoder("unet", seed=1)
    state = layout_of(there, "nnunet", (8, 8, 8)).there(there.state_dict())
    twice = {f"{front}encoder.{name}": tensor for front in ("", "decoder.") for name, tensor in state.items()}
    twice["decoder.seg_layers.0.weight"] = torch.zeros(2, 4, 1, 1, 1)
    path = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": twice}, path)
    report = _load(path, _encoder("unet", seed=2))
    assert report.skipped == ("nnunet: decoder.seg_layers.0.weight",)
    changed = next(name for name in twice if name.startswith("decoder.encoder."))
    torch.save({"network_weights": {**twice, changed: twice[changed] + 1}}, path)
    assert f"nnunet: {changed}" in _load(path, _encoder("unet", seed=2)).skipped
