import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from phantoms import phantom_cache, texture_cache
from safetensors.torch import load_file
from smallest_encoders import UNET, VIT

from medssl.__main__ import main
from medssl.commands.parsing import parse_verb
from medssl.data.augment_options import AugmentOptions
from medssl.data.cache import Cache
from medssl.imaging.files import write_json
from medssl.models.component import Component
from medssl.models.layouts import layout_of
from medssl.models.networks import build_encoder
from medssl.models.weights import save_encoder
from medssl.tasks.inference import classify_image, segment_image
from medssl.tasks.model_file import load_model, model_folders
from medssl.tasks.options import CropOptions, InferenceOptions, NetworkOptions, SubsetOptions, TransferOptions
from medssl.tasks.segmentation import dice, voxel_counts
from medssl.training.finetune_job import assemble, build_job
from medssl.training.finetune_settings import Settings
from medssl.training.loop import launch
from medssl.training.options import TrainOptions

_CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "finetune").glob("*.yaml"))
_UNET_DECODER = {"class_path": "medssl.models.decoders.UNetDecoder"}

Finetune = Callable[..., int]


def _metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["unet", "vit"])
def test_a_segmentation_run_leaves_a_model_that_scores_as_it_says(
    finetune: Finetune, cache: Cache, tmp_path: Path, kind: str
) -> None:
    assert finetune(cache, tmp_path / "run", kind, train__validate_every=2, train__ema_decay=0.9) == 0
    (folder,) = model_folders(tmp_path / "run")
    network, spec = load_model(folder)
    assert spec.window == (16,) * cache.spatial_dims
    assert spec.preprocess == cache.preprocess
    found = [
        dice(voxel_counts(segment_image([network], spec, cache.image(case)), cache.label(case), [1, 2]))
        for case in cache.select("val")
    ]
    assert spec.validation["dice"] == pytest.approx(np.mean(found))
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["status"] == "finished"
    assert run["patients"]["train"] == ["p0", "p1", "p2", "p3"]
    assert run["patients"]["validation"] == ["p4", "p5"]
    scores = {row["step"]: row["val/dice"] for row in _metrics(tmp_path / "run") if "val/dice" in row}
    assert sorted(scores) == [2, 3]
    best = max(scores.values())
    assert run["kept_step"] == min(step for step, value in scores.items() if value == best)
    assert spec.validation["dice"] == pytest.approx(best)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["unet_class", "vit_class"])
def test_a_classification_run_leaves_a_model(finetune: Finetune, tmp_path: Path, kind: str, dims: int) -> None:
    cache = texture_cache(tmp_path / "cache", dims, 8)
    assert finetune(cache, tmp_path / "run", kind, loss="bce", crops__foreground=0) == 0
    network, spec = load_model(tmp_path / "run")
    assert spec.classes == ("fine", "smooth")
    assert spec.labels == ()
    assert set(spec.validation) == {"auroc", "balanced_accuracy", "log_loss"}
    assert spec.activation == "sigmoid", "bce trains each class for itself"
    shares = classify_image([network], spec, cache.image(cache.cases[0]))
    assert shares.shape == (2,)
    assert (shares > 0).all()
    assert (shares < 1).all()


def test_label_augmentation_leaves_a_plain_model(finetune: Finetune, tmp_path: Path) -> None:
    cache = texture_cache(tmp_path / "cache", 2, 8)
    options = {"crops__foreground": 0, "label_augment__transforms": "quarter_turns", "train__log_every": 1}
    assert finetune(cache, tmp_path / "run", "unet_class", **options) == 0
    network, spec = load_model(tmp_path / "run")
    assert spec.network.out_channels == 2
    assert not any("joint" in name for name in network.state_dict())
    assert {"joint_loss", "class_loss", "distillation_loss"} <= set(_metrics(tmp_path / "run")[0])
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["config"]["label_augment"]["transforms"] == "quarter_turns"


