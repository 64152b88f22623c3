import re
from pathlib import Path

import pytest
import torch
from small_cache import small_cache

from medssl.__main__ import main
from medssl.commands.parsing import parse_options, parse_verb
from medssl.methods.base import Method
from medssl.models.component import resolve
from medssl.models.layouts import layout_of
from medssl.models.weights import read_encoder
from medssl.training.components import build_component, completed
from medssl.training.pretraining import Settings

_PRETRAIN = Path(__file__).parents[2] / "configs" / "pretrain"
_CONFIGS = sorted(path for path in _PRETRAIN.glob("*.yaml") if "_mixed" not in path.stem)  # test_pretrain_mixed.py
_SMALL = [path for path in _CONFIGS if not path.stem.endswith("_gpu")]


def _settings(path: Path) -> Settings:
    given = parse_verb("pretrain", ["--config", str(path), "--data", "cache", "--out", "run"])
    return Settings(given["method"], given["encoder"], given["views"], given["train"])


@pytest.mark.parametrize("path", _CONFIGS, ids=lambda p: p.stem)
def test_every_configuration_fits_the_verb_and_builds_its_network(path):
    settings = _settings(path)
    settings.check()
    for varied in settings.views.augments.values():
        assert set(varied.flip_axes) <= set(range(len(settings.views.size)))
    facts = {"spatial_dims": len(settings.views.size), "in_channels": 2, "image_size": list(settings.views.size)}
    encoder = build_component("encoder", completed("encoder", settings.encoder, facts))
    run = {"seed": 0, "steps": settings.train.steps, "batch_size": settings.train.batch_size}
    build_component("method", completed("method", settings.method, run), encoder)
    header = path.read_text(encoding="utf-8").split("method:")[0]
    assert "Hardware:" in header
    assert "https://arxiv.org/abs/" in header
    assert ("not measured" in header) == path.stem.endswith("_gpu")


@pytest.mark.parametrize("name", ["spark_unet3d_gpu", "resenc_mae_unet3d_gpu"])
def test_what_is_pretrained_for_days_as_nnunets_encoder_can_be_written_for_it(name: str):
    settings = _settings(_PRETRAIN / f"{name}.yaml")
    with torch.device("meta"):
        encoder = build_component(
            "encoder", completed("encoder", settings.encoder, {"spatial_dims": 3, "in_channels": 1})
        )
    assert len(layout_of(encoder, "nnunet", settings.views.size).entries) == len(encoder.state_dict())


@pytest.mark.parametrize("path", _SMALL, ids=lambda p: p.stem)
def test_small_configurations_train_from_the_command_line(path, tmp_path, capsys):
    dims = 3 if "3d" in path.stem else 2
    data = small_cache(tmp_path / "cache", [(40, 50, 34)] * 2 if dims == 3 else [(136, 130)] * 2, labelled=[True, True])
    options = ["--train.steps", "2", "--train.warmup_steps", "1", "--views.min_std", "0"]
    if "swav" not in path.stem:  # it needs as many samples as balance its prototypes
        options += ["--train.batch_size", "2"]
    code = main(["pretrain", "--config", path.stem, "--data", str(data.path), "--out", str(tmp_path / "run"), *options])
    told = capsys.readouterr().err
    assert code == 0, told
    assert re.search(r"2 steps of \d+ crops", told)
    tensors, meta = read_encoder(tmp_path / "run" / "encoder.safetensors")
    assert meta["method"]["class_path"] in path.read_text(encoding="utf-8")
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    method = resolve(meta["method"]["class_path"])
    shown = method.views > 1 or method.reconstruction is not Method.reconstruction
    assert len(list((tmp_path / "run" / "health").glob("*.png"))) == 2 * shown  # before the first step and at the end


@pytest.mark.parametrize("config", ["volume_fusion_unet2d", "swin_unetr_swin2d"])
def test_a_single_crop_a_part_is_refused_where_crops_are_compared(config, tmp_path, capsys):
    data = small_cache(tmp_path / "cache", [(136, 130)] * 2)
    options = ["--train.steps", "2", "--train.warmup_steps", "0", "--train.batch_size", "2", "--train.accumulate", "2"]
    assert main(["pretrain", "--config", config, "--data", str(data.path), "--out", str(tmp_path / "run"), *options])
    told = capsys.readouterr().err
    assert "leaves fewer than 2 samples at a time" in told
    assert "Traceback" not in told
    assert not (tmp_path / "run").exists()


def test_wrong_options_are_told_in_one_message_without_a_traceback(tmp_path, capsys):
    wrong = ["--train.stepps", "5", "--train.lr", "fast"]
    code = main(["pretrain", "--config", "mae_vit3d", "--data", "nowhere", "--out", str(tmp_path / "run"), *wrong])
    told = capsys.readouterr().err
    assert code == 2
    assert "train.stepps" in told
    assert "train.lr" in told
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_a_missing_cache_is_told_and_nothing_is_written(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["pretrain", "--config", "mae_vit3d", "--data", str(tmp_path / "no"), "--out", str(out)]) == 2
    assert "medssl prepare" in capsys.readouterr().err
    assert not out.exists()


def test_an_output_that_cannot_be_written_is_told(tmp_path, capsys):
    data = small_cache(tmp_path / "cache", [(40, 36, 34)])
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    code = main(["pretrain", "--config", "mae_vit3d", "--data", str(data.path), "--out", str(out)])
    told = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in told
    assert str(tmp_path / "file") in told


def test_a_crop_that_does_not_divide_is_told_before_the_run_is_started(tmp_path, capsys):
    data = small_cache(tmp_path / "cache", [(40, 36, 34)])
    arguments = ["--data", str(data.path), "--out", str(tmp_path / "run"), "--views.size", "[30,32,32]"]
    assert main(["pretrain", "--config", "mae_vit3d", *arguments]) == 2
    assert "does not divide into patches" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_a_variation_leaves_out_is_off_in_every_view():
    views = {"size": [8, 8], "second": {"noise_p": 0.3}, "local_views": 2, "local_augment": {"blur_p": 0.5}}
    given = {"method": {"class_path": "medssl.methods.simclr.SimCLR"}, "views": {**views, "augment": {"gamma_p": 0.2}}}
    given["encoder"] = {"class_path": "medssl.models.resnet.ResNet"}
    read = parse_options("pretrain", ["--data", "cache", "--out", "out"], given)["views"]
    for varied, named in ((read.augment, "gamma_p"), (read.second, "noise_p"), (read.local_augment, "blur_p")):
        on = {name for name, value in varied.to_json().items() if name.endswith("_p") and value}
        assert on == {named, "affine_p"}
        assert (varied.rotation_deg, varied.scale) == (0.0, 0.2), "a change of scale alone"
