"""Pretraining that goes on from an encoder of an earlier run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from monai.networks.nets import ViT as ViTOfMonai
from pretrain_toy import run
from safetensors.torch import load_file
from small_cache import small_cache

from medssl.commands.pretrain import pretrain
from medssl.imaging.errors import ConfigError
from medssl.imaging.files import sha256
from medssl.models.component import Component
from medssl.models.layouts import layout_of
from medssl.models.vit import ViT
from medssl.models.weights import read_encoder
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import ViewOptions


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return small_cache(tmp_path / "cache", [(40, 44), (48, 40)]).path


@pytest.fixture
def first(cache: Path, tmp_path: Path) -> Path:
    run(cache, tmp_path / "first", steps=3)
    return tmp_path / "first" / "encoder.safetensors"


def test_a_run_goes_on_from_an_encoder_and_says_so(cache: Path, first: Path, tmp_path: Path, capsys) -> None:
    capsys.readouterr()
    run(cache, tmp_path / "second", steps=1, lr=1e-12, size=(10, 10), init=first, seed=1)
    told = capsys.readouterr().err
    assert f"start: {first}: " in told
    before, after = load_file(first), load_file(tmp_path / "second" / "encoder.safetensors")
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-9, rtol=1e-6)
    described = json.loads((tmp_path / "second" / "run.json").read_text())
    assert described["init"]["loaded"] == list(before)
    assert not described["init"]["fresh"]
    provenance = read_encoder(tmp_path / "second" / "encoder.safetensors")[1]["provenance"]
    assert provenance["init"] == {"sha256": sha256(first)}
    run(cache, tmp_path / "third", steps=1, lr=1e-12, seed=1)
    fresh = load_file(tmp_path / "third" / "encoder.safetensors")
    assert any(not torch.allclose(fresh[name], tensor, atol=1e-4) for name, tensor in before.items())


def test_a_run_that_goes_on_must_go_on_from_the_same_encoder(cache: Path, first: Path, tmp_path: Path) -> None:
    run(cache, tmp_path / "second", steps=2, init=first)
    for wrong in (None, Path(shutil.copy(first.with_suffix(".json"), tmp_path)).with_suffix(".safetensors")):
        if wrong is not None:
            shutil.copy(first, wrong)
        with pytest.raises(ConfigError, match="init: the run has"):
            run(cache, tmp_path / "second", steps=4, init=wrong, resume=True)
    run(cache, tmp_path / "second", steps=4, init=first, resume=True)


def test_an_encoder_that_does_not_fit_is_refused_before_anything_is_written(
    cache: Path, first: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="does not fit this encoder"):
        run(cache, tmp_path / "second", encoder={"width": 6}, init=first)
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="was cut or edited"):
        run(cache, tmp_path / "second", init=first)
    assert not (tmp_path / "second").exists()


def test_an_encoder_that_cannot_be_used_is_told_with_all_other_reasons(cache: Path, tmp_path: Path) -> None:
    method = Component("medssl.methods.simclr.SimCLR", {"temperature": 0.0})
    vit = Component("medssl.models.vit.ViT", {"patch_size": 8, "width": 12, "depth": 1, "heads": 2})
    train, init = TrainOptions(steps=2, batch_size=4, accelerator="cpu"), tmp_path / "none.safetensors"
    with pytest.raises(ConfigError) as caught:
        pretrain(cache, tmp_path / "run", method, vit, ViewOptions((48, 64)), train, init=init)
    larger, missing, wrong = caught.value.problems
    assert "views.size (48, 64) is larger than every case along axis 1" in larger
    assert missing == f"{init} does not exist"
    assert "temperature must be positive" in wrong


def _train(data: Path, out: Path, size: int, momentum: float, init: Path | None, heads: int = 2) -> Path:
    method = Component("medssl.methods.dinov2.DINOv2", {"head": [8, 8, 12, 12], "schedule": [momentum, 0.3, 0.0]})
    vit = Component("medssl.models.vit.ViT", {"patch_size": 8, "width": 12, "depth": 1, "heads": heads})
    views = ViewOptions((size, size), local_views=2, local_size=(size // 2, size // 2))
    train = TrainOptions(steps=2, batch_size=4, lr=0.01, health_every=9, accelerator="cpu")
    pretrain(data, out, method, vit, views, train, init=init)
    return out / "encoder.safetensors"


def test_a_teacher_starts_from_the_encoder_too_and_larger_crops_need_nothing_else(cache: Path, tmp_path: Path) -> None:
    small = _train(cache, tmp_path / "small", 16, 0.5, None)
    large = _train(cache, tmp_path / "large", 32, 1.0, small)  # a teacher that stays what it was, and is kept
    before, after = load_file(small), load_file(large)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_an_encoder_that_would_compute_something_else_is_refused(cache: Path, tmp_path: Path) -> None:
    """All tensors fit."""
    first = _train(cache, tmp_path / "first", 16, 0.5, None)
    with pytest.raises(ConfigError, match="was pretrained with heads 2, here 3: its weights would fit"):
        _train(cache, tmp_path / "second", 16, 0.5, first, heads=3)
    assert not (tmp_path / "second").exists()


def test_a_run_starts_from_a_monai_checkpoint(cache: Path, tmp_path: Path) -> None:
    vit = ViT(2, 1, patch_size=8, width=12, depth=1, heads=2)
    state = layout_of(vit, "monai", (16, 16)).there(vit.state_dict())
    torch.save({"state_dict": {f"vit.{name}": tensor for name, tensor in state.items()}}, tmp_path / "monai.pt")
    kept = load_file(_train(cache, tmp_path / "run", 16, 1.0, tmp_path / "monai.pt"))  # the teacher stays what it was
    for name, tensor in vit.state_dict().items():
        assert torch.equal(kept[f"encoder.{name}"], tensor), name
    report = json.loads((tmp_path / "run" / "run.json").read_text())["init"]
    assert report["skipped"] == ["monai: vit.patch_embedding.position_embeddings"]  # fixed here


def test_what_a_monai_checkpoint_of_its_defaults_lacks_is_told(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ViTOfMonai(1, [16, 16], 8, 12, 48, 1, 2, spatial_dims=2)
    torch.save(module.state_dict(), tmp_path / "monai.pt")
    _train(cache, tmp_path / "run", 16, 1.0, tmp_path / "monai.pt")
    told = capsys.readouterr().err
    report = json.loads((tmp_path / "run" / "run.json").read_text())["init"]
    assert report["fresh"] == ["encoder.tokens"]
    assert [note.split(": ")[0] for note in report["notes"]] == [
        "no cls_token in the file",
        "patch_embedding.position_embeddings of the file, learned or made otherwise, left out",
    ]
    assert all(f"  note: {note}\n" in told for note in report["notes"])
