"""Validating a network in training on whole images, as they are predicted later."""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import nn

from medssl.data.cache import Cache, CachedCase
from medssl.tasks.classification import classification_scores
from medssl.tasks.inference import classify_image, segment_image
from medssl.tasks.model_file import ModelSpec
from medssl.tasks.segmentation import dice, voxel_counts

Validate = Callable[[nn.Module, int], dict[str, float]]

MONITOR = {"segmentation": "dice", "classification": "auroc"}
"""The number by which the best weights are chosen, highest first."""


def make_validation(
    cache: Cache, cases: Sequence[CachedCase], spec: ModelSpec, fabric: Fabric, batch_size: int
) -> Validate:
    """A function of the task's module and the step that gives scores; the same ones in every process.

    Segmentation: `dice`, the mean over foreground classes of the mean over cases, and `dice_NAME` of each class; a case
    in which neither mask holds a class says nothing about it. Classification: see `classification_scores`.

    Args:
        cache: Prepared cache.
        cases: Labelled cases, at least one.
        spec: How to predict.
        fabric: Processes share the cases.
        batch_size: Windows predicted at once.
    """
    own = list(range(fabric.global_rank, len(cases), fabric.world_size))

    def segmentation(module: nn.Module, step: int) -> dict[str, float]:
        network = cast(nn.Module, module.network)
        values = [label.value for label in spec.labels]
        sums = np.zeros((len(values), 2))
        for number in own:
            case = cases[number]
            mask = segment_image([network], spec, cache.image(case), batch_size)
            found = dice(voxel_counts(mask, cache.label(case), values, cache.ignore_label))
            sums += np.stack([np.nan_to_num(found), ~np.isnan(found)], axis=1)
        sums = _sum_over_processes(fabric, sums)
        means = {
            f"dice_{label.name}": float(total / count)
            for label, (total, count) in zip(spec.labels, sums, strict=True)
            if count
        }
        return {"dice": float(np.mean(list(means.values()))) if means else 0.0, **means}

    def classification(module: nn.Module, step: int) -> dict[str, float]:
        network = cast(nn.Module, module.network)
        table = np.zeros((len(cases), spec.network.out_channels))
        for number in own:
            table[number] = classify_image([network], spec, cache.image(cases[number]))
        truth = np.array([spec.classes.index(case.class_name) for case in cases])
        return classification_scores(_sum_over_processes(fabric, table), truth)

    return segmentation if spec.task == "segmentation" else classification


def _sum_over_processes(fabric: Fabric, values: np.ndarray) -> np.ndarray:
    if fabric.world_size == 1:
        return values
    total = fabric.all_reduce(torch.from_numpy(values).to(fabric.device), reduce_op="sum")
    return np.asarray(total.cpu().numpy())  # type: ignore[union-attr]
