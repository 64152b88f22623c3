"""Validating a network in training on whole images, as they are predicted later."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import nn

from medssl.data.cache import Cache, CachedCase
from medssl.imaging.errors import CacheError
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

    It raises CacheError, in every process alike, where cases cannot be read.

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
        unreadable = _Unreadable(cases)
        for number in own:
            case = cases[number]
            with unreadable.noted(number):
                mask = segment_image([network], spec, cache.image(case), batch_size)
                found = dice(voxel_counts(mask, cache.label(case), values, cache.ignore_label))
                sums += np.stack([np.nan_to_num(found), ~np.isnan(found)], axis=1)
        unreadable.refuse(fabric, step)
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
        unreadable = _Unreadable(cases)
        for number in own:
            with unreadable.noted(number):
                table[number] = classify_image([network], spec, cache.image(cases[number]))
        unreadable.refuse(fabric, step)
        truth = np.array([spec.classes.index(case.class_name) for case in cases])
        return classification_scores(_sum_over_processes(fabric, table), truth)

    return segmentation if spec.task == "segmentation" else classification


class _Unreadable:
    """Validation cases that cannot be read: none stands in for them, because scores of other cases do not compare."""

    def __init__(self, cases: Sequence[CachedCase]) -> None:
        self._cases, self._met, self._why = cases, np.zeros(len(cases)), ""

    @contextmanager
    def noted(self, number: int) -> Iterator[None]:
        """Go on with the next case, so that all are named at once."""
        try:
            yield
        except CacheError as error:
            self._met[number], self._why = 1, error.message

    def refuse(self, fabric: Fabric, step: int) -> None:
        """End the validation where there are any, in every process alike.

        Raises:
            CacheError: Their names, and what to do.
        """
        met = _sum_over_processes(fabric, self._met)
        names = [case.case for case, times in zip(self._cases, met, strict=True) if times]
        if names:
            why = f" ({self._why})" if self._why else ""  # another process knows
            raise CacheError(
                f"validation case(s) {', '.join(names)} of the cache cannot be read{why}: run medssl prepare again (it "
                "makes anew what is damaged once the cases' folders are deleted), then go on with --resume; the "
                f"checkpoint of step {step} is written",
                reason="bad-cache",
            )


def _sum_over_processes(fabric: Fabric, values: np.ndarray) -> np.ndarray:
    if fabric.world_size == 1:
        return values
    total = fabric.all_reduce(torch.from_numpy(values).to(fabric.device), reduce_op="sum")
    return np.asarray(total.cpu().numpy())  # type: ignore[union-attr]