def _encoder_file(
    folder: Path, dims: int, channels: tuple[str, ...] = ("T1",), norm: str = "instance", **meta: Any
) -> Path:
    torch.manual_seed(99)
    component = Component("medssl.models.unet.ResidualUNetEncoder", {**UNET, "norm": norm})
    encoder = build_encoder(component, dims, len(channels))
    arguments = {**component.init_args, "spatial_dims": dims, "in_channels": len(channels)}  # as pretraining writes it
    described = {"encoder": Component(component.class_path, arguments).to_json(), "channels": list(channels), **meta}
    decoder = {"head.bias": torch.tensor([5.0, 6.0, 7.0])}
    save_encoder(folder / "encoder.safetensors", encoder.state_dict(), decoder, described)
    return folder / "encoder.safetensors"


def _encoder_of(folder: Path, name: str) -> dict[str, torch.Tensor]:
    weights = load_file(folder / name)
    prefix = "network.encoder." if name.startswith("checkpoints") else "encoder."
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


@pytest.mark.parametrize("decoder", [True, False])
def test_pretrained_weights_arrive_and_the_report_is_kept(
    finetune: Finetune, flat: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str], decoder: bool
) -> None:
    """With a learning rate of next to nothing the model is what it was given."""
    file = _encoder_file(tmp_path, 2)
    run = tmp_path / "run"
    if decoder:
        (file.parent / "run.json").write_text(json.dumps({"patients": {"pretraining": ["p1", "elsewhere"]}}))
    given = {"init": file, "train__lr": 1e-12, "train__weight_decay": 0, "transfer__decoder": decoder}
    assert finetune(flat, run, network__encoder=None, **given) == 0
    kept = _encoder_of(run, "model.safetensors")
    for name, tensor in load_file(file).items():
        if name.startswith("encoder."):
            torch.testing.assert_close(kept[name.removeprefix("encoder.")], tensor, rtol=0, atol=1e-9)
    bias = load_file(run / "model.safetensors")["decoder.head.bias"]
    assert torch.allclose(bias, torch.tensor([5.0, 6.0, 7.0])) == decoder
    told = json.loads((run / "run.json").read_text())
    assert told["patients"]["pretraining"] == (["p1", "elsewhere"] if decoder else None)
    report = told["transfer"]
    assert ("decoder.head.bias" in report["loaded"]) == decoder
    assert len([name for name in report["loaded"] if name.startswith("encoder.")]) == len(kept)
    assert f"{len(report['loaded'])} tensors loaded" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("adapt", ["lora", "bitfit"])
