"""A tiny mixed run through the verb; or a process of several: `mixed_run.py FLAT DEEP OUT METHOD {options}`."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from medssl.commands.pretrain import pretrain
from medssl.data.augment_options import ViewAugment
from medssl.models.component import Component
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import SecondData, SecondViewOptions, ViewOptions

RESNET = {"class_path": "medssl.models.resnet.ResNet", "init_args": {"depth": 10, "width": 4, "small": True}}
PARTS = {
    "uni4eye": (
        Component("medssl.methods.uni4eye.Uni4Eye", {"decoder": [12, 1, 2]}),
        Component(
            "medssl.models.unified_vit.UnifiedViT",
            {"patch_size_2d": 4, "patch_size_3d": 4, "width": 12, "depth": 1, "heads": 2},
        ),
    ),
    "intra_inter": (
        Component(
            "medssl.methods.intra_inter.IntraInter",
            {"head": [8, 8, 6], "volumes": [4, 4], "slices": 2, "stages": [0.3, 0.7, 0.1]},
        ),
        Component("medssl.models.slices.SliceEncoder", {"slices": RESNET, "sequence": [8, 1, 2]}),
    ),
}


def run(flat: Path, deep: Path, out: Path, name: str, *, resume: bool = False, **given: Any) -> None:
    """Options of `train` by name; others: `share`, `small` (batch of the second cache), `size`, `init`, `method`."""
    method, encoder = PARTS[name]
    method = replace(method, init_args={**method.init_args, **given.pop("method", {})})
    varied = ViewAugment(noise_p=0.5)
    also = SecondData(
        deep,
        SecondViewOptions(given.pop("size", (8, 8, 8)), min_std=0, augment=varied),
        given.pop("share", 0.5),
        given.pop("small", 4),
    )
    init = given.pop("init", None)
    train = TrainOptions(
        **{"steps": 12, "batch_size": 8, "lr": 0.01, "accelerator": "cpu", "health_every": 6, "log_every": 4, **given}
    )
    views = ViewOptions((12, 12), min_std=0, augment=varied)
    pretrain(flat, out, method, encoder, views, train, also=also, init=init, resume=resume)


if __name__ == "__main__":
    flat, deep, out, name, options = sys.argv[1:]
    strategy = "ddp_find_unused_parameters_true"
    run(Path(flat), Path(deep), Path(out), name, devices=2, strategy=strategy, **json.loads(options))
