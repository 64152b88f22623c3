"""Runs of earlier versions, which knew fewer options, go on; runs of other options do not."""

import copy
from pathlib import Path
from typing import Any

import pytest

from medssl.data.augment_options import AugmentOptions, ViewAugment
from medssl.tasks.options import CropOptions, InferenceOptions, TransferOptions
from medssl.training.differences import differences
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import SecondData, SecondViewOptions, ViewOptions


def _pretraining(**views: Any) -> dict[str, Any]:
    given = {"augment": ViewAugment(noise_p=0.5), "second": ViewAugment(gamma_p=0.5), **views}
    also = SecondData(Path("deep"), SecondViewOptions((8, 8, 8), local_views=2, local_augment=ViewAugment(blur_p=0.5)))
    groups = {"views": ViewOptions((8, 8), **given), "also": also, "train": TrainOptions()}
    return {"config": {name: group.to_json() for name, group in groups.items()}}


def _finetuning() -> dict[str, Any]:
    groups = {
        "crops": CropOptions(),
        "augment": AugmentOptions(),
        "transfer": TransferOptions(),
        "inference": InferenceOptions(),
        "train": TrainOptions(),
    }
    return {"config": {name: group.to_json() for name, group in groups.items()}}


def _without(run: dict[str, Any], option: str) -> dict[str, Any]:
    """As a version before the option wrote it."""
    earlier = copy.deepcopy(run)
    *groups, name = option.split(".")
    group = earlier["config"]
    for part in groups:
        group = group[part]
    del group[name]
    return earlier


@pytest.mark.parametrize(
    "option",
    [
        "views.partner", "views.local_augment", "views.augment.stain_p", "views.second.elastic_p", "also.share",
        "also.views.slice_axis", "also.views.local_augment.bias_p", "train.momentum",
    ],
)  # fmt: skip
def test_a_pretraining_from_before_an_option_goes_on(option: str) -> None:
    run = _pretraining()
    assert differences(_without(run, option), run, set()) == []


@pytest.mark.parametrize("option", ["crops.evenly", "augment.stain_p", "transfer.thaw_steps", "inference.choose"])
def test_a_finetuning_from_before_an_option_goes_on(option: str) -> None:
    run = _finetuning()
    assert differences(_without(run, option), run, set()) == []


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("views.augment.noise_p", ["views.augment.noise_p: the run has 0.0, now 0.5"]),
        ("views.second.gamma_p", ["views.second.gamma_p: the run has 0.0, now 0.5"]),
        ("also.views.local_views", ["also.views.local_views: the run has 0, now 2"]),
    ],
)
def test_what_is_no_default_differs_from_a_run_from_before_the_option(option: str, told: list[str]) -> None:
    run = _pretraining()
    assert differences(_without(run, option), run, set()) == told
    assert differences(run, run, set()) == []


def test_variations_that_a_run_did_not_have_differ_whatever_they_are() -> None:
    usual = ViewAugment()
    found = differences(_without(_pretraining(), "views.second"), _pretraining(second=usual), set())
    assert len(found) == len(usual.to_json())
    assert "views.second.scale: the run has 'nothing', now 0.2" in found
    assert differences(_pretraining(second=None), _pretraining(second=usual), set()) == found
