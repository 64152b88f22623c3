"""From two caches to fine-tuned networks in 2D and 3D through the command line, with the configurations as they are."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from small_cache import small_cache

from medssl.__main__ import main
from medssl.commands.parsing import parse_verb
from medssl.models.weights import read_encoder
from medssl.training.components import build_component, completed
from medssl.training.pretrain_job import Settings

_CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "pretrain").glob("*_mixed*.yaml"))
_SMALL = [path for path in _CONFIGS if not path.stem.endswith("_gpu")]


@pytest.mark.parametrize("path", _CONFIGS, ids=lambda p: p.stem)
def test_every_configuration_fits_the_verb_and_builds_its_network(path: Path) -> None:
    given = parse_verb("pretrain", ["--config", str(path), "--data", "flat", "--also.data", "deep", "--out", "run"])
    settings = Settings(given["method"], given["encoder"], given["views"], given["train"], None, given["also"])
    settings.check()
    assert (len(settings.views.size), len(settings.also.views.size)) == (2, 3)
    facts = {"spatial_dims": 3, "in_channels": 2}
    encoder = build_component("encoder", completed("encoder", settings.encoder, facts))
    run = {"seed": 0, "steps": settings.train.steps, "batch_size": settings.train.batch_size}
    build_component("method", completed("method", settings.method, run), encoder)
    header = path.read_text(encoding="utf-8").split("method:")[0]
    assert "Hardware:" in header
    assert "https://arxiv.org/abs/" in header
    assert "--also.data" in header
    assert ("not measured" in header) == path.stem.endswith("_gpu")
    if path.stem.endswith("_gpu"):
        assert settings.train.strategy == "ddp_find_unused_parameters_true"


@pytest.mark.parametrize("path", _SMALL, ids=lambda p: p.stem)
def test_small_configurations_train_and_are_fine_tuned_in_either_dimension(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caches = {
        dims: small_cache(
            tmp_path / f"cache{dims}", shapes, labelled=[True] * 3, classes=["a", "b"], splits=["train", "train", "val"]
        ).path
        for dims, shapes in ((2, [(70, 66)] * 3), (3, [(36, 34, 33)] * 3))
    }
    options = ["--train.steps", "4", "--train.warmup_steps", "1", "--views.min_std", "0", "--also.views.min_std", "0"]
    options += [
        "--also.batch_size",
        "4",
        "--train.log_every",
        "2",
        "--train.batch_size",
        "16",
        "--out",
        str(tmp_path / "run"),
    ]
    code = main(["pretrain", "--config", path.stem, "--data", str(caches[2]), "--also.data", str(caches[3]), *options])
    told = capsys.readouterr().err
    assert code == 0, told
    assert "encoder_2d.safetensors" in told
    assert "encoder_3d.safetensors" in told
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    views = (described["config"]["views"], described["config"]["also"]["views"])
    assert {v["augment"]["noise_p"] == 0 for v in views} == {"masked" in path.read_text(encoding="utf-8").lower()}
    for dims, data in caches.items():
        init = tmp_path / "run" / f"encoder_{dims}d.safetensors"
        assert all(torch.isfinite(tensor).all() for tensor in read_encoder(init)[0].values())
        _finetune(data, init, [64, 64, 32][:dims], tmp_path / f"tuned{dims}")
        report = json.loads((tmp_path / f"tuned{dims}" / "run.json").read_text())["transfer"]
        assert len(report["loaded"]) == len(read_encoder(init)[0])
        assert report["skipped"] == report["adapted"] == []


def _finetune(data: Path, init: Path, crop: list[int], out: Path) -> None:
    content = {
        "task": "classification",
        "loss": "ce",
        "network": {"decoder": {"class_path": "medssl.models.decoders.ClassificationHead"}},
        "crops": {"size": crop, "foreground": 0.0},
        "train": {"steps": 2, "batch_size": 2, "accelerator": "cpu"},
    }
    config = out.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(content))
    assert main(["finetune", "--config", str(config), "--data", str(data), "--init", str(init), "--out", str(out)]) == 0
    assert (out / "model.safetensors").is_file()


def test_all_mistakes_are_told_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["--train.lr", "-1", "--also.views.size", "[8]", "--also.stepps", "3"]
    code = main(["pretrain", "--config", "uni4eye_vit_mixed", "--data", "none", "--out", str(tmp_path / "run"), *wrong])
    told = capsys.readouterr().err
    assert code == 2
    assert "also.stepps is unknown" in told
    assert "train.lr must be positive" in told
    assert "also.views.size needs 2 or 3 positive numbers, got (8,)" in told
    assert "Traceback" not in told