def test_few_weights_are_trained_and_the_model_is_a_plain_one(
    finetune: Finetune, flat: Cache, tmp_path: Path, adapt: str
) -> None:
    if adapt == "lora":
        pytest.importorskip("peft", reason="the extra peft is not installed")
    file = _encoder_file(tmp_path, 2, norm="batch")
    given = {"init": file, "transfer__adapt": adapt, "network__encoder": None}
    given |= {"transfer__lora": [2, 4, 0.1]} if adapt == "lora" else {}
    given |= {"train__checkpoint_every": 2, "train__lr": 0.01}
    assert finetune(flat, tmp_path / "whole", **given, train__steps=4, inference__choose="last") == 0
    kept = _encoder_of(tmp_path / "whole", "model.safetensors")
    before = {n.removeprefix("encoder."): t for n, t in load_file(file).items() if n.startswith("encoder.")}
    assert set(kept) == set(before)
    moved = {name for name, tensor in kept.items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all(name.endswith("bias") or adapt == "lora" for name in moved)
    assert not any("norm" in name and name.endswith("weight") for name in moved)
    assert "stem.norm.running_mean" in kept
    assert not any("running" in name for name in moved), "statistics of batch norm are not among the few"
    network, spec = load_model(tmp_path / "whole")
    found = [
        dice(voxel_counts(segment_image([network], spec, flat.image(case)), flat.label(case), [1, 2]))
        for case in flat.select("val")
    ]
    assert spec.validation["dice"] == pytest.approx(np.mean(found))  # scored with the changes merged


@pytest.mark.parametrize("kind", ["unet", "vit"])
def test_the_learning_rate_falls_from_layer_to_layer_of_the_encoder_alone(flat: Cache, kind: str) -> None:
    encoder, decoder = {
        "unet": (Component("medssl.models.unet.ResidualUNetEncoder", UNET), "UNetDecoder"),
        "vit": (Component("medssl.models.vit.ViT", VIT), "UNETRDecoder"),
    }[kind]
    network = NetworkOptions(encoder, Component(f"medssl.models.decoders.{decoder}"))
    train = TrainOptions(accelerator="cpu", layer_decay=0.5, lr=0.01, undecayed_lr=0.005)
    parts = (CropOptions((16, 16)), TransferOptions(encoder_lr=0.1), AugmentOptions(), InferenceOptions(), train)
    settings = Settings("segmentation", "ce", network, *parts, SubsetOptions())
    tuning = assemble(settings, flat, launch(train))
    scales = {name: group.scale for group in build_job(tuning, tuning.shares[0]).groups for name in group.names}
    first, middle, last = {
        "unet": ("stem.conv.weight", "stages.1.0.conv.weight", "stages.2.0.conv.weight"),
        "vit": ("patch_embed.weight", "blocks.0.qkv.weight", "blocks.1.qkv.weight"),
    }[kind]
    assert scales["network.decoder.head.weight"] == 1
    assert scales["network.decoder.head.bias"] == 0.5
    assert scales[f"network.encoder.{middle}"] == scales[f"network.encoder.{last}"] / 2
    assert scales[f"network.encoder.{first}"] < scales[f"network.encoder.{middle}"] < 0.1


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize(
    ("options", "moves"),
    [({"encoder_lr": 0}, False), ({"frozen_steps": 2}, True), ({}, True)],
)
def test_a_frozen_encoder_does_not_move_and_the_decoder_does(
    finetune: Finetune, flat: Cache, tmp_path: Path, options: dict[str, Any], moves: bool, norm: str
) -> None:
    """Not a bit of it, statistics of batch norm included, until it thaws."""
    file = _encoder_file(tmp_path, 2, norm=norm)
    given: dict[str, Any] = {f"transfer__{name}": value for name, value in options.items()}
    given |= {"network__encoder": None, "inference__choose": "last", "train__weight_decay": 0.1}
    assert finetune(flat, tmp_path / "run", init=file, **given) == 0
    after = _encoder_of(tmp_path / "run", "model.safetensors")
    before = {n.removeprefix("encoder."): t for n, t in load_file(file).items() if n.startswith("encoder.")}
    assert all(torch.equal(before[name], after[name]) for name in before) is not moves
    statistics = [name for name in after if "running" in name]
    assert bool(statistics) == (norm == "batch")
    assert all(torch.equal(before[name], after[name]) is not moves for name in statistics)
    decoder = load_file(tmp_path / "run" / "model.safetensors")["decoder.head.bias"]
    assert not torch.equal(decoder, torch.tensor([5.0, 6.0, 7.0]))


def test_a_cache_with_exchanged_classes_is_not_resumed_on(
    finetune: Finetune, flat: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its originals, and so `data_sha256`, are the same."""
    assert finetune(flat, tmp_path / "run", train__steps=1) == 0
    content = json.loads((flat.path / "cache.json").read_text())
    shutil.copytree(flat.path, tmp_path / "other")
    write_json(tmp_path / "other" / "cache.json", {**content, "label_map": {"1": 2, "2": 1}})
    other = Cache.open(tmp_path / "other")
    assert other.data_sha256 == flat.data_sha256
    assert finetune(other, tmp_path / "run", train__steps=2, resume=True) != 0
    assert "label_map {} when the run began, now {'1': 2, '2': 1}" in capsys.readouterr().err
    assert finetune(flat, tmp_path / "run", train__steps=2, resume=True) == 0


def _same_when_cut(finetune: Finetune, cache: Cache, folder: Path, given: dict[str, Any]) -> None:
    assert finetune(cache, folder / "whole", **given) == 0
    assert finetune(cache, folder / "cut", **given, train__time_limit_min=1e-9) == 0
    assert json.loads((folder / "cut" / "run.json").read_text())["step"] == 1
    assert finetune(cache, folder / "cut", **given, resume=True) == 0
    whole, cut = (load_file(folder / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_run_stopped_while_its_encoder_was_frozen_ends_with_the_same_model(
    finetune: Finetune, flat: Cache, tmp_path: Path
) -> None:
    given = {"init": _encoder_file(tmp_path, 2, norm="batch"), "network__encoder": None, "transfer__frozen_steps": 2}
    given |= {"train__steps": 4, "train__ema_decay": 0.9}
    _same_when_cut(finetune, flat, tmp_path, given)


def test_last_keeps_the_end_of_the_training(finetune: Finetune, flat: Cache, tmp_path: Path) -> None:
    """A training that ruins the network: `best` goes back, `last` does not."""
    given = {"train__lr": 1.0, "train__steps": 6, "train__validate_every": 1, "train__schedule": "constant"}
    assert finetune(flat, tmp_path / "best", **given) == 0
    assert finetune(flat, tmp_path / "last", **given, inference__choose="last") == 0
    scores = [row["val/dice"] for row in _metrics(tmp_path / "best") if "val/dice" in row]
    assert scores == [row["val/dice"] for row in _metrics(tmp_path / "last") if "val/dice" in row]
    (_, best), (_, last) = load_model(tmp_path / "best"), load_model(tmp_path / "last")
    assert best.validation["dice"] == pytest.approx(max(scores))
    assert last.validation["dice"] == pytest.approx(scores[-1])
    assert best.provenance["step"] == scores.index(max(scores)) + 1
    assert last.provenance["step"] == 6
    assert not list((tmp_path / "last" / "checkpoints").glob("best*"))


def test_fewer_validation_cases_in_training_and_all_of_them_at_the_end(
    finetune: Finetune, flat: Cache, tmp_path: Path
) -> None:
    assert finetune(flat, tmp_path / "run", inference__cases=1) == 0
    network, spec = load_model(tmp_path / "run")
    found = [
        dice(voxel_counts(segment_image([network], spec, flat.image(case)), flat.label(case), [1, 2])).mean()
        for case in flat.select("val")
    ]
    assert _metrics(tmp_path / "run")[-1]["val/dice"] == pytest.approx(found[1])
    assert spec.validation["dice"] == pytest.approx(np.mean(found))
    assert found[0] != found[1]


def test_without_validation_cases_the_end_is_kept_and_that_is_said(
    finetune: Finetune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = phantom_cache(tmp_path / "cache", 2, 3, held=0)
    assert finetune(cache, tmp_path / "run") == 0
    assert load_model(tmp_path / "run")[1].validation == {}
    assert "kept: the weights at the end" in capsys.readouterr().err


@pytest.mark.parametrize("cases", [0, 1])
def test_validation_cases_of_one_class_choose_nothing(
    finetune: Finetune, tmp_path: Path, capsys: pytest.CaptureFixture[str], cases: int
) -> None:
    """Every look would find the same score, and the first weights would be kept."""
    cache = texture_cache(tmp_path / "cache", 2, 8)
    for case in cache.select("val"):
        if case.class_name == "smooth" and not cases:
            write_json(cache.path / "cases" / case.case / "case.json", replace(case, split="").to_json())
    given = {"inference__cases": cases, "crops__foreground": 0, "train__steps": 4, "train__validate_every": 1}
    assert finetune(Cache.open(cache.path), tmp_path / "run", "unet_class", **given) == 0
    assert "kept: the weights at the end, because the validation cases are of one class" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["kept_step"] == 4
    assert ("auroc" in load_model(tmp_path / "run")[1].validation) is bool(cases), "all cases are scored at the end"


def test_a_run_stopped_half_way_ends_with_the_same_model(finetune: Finetune, cache: Cache, tmp_path: Path) -> None:
    """Augmentation, average, optimiser and best weights go on as if nothing had happened."""
    given: dict[str, Any] = {
        "train__steps": 6, "train__ema_decay": 0.9, "train__checkpoint_every": 2, "train__validate_every": 2,
        "augment__affine_p": 1, "augment__noise_p": 1, "augment__flip_axes": [0],
    }  # fmt: skip
    _same_when_cut(finetune, cache, tmp_path, given)


def test_a_dry_run_writes_nothing(
    finetune: Finetune, flat: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(flat, tmp_path / "run", dry_run=True) == 0
    assert list(tmp_path.iterdir()) == []
    assert "nothing was written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": 99, "crops__size": [15, 16]}, ["4 labelled patients", "use (12, 16) or (16, 16)"]),
        ({"crops__size": [16, 16, 16]}, ["needs 2 numbers"]),
        ({"loss": "bce", "task": "classification"}, ["0 image classes"]),
        ({"inference__mirror_axes": [0]}, ["augment.flip_axes"]),
        ({"augment__flip_axes": [2]}, ["lack"]),
        ({"network__encoder": None}, ["--init FILE"]),
        ({"init": "nowhere.safetensors"}, ["does not exist"]),
        ({"transfer__frozen_steps": 5}, ["random weights would stay random"]),
        ({"transfer__thaw_steps": 5}, ["spares pretrained weights at first"]),
        ({"transfer__adapt": "bitfit"}, ["there is no --init"]),
        ({"transfer__adapt": "lora", "transfer__encoder_lr": 0}, ["choose one"]),
        ({"transfer__lora": [0, 1, 0.5]}, ["rank 1 or more"]),
        ({"network__decoder": {**_UNET_DECODER, "init_args": {"x": 1}}}, ["init_args.x is no argument of UNetDecoder"]),
        ({"crops__size": [4, 4]}, ["one voxel"]),
        ({"label_augment__transforms": "mirror", "augment__flip_axes": [0]}, ["with loss ce", "leave these out"]),
        ({"label_augment__transforms": "half_turns", "label_augment__axes": [0, 2]}, ["names an axis"]),
        (
            {"label_augment__transforms": "quarter_turns", "crops__size": [16, 8], "augment__rotation_deg": 60},
            ["equal sides", "less than 45"],
        ),
        (
            {
                "label_augment__transforms": "mirror", "augment__flip_axes": [], "augment__affine_p": 1,
                "augment__rotation_deg": 120,
            },
            ["label_augment.transforms mirror cannot be told apart", "less than 90"],
        ),
        ({"train__lr": -1, "crops__foreground": 2}, ["train.lr", "crops.foreground"]),
    ],
)  # fmt: skip
def test_mistakes_are_told_together_before_anything_is_written(
    finetune: Finetune,
    flat: Cache,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Any],
    words: list[str],
) -> None:
    assert finetune(flat, tmp_path / "run", **options) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert "Traceback" not in message
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_file_that_does_not_fit_is_refused(
    finetune: Finetune, cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = 5 - cache.spatial_dims
    assert finetune(cache, tmp_path / "run", init=_encoder_file(tmp_path, other), network__encoder=None) == 2
    assert f"pretrained on {other}D" in capsys.readouterr().err
    assert finetune(cache, tmp_path / "run", "vit", init=_encoder_file(tmp_path, cache.spatial_dims)) == 2
    assert "leave network.encoder out" in capsys.readouterr().err
    batch = Component("medssl.models.unet.ResidualUNetEncoder", {**UNET, "norm": "batch"}).to_json()
    given = {"init": _encoder_file(tmp_path, cache.spatial_dims), "network__encoder": batch}
    assert finetune(cache, tmp_path / "run", **given) == 2
    assert "was pretrained with norm instance, here batch" in capsys.readouterr().err
    file = _encoder_file(tmp_path, cache.spatial_dims)
    file.write_bytes(file.read_bytes()[:-4])
    assert finetune(cache, tmp_path / "run", init=file, crops__size=[16] * other) == 2
    told = capsys.readouterr().err
    assert all(part in told for part in ("cut or edited", f"crops.size {(16,) * other}")), told
    assert not (tmp_path / "run").exists()


def test_an_nnunet_checkpoint_is_taken_with_the_encoder_named(
    finetune: Finetune, cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unet = Component("medssl.models.unet.ResidualUNetEncoder", {**UNET, "blocks": [1, 1, 1], "shortcut": "pooled"})
    encoder = build_encoder(unet, cache.spatial_dims, 1)
    state = layout_of(encoder, "nnunet", (16,) * cache.spatial_dims).there(encoder.state_dict())
    path = tmp_path / "nnssl.pth"
    torch.save({"network_weights": {f"encoder.{name}": tensor for name, tensor in state.items()}}, path)
    assert finetune(cache, tmp_path / "run", init=path, network__encoder=None) == 2
    assert "name network.encoder" in capsys.readouterr().err
    assert finetune(cache, tmp_path / "run", init=path, network__encoder=unet.to_json()) == 0
    report = json.loads((tmp_path / "run" / "run.json").read_text())["transfer"]
    assert len(report["loaded"]) == len(encoder.state_dict())
    assert "does not say how its images were prepared" in capsys.readouterr().err


def test_other_channels_and_preprocessing_are_adapted_and_told(
    finetune: Finetune, flat: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preprocess = {**flat.preprocess.to_json(), "spacing_mm": [2.0, 2.0], "grey": True}
    file = _encoder_file(tmp_path, 2, ("T1", "T2"), preprocess=preprocess)
    assert finetune(flat, tmp_path / "run", init=file) == 0
    message = capsys.readouterr().err
    assert "spacing_mm was [2.0, 2.0], is None" in message
    assert "grey was True, is False" in message
    assert "channels were T1, T2, are T1" in message
    assert json.loads((tmp_path / "run" / "run.json").read_text())["transfer"]["adapted"]


@pytest.mark.parametrize("path", _CONFIGS, ids=lambda p: p.stem)
def test_every_configuration_makes_its_network_and_does_a_step(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = parse_verb("finetune", ["--config", str(path), "--data", "x", "--out", "y"])
    dims = len(values["crops"].size)
    assert dims == (3 if "3d" in path.stem else 2)
    made = texture_cache if values["task"] == "classification" else phantom_cache
    cache = made(tmp_path / "cache", dims, 8)
    options = [
        f"--crops.size={[16 if dims == 3 else 32] * dims}",
        "--train.batch_size=2",
        "--train.accelerator=cpu",
        "--dry-run",
    ]
    if values["network"].encoder is None:  # for the encoder of a pretraining run
        options.append(f"--init={_encoder_file(tmp_path, dims)}")
    assert main(["finetune", "--config", str(path), f"--data={cache.path}", f"--out={tmp_path / 'run'}", *options]) == 0
    assert "nothing was written" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unet", "vit"])
def test_phantoms_are_learned(finetune: Finetune, tmp_path: Path, kind: str) -> None:
    cache = phantom_cache(tmp_path / "cache", 3, 10)
    given = {"train__steps": 250, "train__lr": 5e-3, "train__ema_decay": 0.98, "train__validate_every": 125}
    wide = {"network__encoder__init_args__features": [8, 16, 32]} if kind == "unet" else {}
    assert finetune(cache, tmp_path / "run", kind, **given, **wide, train__warmup_steps=10) == 0
    network, spec = load_model(tmp_path / "run")
    found = [
        dice(voxel_counts(segment_image([network], spec, cache.image(case)), cache.label(case), [1, 2]))
        for case in cache.select("test")
    ]
    assert np.mean(found) > 0.9
    shutil.rmtree(tmp_path / "run")


@pytest.mark.slow
def test_textures_are_told_apart(finetune: Finetune, tmp_path: Path) -> None:
    cache = texture_cache(tmp_path / "cache", 2, 96)
    options = {f"augment__{name}_p": 0 for name in ("blur", "low_resolution", "affine", "noise")}  # they hide it
    options |= {"train__steps": 300, "train__lr": 5e-3, "train__batch_size": 8, "train__ema_decay": 0.98}
    options |= {"train__validate_every": 50, "crops__foreground": 0, "train__warmup_steps": 20}
    options |= {"network__encoder__init_args": {"features": [8, 16, 16], "blocks": [0, 1, 1], "norm": "batch"}}
    assert finetune(cache, tmp_path / "run", "unet_class", **options) == 0
    assert load_model(tmp_path / "run")[1].validation["auroc"] > 0.97
