"""What a run says of its parts before it starts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_cache import small_cache
from tiny_methods import run

from medssl.commands.pretrain import pretrain
from medssl.imaging.errors import ConfigError
from medssl.methods.moco_v2 import MoCoV2
from medssl.methods.simsiam import SimSiam
from medssl.models.component import Component
from medssl.models.masked import has_batch_norm
from medssl.models.resnet import ResNet
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.vit import ViT
from medssl.training.options import TrainOptions
from medssl.training.pretrain_checks import split_teachers
from medssl.training.pretrain_options import ViewOptions


def test_batch_norm_is_found_wherever_it_is() -> None:
    plain = ResNet(2, 1, depth=10, width=8, norm="group")
    assert not has_batch_norm(plain)
    assert not has_batch_norm(ViT(2, 1, width=12, depth=1, heads=2))
    assert has_batch_norm(ResNet(2, 1, depth=10, width=8))
    assert has_batch_norm(torch.nn.Sequential(plain, torch.nn.BatchNorm2d(4)))


def test_moco_warns_of_batch_norm_in_the_encoder_alone_and_of_a_queue_longer_than_the_set() -> None:
    def notes(encoder: torch.nn.Module, cases: int = 8) -> list[str]:
        return MoCoV2(encoder, batch_size=4, queue=8, hidden=8, width=8).notes(cases)

    assert notes(ResNet(2, 1, depth=10, width=8, norm="group")) == []
    assert notes(ResidualUNetEncoder(2, 1, features=(4, 8), blocks=(0, 1))) == []
    (note,) = notes(ResNet(2, 1, depth=10, width=8))
    assert "take norm group or instance" in note
    (note,) = notes(ViT(2, 1, width=12, depth=1, heads=2), cases=7)
    assert "8 keys of 7 cases" in note


def test_notes_are_told_before_the_first_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = small_cache(tmp_path / "cache", [(20, 24), (24, 20), (18, 18)]).path
    run(cache, tmp_path / "run", "moco_v2.MoCoV2", steps=1)
    told = capsys.readouterr().err
    assert told.index("note: the encoder has batch norm") < told.index("work: 1 steps")


@pytest.mark.parametrize(
    ("name", "accumulate", "arguments", "what"),
    [
        ("simclr.SimCLR", 2, {}, "the loss of SimCLR"),
        ("byol.BYOL", 2, {}, "batch norm of BYOL"),
        ("simclr.SimCLR", 1, {}, ""),
        ("dino.DINO", 2, {}, ""),  # a mean over samples, and a centre that takes in all parts
        ("mae.MAE", 2, {}, ""),
        ("mae.MAE", 2, {"min_patch_std": 0.1}, "the loss of MAE"),
        ("simmim.SimMIM", 2, {}, ""),
        ("simmim.SimMIM", 2, {"foreground": 0.0}, "the loss of SimMIM"),
        ("volume_fusion.VolumeFusion", 2, {}, "the loss of VolumeFusion"),
        ("alice.Alice", 2, {}, "the loss of Alice"),
    ],
)
def test_parts_of_a_batch_that_are_not_the_whole_are_told(
    name: str,
    accumulate: int,
    arguments: dict[str, Any],
    what: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = small_cache(tmp_path / "cache", [(20, 24), (24, 20), (18, 18)]).path
    run(cache, tmp_path / "run", name, steps=1, accumulate=accumulate, arguments=arguments)
    told = capsys.readouterr().err
    if what:
        assert f"note: train.accumulate 2: {what} is over the samples of one part, 2 of 4" in told
    else:
        assert "train.accumulate" not in told


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mae.MAE", {"mask_ratio": 0.95}),
        ("cae.CAE", {"mask_ratio": 0.95}),
        ("croco.CroCo", {"mask_ratio": 0.95}),
        ("simmim.SimMIM", {"mask_ratio": 0.95}),
        ("spark.SparK", {"mask_ratio": 0.95}),
        ("alice.Alice", {"mask": ["block", 0.95, 4]}),
    ],
)
def test_a_mask_that_hides_everything_is_refused_before_the_run(
    name: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    cache = small_cache(tmp_path / "cache", [(20, 24), (24, 20), (18, 18)]).path
    with pytest.raises(ConfigError, match=r"a mask of 0\.95 hides all (16|9) patches or blocks of a crop"):
        run(cache, tmp_path / "run", name, steps=1, arguments=arguments)
    assert not (tmp_path / "run").exists()


def test_balanced_parts_are_counted_without_the_rest_of_the_batch(tmp_path: Path) -> None:
    cache = small_cache(tmp_path / "cache", [(20, 24), (24, 20), (18, 18)]).path
    given = {"head": [8, 8, 32], "queue": 4}
    run(cache, tmp_path / "whole", "swav.SwAV", steps=1, arguments=given)
    with pytest.raises(ConfigError, match=r"32 prototypes need a batch and queue of 8 .* got 6"):
        run(cache, tmp_path / "parts", "swav.SwAV", steps=1, accumulate=2, arguments=given)
    with pytest.raises(ConfigError, match=r"32 prototypes need a batch and queue of 8 .* got 4"):
        run(cache, tmp_path / "none", "swav.SwAV", steps=1, arguments={**given, "queue": 0})


def test_a_teacher_is_refused_where_weights_are_split() -> None:
    split = TrainOptions(strategy="fsdp")
    encoder = ResNet(2, 1, depth=10, width=4)
    moco = MoCoV2(encoder, batch_size=4, queue=8, hidden=8, width=8)
    (told,) = split_teachers(moco, split)
    assert "the teacher of MoCoV2, a moving average, needs them whole: use ddp" in told
    assert split_teachers(moco, TrainOptions(strategy="ddp")) == []
    assert split_teachers(SimSiam(encoder, hidden=8, bottleneck=4), split) == []


def test_the_crop_is_judged_where_the_method_could_not_be_built(tmp_path: Path) -> None:
    cache = small_cache(tmp_path / "cache", [(20, 24)] * 4)
    method = Component("medssl.methods.moco_v2.MoCoV2", {"queue": 6})
    encoder = Component("medssl.models.vit.ViT", {"patch_size": 8, "width": 12, "depth": 1, "heads": 2})
    with pytest.raises(ConfigError) as caught:
        pretrain(cache.path, tmp_path / "run", method, encoder, ViewOptions((12, 12)), TrainOptions(accelerator="cpu"))
    assert "queue 6 must be a whole number of batches of 4" in caught.value.message
    assert "image of (12, 12) does not divide into patches of (8, 8)" in caught.value.message


@pytest.mark.parametrize("name", ["simclr.SimCLR", "swin_unetr.SwinUNETRPretraining"])
def test_one_patient_has_nobody_to_be_told_apart_from(name: str, tmp_path: Path) -> None:
    cache = small_cache(tmp_path / "cache", [(20, 24), (24, 20), (18, 18)], patients=["a"] * 3).path
    with pytest.raises(ConfigError, match=r"all 3 case\(s\) of splits \['train', ''\] in .* are of one") as caught:
        run(cache, tmp_path / "run", name, accumulate=4)
    assert "leaves fewer than 2 samples at a time" in caught.value.message
    assert not (tmp_path / "run").exists()
    run(cache, tmp_path / "run", name, arguments={"same_patient": True}, steps=1)
