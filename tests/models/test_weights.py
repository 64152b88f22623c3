"""Encoder files: round trip, fit to other channels, and refusal of what does not belong."""

import json
from pathlib import Path

import pytest
import torch

from medssl.imaging.errors import CheckpointError
from medssl.models.component import Component
from medssl.models.networks import Network, NetworkSpec, build_network
from medssl.models.weights import LoadReport, freeze, load_encoder, read_encoder, save_encoder

_UNET = Component("medssl.models.unet.ResidualUNetEncoder", {"features": [4, 8], "blocks": [0, 1]})
_VIT = Component("medssl.models.vit.ViT", {"patch_size": 4, "width": 24, "depth": 2, "heads": 2})


def _network(kind: str, dims: int = 2, channels: int = 1, classes: int = 3, **extra) -> Network:
    encoder = {"unet": _UNET, "vit": _VIT}[kind]
    decoder = Component(f"medssl.models.decoders.{'UNetDecoder' if kind == 'unet' else 'UNETRDecoder'}")
    encoder = Component(encoder.class_path, {**encoder.init_args, **extra})
    return build_network(NetworkSpec("segmentation", dims, channels, classes, encoder, decoder))


def _save(path: Path, network: Network, channels: int = 1, decoder: bool = True) -> Path:
    file = path / "encoder.safetensors"
    own = {k: v for k, v in network.decoder.state_dict().items() if not k.startswith("head.")} if decoder else None
    meta = {"encoder": _UNET.to_json(), "channels": [f"c{n}" for n in range(channels)]}
    save_encoder(file, network.encoder.state_dict(), own, meta)
    return file


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["unet", "vit"])
def test_round_trip(kind: str, dims: int, tmp_path: Path):
    torch.manual_seed(0)
    source, target = _network(kind, dims), _network(kind, dims, classes=5)
    report = load_encoder(target, _save(tmp_path, source))
    for name, tensor in source.encoder.state_dict().items():
        assert torch.equal(tensor, target.encoder.state_dict()[name])
    for name, tensor in source.decoder.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(tensor, target.decoder.state_dict()[name])
    assert set(report.fresh) == {"decoder.head.weight", "decoder.head.bias"}
    assert report.adapted == report.skipped == ()
    assert set(report.loaded) | set(report.fresh) == set(target.state_dict())


def test_decoder_is_left_on_request_or_where_it_does_not_fit(tmp_path: Path):
    source, target = _network("unet"), _network("unet")
    before = {k: v.clone() for k, v in target.decoder.state_dict().items()}
    report = load_encoder(target, _save(tmp_path, source), decoder=False)
    assert all(torch.equal(v, target.decoder.state_dict()[k]) for k, v in before.items())
    assert all(name.startswith("decoder.") for name in report.skipped)
    assert len(report.skipped) == len(before) - 2


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["unet", "vit"])
@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 4)])
def test_other_number_of_channels_keeps_the_response(kind: str, dims: int, before: int, after: int, tmp_path: Path):
    torch.manual_seed(0)
    source, target = _network(kind, dims, before).eval(), _network(kind, dims, after).eval()
    report = load_encoder(target, _save(tmp_path, source, before))
    assert len(report.adapted) == 1
    image = torch.randn(1, 1, *[8] * dims)
    same = [image.expand(-1, c, *image.shape[2:]) for c in (before, after)]
    for out, again in zip(source.encoder(same[0]), target.encoder(same[1]), strict=True):
        torch.testing.assert_close(out, again, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "extra"),
    [("unet", {"features": [4, 16]}), ("unet", {"blocks": [0, 2]}), ("vit", {"patch_size": 8}), ("vit", {"depth": 3})],
)
def test_another_architecture_is_refused_and_nothing_is_changed(kind: str, extra: dict, tmp_path: Path):
    target = _network(kind, **extra)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(CheckpointError, match="does not fit") as caught:
        load_encoder(target, _save(tmp_path, _network(kind)))
    assert caught.value.reason == "encoder-mismatch"
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: f.unlink(), "no-encoder"),
        (lambda f: f.with_suffix(".json").unlink(), "no-encoder"),
        (lambda f: f.write_bytes(f.read_bytes()[:-7]), "hash-mismatch"),
        (lambda f: f.write_bytes(f.read_bytes()[:-1] + b"x"), "hash-mismatch"),
        (lambda f: f.with_suffix(".json").write_text("{"), "bad-encoder"),
        (lambda f: f.with_suffix(".json").write_text("[]"), "bad-encoder"),
        (lambda f: f.with_suffix(".json").write_bytes(b"\xff\xfe"), "bad-encoder"),
        (
            lambda f: f.with_suffix(".json").write_text(
                f.with_suffix(".json").read_text().replace('"encoder":', '"e":')
            ),
            "bad-encoder",
        ),
    ],
)
def test_damaged_files_are_refused(damage, reason: str, tmp_path: Path):
    file = _save(tmp_path, _network("unet"))
    damage(file)
    with pytest.raises(CheckpointError) as caught:
        load_encoder(_network("unet"), file)
    assert caught.value.reason == reason


def test_newer_file_is_refused(tmp_path: Path):
    file = _save(tmp_path, _network("unet"))
    meta = json.loads(file.with_suffix(".json").read_text())
    file.with_suffix(".json").write_text(json.dumps({**meta, "schema_version": 99}))
    with pytest.raises(CheckpointError, match="99"):
        read_encoder(file)


def test_report_is_one_sentence():
    text = str(LoadReport(("a", "b"), (), tuple("cdefg"), ("h",)))
    assert text == "2 tensors loaded; 5 skipped (c, d, e, f, ...); 1 fresh (h)"


def test_freeze_and_count():
    module = torch.nn.Linear(3, 2)
    freeze(module, True)
    assert not any(p.requires_grad for p in module.parameters())
    freeze(module, False)
    assert all(p.requires_grad for p in module.parameters())
