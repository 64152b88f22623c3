"""Whether scores of frozen encoders would have told which arm of a study does best.

LogME, H-score and PED (`medssl.evaluation.transferability`) of the labelled cases that the arms learned from, and their
rank correlation with the fine-tuned result. Segmentation: features are those of voxels, as many of each class in each
case, from all maps of the encoder.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from medssl.data.cache import Cache, CachedCase
from medssl.evaluation.features import calibrate, extract
from medssl.evaluation.frozen import refuse_nan
from medssl.evaluation.probe_data import middle_crop
from medssl.evaluation.transferability import SCORES, ranking
from medssl.models.encoder import Encoder

FEW = 8
"""Arms below which a rank correlation says next to nothing: of four, even a perfect order comes by chance often."""

_VOXELS = 20  # of each class in each case
_SEEN = 64  # images that batch norm meets, and that are in memory at a time


@dataclass(frozen=True)
class CaseFeatures:
    """Features of a case and what they should tell.

    Args:
        values: (n, E), one image or some voxels.
        classes: (n,) class of the image, or of each voxel.
    """

    values: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int64]


def case_features(
    encoder: Encoder, cache: Cache, cases: Sequence[CachedCase], size: Sequence[int], segmentation: bool
) -> dict[str, CaseFeatures]:
    """Frozen features of labelled cases by name; some crops are in memory at a time.

    Args:
        encoder: Its batch norm meets the cases.
        cache: Prepared cache.
        cases: Labelled cases.
        size: Voxels of a crop, those of the fine-tuning: the middle one is classified, and met by batch norm.
        segmentation: Voxels of a crop about a class of the case, else classes of the middle crops.

    Raises:
        MedsslError: Features that are no numbers.
    """
    calibrate(encoder, _middle_crops(cache, cases[:_SEEN], size))
    if segmentation:
        return {case.case: _of_voxels(encoder, cache, case, size, number) for number, case in enumerate(cases)}
    found = {}
    for begin in range(0, len(cases), _SEEN):
        some = cases[begin : begin + _SEEN]
        pooled = extract(encoder, _middle_crops(cache, some, size)).pooled["mean"]
        refuse_nan([pooled])
        for case, values in zip(some, pooled.double().numpy(), strict=True):
            found[case.case] = CaseFeatures(values[None], np.array([cache.classes.index(case.class_name)]))
    return found


def _middle_crops(cache: Cache, cases: Sequence[CachedCase], size: Sequence[int]) -> torch.Tensor:
    """(B, C, *S)."""
    return torch.stack([torch.from_numpy(middle_crop(cache, case, size)) for case in cases])


def transfer_scores(features: Sequence[CaseFeatures]) -> dict[str, float]:
    """Every score of the cases together; NaN where there is one class only.

    Args:
        features: At least one.

    Raises:
        ConfigError: The features do not vary over the cases.
    """
    values = np.concatenate([case.values for case in features])
    classes = np.concatenate([case.classes for case in features])
    if len(np.unique(classes)) < 2:
        return dict.fromkeys(SCORES, math.nan)
    return {name: score(values, classes) for name, score in SCORES.items()}


def rank_correlation(scores: Mapping[str, float], results: Mapping[str, float]) -> dict[str, Any]:
    """How alike the orders of the arms are by a score and by their fine-tuned result; JSON-able.

    Weighted Kendall tau, where the top counts most, as those who proposed the scores report it; Kendall's tau with its
    p-value, and Spearman's rho. None where fewer than two arms have both numbers, or one of them is the same for all.

    Args:
        scores: Arm to score.
        results: Arm to result, higher is better.
    """
    arms = [a for a in scores if math.isfinite(scores[a]) and math.isfinite(results.get(a, math.nan))]
    ours, theirs = [scores[a] for a in arms], [results[a] for a in arms]
    nothing = {"arms": len(arms), "few": len(arms) < FEW, "weighted_tau": None, "kendall": None, "spearman": None}
    if len(arms) < 2 or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return {**nothing, "p_value": None}
    kendall = stats.kendalltau(ours, theirs)
    found = {
        "weighted_tau": ranking(ours, theirs),
        "kendall": float(kendall.statistic),
        "spearman": float(stats.spearmanr(ours, theirs).statistic),
        "p_value": float(kendall.pvalue),
    }
    return nothing | {name: value if math.isfinite(value) else None for name, value in found.items()}


@torch.no_grad()
def _of_voxels(encoder: Encoder, cache: Cache, case: CachedCase, size: Sequence[int], seed: int) -> CaseFeatures:
    """All maps at some voxels of each class, background included, of a crop about a voxel of a class."""
    rng = np.random.default_rng(seed)
    start = _about_a_class(cache, case, size, rng)
    label = cache.crop_label(case, start, tuple(size))
    places: list[npt.NDArray[np.int64]] = []
    for value in (0, *(structure.value for structure in cache.labels)):
        voxels = np.argwhere(label == value)
        places.append(voxels[rng.permutation(len(voxels))[:_VOXELS]])
    chosen = np.concatenate(places)
    levels = encoder(torch.from_numpy(cache.crop_image(case, start, tuple(size)).astype(np.float32))[None])
    refuse_nan(levels)
    columns = [
        level[(0, slice(None), *torch.from_numpy(chosen // np.array(stride)).T)].T  # the cell that holds the voxel
        for level, stride in zip(levels, encoder.strides, strict=True)
    ]
    return CaseFeatures(torch.cat(columns, 1).double().numpy(), label[tuple(chosen.T)].astype(np.int64))


def _about_a_class(cache: Cache, case: CachedCase, size: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
    """First voxel of a crop that holds a voxel of a random class of the case; the middle where it has none."""
    known = [voxels for voxels in cache.foreground(case).values() if len(voxels)]
    if not known:
        return tuple((n - s) // 2 for n, s in zip(case.shape, size, strict=True))
    voxels = known[int(rng.integers(len(known)))]
    voxel = voxels[int(rng.integers(len(voxels)))]
    return tuple(
        (n - s) // 2 if n <= s else int(np.clip(v - s // 2, 0, n - s))
        for v, n, s in zip(voxel, case.shape, size, strict=True)
    )
