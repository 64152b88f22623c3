"""The health check of a pretraining run: fixed crops of cases, looked at again and again."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.data.cache import Cache, CachedCase
from medssl.data.dataset import CropPlan, StepDataset
from medssl.losses.gather import alone
from medssl.methods.base import Method
from medssl.training.health import (
    attention_spread,
    feature_spread,
    knn_accuracy,
    panel,
    presence_auroc,
    watched_attention,
)
from medssl.training.journal import values_of
from medssl.training.run_folder import RunFolder

_CROPS = 64
_BATCH = 8
_ROWS = 4
_SHRUNK = 0.1  # share of the largest spread or rank so far under which the features are called collapsed
_SHARP = 0.02  # entropy under which a head is told of; a number of our own
_SPREAD = ("feature_std", "effective_rank")
_SPACINGS = ("spacing_mm", "partner_spacing_mm")
_CALM = 2**31  # a number that no training step reaches: masks and views of the check are its own


class HealthCheck:
    """Called by the loop as `health(module, step)`; the module is the method.

    Looks at up to 64 fixed crops, spread over the cases of split val, or of those that are learned from where there are
    none: loss with fixed masks, spread of the features, and, where the cache has classes or label maps, how well the
    frozen features tell them: the class, or which structures a crop holds more of than most crops. Labels are only
    looked at here, never learned from. Test cases are never touched. Features are those of the encoder that is trained:
    of the student, also where a method keeps the teacher that follows it; of the middle of each crop, as large as what
    that encoder sees in training.

    Attributes:
        damaged: Names of the cases that could not be read; the crops are of the others. Whoever trains must tell it.

    Args:
        cache: Prepared cache.
        cases: Cases that are learned from.
        plan: Plan of the training crops.
        run: Where the panel is written; None writes none.
        device: Where to compute.
        views: Makes the views of a batch, for methods with several; their draws are the check's own.
        suffix: Of the names of numbers and pictures, where a run has a check for each dimension.

    Raises:
        CacheError: None of the cases to look at can be read.
    """

    def __init__(
        self,
        cache: Cache,
        cases: Sequence[CachedCase],
        plan: CropPlan,
        run: RunFolder | None,
        device: torch.device,
        views: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
        suffix: str = "",
    ) -> None:
        self._run, self._device, self._views, self._suffix = run, device, views, suffix
        self._most = {} if run is None else _largest_so_far(run, suffix)
        self._warned: set[str] = set()
        held = [case for case in cache.cases if case.split == "val"] or list(cases)
        labelled = [case for case in held if case.has_label]
        self._classed = bool(cache.classes) and all(case.class_name in cache.classes for case in held)
        looked_at = labelled if labelled and not self._classed else held
        self._values = [label.value for label in cache.labels] if labelled and not self._classed else []
        fixed = replace(plan, batch_size=1, parts=1, labels=bool(self._values), classes=self._classed, foreground=0.0)
        source, self._crops = _draw(cache, looked_at, fixed, min(_CROPS, max(2 * len(looked_at), 16)))
        self._patients = [source.case_of(number).patient for number in range(len(self._crops))]
        self.damaged = tuple(sorted({case.case for case in looked_at} - {case.case for case in source.cases}))

    def __call__(self, module: nn.Module, step: int) -> dict[str, float]:
        """Numbers of this step; the panel goes to `health/`."""
        if not isinstance(module, Method):
            raise TypeError(f"the health check looks at methods, got {type(module).__name__}")
        batches = [self._batch(first) for first in range(0, len(self._crops), _BATCH)]
        shares = [len(b["image"]) / len(self._crops) for b in batches]
        with alone():  # every process has the same crops: gathered, each would meet copies of itself
            outputs = [module(batch) for batch in batches]
        logs = {
            name: sum(share * float(output[name]) for share, output in zip(shares, outputs, strict=True))
            for name in outputs[0]
        }
        found = {"loss": logs["loss"]}
        embed = cast(Callable[[Tensor], Tensor], module.encoder.embed)
        size = module.seen(batches[0])
        with watched_attention(module.encoder) as attention:
            features = torch.cat([embed(_as_seen(b["image"], size)).float().cpu() for b in batches])
        found |= feature_spread(features) | attention_spread(attention) | self._probe(features, size)
        self._warn(found, module.trouble(logs), step)
        columns = self._columns(module, batches[0])
        if columns and self._run is not None:
            self._run.write_image(f"step-{step:07d}{self._suffix}", panel(columns, _ROWS))
        return {f"{name}{self._suffix}": value for name, value in found.items()}

    def _warn(self, found: dict[str, float], trouble: str, step: int) -> None:
        """Say once each, while the run still goes on, what has collapsed, and what the method sees.

        The first look, at an untrained network, says nothing: later ones are measured by it.
        """
        before = self._most
        self._most = {name: max(found[name], before.get(name, 0.0)) for name in _SPREAD}
        if not before:
            return
        sharpest = found.get("attention_entropy", 1.0)
        shrunk = [name for name in _SPREAD if found[name] < _SHRUNK * before[name]]
        told = ", ".join(f"{name} {found[name]:.2g}, earlier {before[name]:.2g}" for name in shrunk)
        warnings = {
            "method": trouble,
            "features": f"different images have nearly the same features ({told}): a collapse. Usual cures: a lower "
            "--train.lr, more --train.warmup_steps, a momentum nearer to 1, a larger batch or queue; a lower loss from "
            "here on means nothing"
            if shrunk
            else "",
            "attention": f"a head of the encoder looks at hardly more than one token (attention_entropy {sharpest:.2g} "
            "of at most 1), after which training often diverges. Usual cures: a lower --train.lr, more "
            "--train.warmup_steps, in a ViT attention: sigma"
            if sharpest < _SHARP
            else "",
        }
        for about, warning in warnings.items():
            if warning and about not in self._warned:
                self._warned.add(about)
                sys.stderr.write(f"\nhealth: at step {step} {warning}\n")

    @staticmethod
    def _columns(module: Method, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the panel shows: the reconstruction, or the views of methods that compare them."""
        if module.views > 1:
            return {f"view {number}": view[:_ROWS] for number, view in enumerate(batch["views"], start=1)}
        found = module.reconstruction({**batch, "image": batch["image"][:_ROWS]}) or {}
        return {title: found[title] for title in ("input", "masked", "reconstructed") if title in found}

    def _batch(self, first: int) -> dict[str, Tensor]:
        crops = self._crops[first : first + _BATCH]
        image = torch.cat([crop["image"].float() for crop in crops]).to(self._device)
        index = torch.arange(_CALM + first, _CALM + first + len(crops))
        patient = torch.cat([crop["patient"] for crop in crops]).to(self._device)
        batch = {"image": image, "step": torch.tensor(_CALM + first), "index": index, "patient": patient}
        batch |= {name: torch.cat([crop[name] for crop in crops]) for name in _SPACINGS if name in crops[0]}
        if "partner" in crops[0]:
            batch["partner"] = torch.cat([crop["partner"].float() for crop in crops]).to(self._device)
        return batch if self._views is None else self._views(batch)

    def _probe(self, features: Tensor, size: Sequence[int]) -> dict[str, float]:
        if self._classed:
            classes = [int(crop["class_index"][0]) for crop in self._crops]
            return {"knn_balanced_accuracy": knn_accuracy(features, classes, self._patients)}
        if self._values:
            labels = [_middle(crop["label"], size) for crop in self._crops]
            shares = torch.stack([torch.stack([(map_ == v).float().mean() for v in self._values]) for map_ in labels])
            present = shares > shares.median(0).values  # any at all, where most crops have none
            return {"presence_auroc": presence_auroc(features, present, self._patients)}
        return {}


