"""Images that are asked about together: slices of a volume for a 2D encoder, images of a study, slide or patient."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.data.cache import Cache, CachedCase
from medssl.evaluation.features import Features
from medssl.evaluation.probe_data import ProbeData, check_questions, class_questions, middle_crop, room_for
from medssl.evaluation.probes import ProbeResult, Scores, best_option, standardised
from medssl.imaging.errors import CacheError, ConfigError

Bags = Literal["slices", "study", "patient"]

RATES = ((1e-3, 1e-2), (3e-3, 1e-2))
"""Learning rates and weight decays of attention over a bag."""

_STEPS, _HIDDEN, _DROPOUT = 100, 64, 0.25


def read_bags(cache: Cache, size: Sequence[int], bags: Bags, slice_axis: int = 2, slices: int = 32) -> ProbeData:
    """Read bags and the class of each.

    Args:
        cache: Prepared cache with splits and classes.
        size: Pixels, or voxels, of an image: the middle of each.
        bags: `slices`: those of a volume are a bag. `study`: all cases of a patient with one name in the manifest's
            column study, for instance a visit or a slide. `patient`: all cases of a patient.
        slice_axis: Axis that counts the slices.
        slices: At most so many, evenly spaced.

    Raises:
        ConfigError: Sizes that do not fit the cache.
        CacheError: A split without cases, cases without a study, a bag with cases of several classes, one class
            only, or too little memory.
    """
    dims = 2 if bags == "slices" else cache.spatial_dims
    if len(size) != dims or (bags == "slices" and cache.spatial_dims != 3):
        raise ConfigError(
            [f"bags of {bags} with images of size {tuple(size)} do not fit a {cache.spatial_dims}D cache"]
        )
    cases = [c for c in cache.cases if c.split in ("train", "val", "test") and c.class_name in cache.classes]
    if bags == "study" and (unnamed := [case.case for case in cases if not case.study]):
        raise CacheError(
            f"{len(unnamed)} of {len(cases)} cases have no study, first {unnamed[0]}: fill the manifest's column study "
            "and prepare again",
            reason="no-study",
        )
    groups: dict[tuple[str, ...], list[CachedCase]] = {}
    for case in cases:
        owner = {"slices": (case.case,), "study": (case.patient, case.study), "patient": (case.patient,)}[bags]
        groups.setdefault(owner, []).append(case)
    owners: list[int] = []
    for number, (owner, group) in enumerate(groups.items()):
        if len({case.class_name for case in group}) > 1:
            raise CacheError(
                f"{bags} {owner[-1]!r} has cases of several classes, so it makes no bag of one class",
                reason="several-classes",
            )
        for case in group:
            owners += [number] * (len(_spread(case.shape[slice_axis], slices)) if bags == "slices" else 1)

    def shown(case: CachedCase) -> Iterable[npt.NDArray[np.float32]]:
        if bags != "slices":
            return [middle_crop(cache, case, size)]
        middle = partial(middle_crop, cache, case)
        return spread_slices(middle, case.shape[slice_axis], size, slice_axis, slices).values()

    images = room_for(len(owners), cache, size)
    for place, image in enumerate(image for group in groups.values() for case in group for image in shown(case)):
        images[place] = image
    firsts = [group[0] for group in groups.values()]
    names = class_questions(cache)
    data = ProbeData(
        torch.from_numpy(images),
        torch.tensor([[case.class_name == name for name in names] for case in firsts], dtype=torch.bool),
        names,
        tuple(case.split for case in firsts),
        tuple(case.patient for case in firsts),
        torch.tensor(owners),
        tuple(firsts),
    )
    check_questions(cache, data)
    return data


def bag_probe(features: Features, data: ProbeData, draws: Sequence[Tensor]) -> ProbeResult:
    """`bag_scores`; rate and decay are chosen."""
    if features.there is None:
        raise ConfigError(["attention over bags needs bags: slices, study or patient"])
    there = features.there
    return best_option(
        list(RATES), lambda o, known, asked: bag_scores(features.tokens, there, data, known, asked, o), data, draws
    )


def bag_scores(
    tokens: Tensor, there: Tensor, data: ProbeData, known: Tensor, asked: Tensor, options: tuple[float, float]
) -> Scores:
    """Gated attention over the images of a bag, then a linear layer (Ilse et al., ICML 2018, arXiv 1802.04712).

    Deviations: all bags in one step, padded; 64 hidden units, because sets are small.

    Args:
        tokens: (N, T, E), standardised here over the images of split train.
        there: (N, T) images that are there.
        data: Whose answers are learned.
        known: Bags with labels.
        asked: Bags to score.
        options: Learning rate and weight decay.

    Returns:
        (n, K).
    """
    cells = standardised(tokens, data.rows("train"), there)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GatedAttention(cells.shape[-1], data.targets.shape[1])
        wanted, (rate, decay) = data.targets[known].float(), options
        optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
        for _ in range(_STEPS):
            optimizer.zero_grad()
            logits = network(cells[known], there[known])
            torch.autograd.backward(functional.binary_cross_entropy_with_logits(logits, wanted))
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        scores: Scores = network.eval()(cells[asked], there[asked]).double().numpy()
    return scores


class GatedAttention(nn.Module):
    """Bag (B, T, E) to logits (B, K): a weighted mean of its images, weights by `tanh` and `sigmoid` of them.

    Args:
        width: E.
        questions: K.
    """

    def __init__(self, width: int, questions: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(width, _HIDDEN), nn.ReLU(), nn.Dropout(_DROPOUT))
        self.value, self.gate = nn.Linear(_HIDDEN, _HIDDEN), nn.Linear(_HIDDEN, _HIDDEN)
        self.weigh, self.out = nn.Linear(_HIDDEN, 1), nn.Linear(_HIDDEN, questions)

    def weights(self, hidden: Tensor, there: Tensor) -> Tensor:
        """(B, T) that sum to 1 over the images that are there."""
        raw: Tensor = self.weigh(self.value(hidden).tanh() * self.gate(hidden).sigmoid())[..., 0]
        return raw.masked_fill(~there, -torch.inf).softmax(1)

    def forward(self, bag: Tensor, there: Tensor) -> Tensor:
        """Logits."""
        hidden = self.enter(bag)
        out: Tensor = self.out((self.weights(hidden, there)[..., None] * hidden).sum(1))
        return out


def spread_slices(
    middle: Callable[[Sequence[int]], npt.NDArray[np.float32]], long: int, size: Sequence[int], axis: int, most: int
) -> dict[int, npt.NDArray[np.float32]]:
    """Evenly spaced slices of a volume, by their numbers.

    Args:
        middle: Size of a box to the middle of the volume (C, *box).
        long: Slices that there are.
        size: Pixels of a slice.
        axis: Axis of the volume that counts them.
        most: At most so many.
    """
    block = np.moveaxis(middle([*size[:axis], long, *size[axis:]]), axis + 1, 0)  # (slices, C, *size)
    return {int(number): block[number] for number in _spread(long, most)}


def _spread(long: int, most: int) -> npt.NDArray[np.int64]:
    """Numbers of slices, evenly spaced from the first to the last."""
    return np.unique(np.linspace(0, long - 1, min(most, long)).round().astype(np.int64))
