"""Segmentation from one patch, without training: all places whose frozen features are like those of the prompted one.

The protocol of MMC (Wu et al., 2023, https://arxiv.org/abs/2308.11448): cosine to the patch that holds a given point of
a structure, above a threshold that is one for all. Deviations: features are centred by the image's own mean; the map of
the encoder and the threshold are chosen on split val; the point is the structure's voxel next to its centre;
Dice in place of the Jaccard index. Left out: the score at the resolution of the patches (voxels of the interpolated
cosine are judged), and the protocol's second metric, the cosines among the patches of one object against those between
objects (overlap of both histograms, d').
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from medssl.data.cache import Cache, CachedCase
from medssl.evaluation.device import device_of, gpu_memory_told
from medssl.evaluation.encoder_tests import Compared
from medssl.evaluation.frozen import refuse_nan
from medssl.evaluation.statistics import mean_interval, paired_difference
from medssl.evaluation.swap_tests import swap_means
from medssl.imaging.errors import CacheError
from medssl.models.anatomy import centred_directions, filled_up
from medssl.models.encoder import Encoder

THRESHOLDS = tuple(round(0.05 * n, 2) for n in range(2, 20))
"""Cosines that are tried, 0.1 to 0.95."""

_Float = npt.NDArray[np.float64]
Maps = Callable[[Tensor], list[tuple[Tensor, tuple[int, ...]]]]
"""Image (1, C, *S) to maps (1, E, *S / stride) of unit length with their strides, fine to coarse."""


@dataclass(frozen=True)
class PromptScores:
    """Dice of every structure of every case, segmented from its own patch.

    Args:
        dice: (objects, maps, thresholds).
        structures: Name of each.
        patients: Patient of each.
        small: Structures that were left out, smaller than a cell of the encoder's last map.
    """

    dice: _Float
    structures: tuple[str, ...]
    patients: tuple[str, ...]
    small: int

    def best(self) -> tuple[int, int]:
        """Map and threshold with the highest mean Dice."""
        found = np.unravel_index(int(self.dice.mean(0).argmax()), self.dice.shape[1:])
        return int(found[0]), int(found[1])


def whole_maps(encoder: Encoder) -> Maps:
    """Maps of an image of any size, by an encoder in eval mode."""

    @gpu_memory_told()
    @torch.no_grad()
    def maps(image: Tensor) -> list[tuple[Tensor, tuple[int, ...]]]:
        levels = encoder(filled_up(image.to(device_of(encoder)), encoder.strides[-1]))
        refuse_nan(levels)
        return [(centred_directions(level.float()).cpu(), s) for level, s in zip(levels, encoder.strides, strict=True)]

    return maps


def prompt_scores(maps: Maps, smallest: int, cache: Cache, cases: Sequence[CachedCase]) -> PromptScores:
    """Segment every structure of labelled cases from the patch of its middle voxel.

    Args:
        maps: Features of an image.
        smallest: Voxels that a structure needs.
        cache: Prepared cache.
        cases: Labelled cases.

    Raises:
        CacheError: No structure is large enough.
    """
    dice, names, patients, small = [], [], [], 0
    for case in cases:
        label, found = cache.label(case), maps(torch.from_numpy(cache.image(case).astype(np.float32))[None])
        judged = np.ones(label.shape, bool) if cache.ignore_label is None else label != cache.ignore_label
        for structure in cache.labels:
            mask = label == structure.value
            if not mask.any() or mask.sum() < smallest:
                small += bool(mask.any())
                continue
            point, inside = middle_voxel(mask), tuple(slice(n) for n in label.shape)
            similar = [similarity(level, stride, point)[inside] for level, stride in found]
            dice.append([dice_at(values[judged], mask[judged]) for values in similar])
            names.append(structure.name)
            patients.append(case.patient)
    if not dice:
        raise CacheError(
            f"no structure has {smallest} voxels, a cell of the encoder's last map: none can be prompted",
            reason="too-small",
        )
    return PromptScores(np.array(dice), tuple(names), tuple(patients), small)


def middle_voxel(mask: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    """The voxel of a mask that lies nearest to its centre of mass."""
    voxels = np.argwhere(mask)
    return tuple(int(n) for n in voxels[((voxels - voxels.mean(0)) ** 2).sum(1).argmin()])


def dice_at(similarity: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> list[float]:
    """Dice of the voxels that are as similar as each of the thresholds, or more."""
    level = np.searchsorted(THRESHOLDS, similarity, side="right")  # number of thresholds that are reached
    counts = [np.bincount(part.ravel(), minlength=len(THRESHOLDS) + 1) for part in (level, level[mask])]
    predicted, shared = (count[::-1].cumsum()[::-1][1:] for count in counts)
    return [2 * float(both) / float(size + mask.sum()) for both, size in zip(shared, predicted, strict=True)]


def summarise_prompts(runs: Sequence[tuple[PromptScores, PromptScores]]) -> dict[str, Any]:
    """Mean Dice on split test with the map and threshold chosen on val, with intervals over patients; JSON-able.

    `oracle`: with the best threshold of each structure of each case, which nobody knows: what the features would allow.

    Args:
        runs: Scores on val and on test; several of random weights, whose mean counts.
    """
    first, values = runs[0][1], chosen_dice(runs)
    oracle = np.mean([test.dice[:, val.best()[0]].max(1) for val, test in runs], axis=0)
    names = np.array(first.structures)
    patients = np.array(first.patients)
    return {
        "encoders": len(runs),
        "dice": mean_interval(values.tolist(), first.patients).to_json(),
        "each": [float(chosen_dice([run]).mean()) for run in runs],
        "oracle": mean_interval(oracle.tolist(), first.patients).to_json(),
        "structures": {
            name: mean_interval(values[names == name].tolist(), patients[names == name].tolist()).to_json()
            for name in dict.fromkeys(first.structures)
        },
        "chosen": [{"map": val.best()[0] + 1, "threshold": THRESHOLDS[val.best()[1]]} for val, _ in runs],
        "prompts": len(values),
        "too_small": first.small,
    }


def prompt_difference(
    ours: tuple[PromptScores, PromptScores], theirs: Sequence[tuple[PromptScores, PromptScores]]
) -> Compared:
    """Paired difference of Dice, ours minus theirs, over the same patients."""
    (own, *each), patients = (chosen_dice([run]) for run in (ours, *theirs)), ours[1].patients
    mean = np.mean(each, axis=0)
    difference = paired_difference(own.tolist(), mean.tolist(), patients)
    test = swap_means((own - mean).tolist(), patients)
    return Compared(float(own.mean()), [float(dice.mean()) for dice in each], difference, test)


def chosen_dice(runs: Sequence[tuple[PromptScores, PromptScores]]) -> _Float:
    """(objects,) of split test, by what was chosen on val; the mean over the runs."""
    return np.asarray(np.mean([test.dice[(slice(None), *val.best())] for val, test in runs], axis=0))


def similarity(level: Tensor, stride: Sequence[int], point: Sequence[int]) -> npt.NDArray[np.float32]:
    """(*S) cosine to the cell that holds a point, interpolated from cells to voxels of the filled up image."""
    cell = tuple(p // s for p, s in zip(point, stride, strict=True))
    prompted = level[0].flatten(1)[:, int(np.ravel_multi_index(cell, level.shape[2:]))]
    cosine = torch.einsum("e,e...->...", prompted, level[0])
    size = [n * s for n, s in zip(cosine.shape, stride, strict=True)]
    mode = "trilinear" if len(size) == 3 else "bilinear"
    values: npt.NDArray[np.float32] = functional.interpolate(cosine[None, None], size, mode=mode)[0, 0].numpy()
    return values