def _middle(tensor: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of (..., *S), of `size` along axes that are longer."""
    for axis, wanted in enumerate(size, start=tensor.ndim - len(size)):
        spare = max(tensor.shape[axis] - wanted, 0)
        tensor = tensor.narrow(axis, spare // 2, tensor.shape[axis] - spare)
    return tensor


def _as_seen(image: Tensor, size: tuple[int, ...]) -> Tensor:
    """The middle of crops (B, C, *S) as (B, C, *size); enlarged, as views are, where crops are smaller."""
    middle = _middle(image, size)
    if middle.shape[2:] == size:
        return middle
    return functional.interpolate(middle, size, mode=("bilinear", "trilinear")[len(size) - 2], align_corners=True)


def _draw(
    cache: Cache, cases: Sequence[CachedCase], plan: CropPlan, count: int
) -> tuple[StepDataset, list[dict[str, Tensor]]]:
    """The first `count` crops of those cases that can be read, and where they come from.

    Raises:
        CacheError: No case can be read.
    """
    source = StepDataset(cache, cases, plan)
    crops = [source[number] for number in range(count)]
    damaged = {number for crop in crops for number in crop.get("damaged", Tensor()).long().tolist()}
    if not damaged:
        return source, crops
    return _draw(cache, [case for number, case in enumerate(cases) if number not in damaged], plan, count)


def _largest_so_far(run: RunFolder, suffix: str) -> dict[str, float]:
    """Largest spread and rank that earlier sessions of the run logged; empty where there are none."""
    logged = {name: values_of(run, f"health/{name}{suffix}") for name in _SPREAD}
    return {name: max(values) for name, values in logged.items() if values}
