"""Whether two arms differ on the same patients: whole patients change sides, all seeds of one together."""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from medssl.evaluation.class_metrics import ClassMetric, average_precision, brier, calibration_error
from medssl.evaluation.rankings import told_tested
from medssl.evaluation.statistics import Interval

ClassNumber = Literal[
    "auroc", "average_precision", "balanced_accuracy", "accuracy", "calibration_error", "brier", "quadratic_kappa"
]
_OF_ORDER = ("auroc", "average_precision")  # numbers that know the order of the cases alone
_OF_ANSWERS = ("balanced_accuracy", "accuracy", "quadratic_kappa")  # numbers that know the likeliest class alone

_EXACT = 14  # patients up to which every swap is tried
_DRAWS = 9999  # swaps, where there are more patients: p can still be small among a hundred comparisons
_ENDS: tuple[Literal["left", "right"], ...] = ("left", "right")  # of ties, which count half
_ELEMENTS = 2_000_000  # answers in memory at a time

PAIRED_TEST = (
    "Better or worse is said where the 95 % interval leaves 0 out and p is below 0.05. p: whole patients change sides "
    "between the two, and the difference is measured anew; with fewer than 6 patients whom the two answer differently "
    "p cannot be so small. Neither is corrected for the number of comparisons."
)
"""What readers of a paired comparison must know."""

_Int = npt.NDArray[np.int64]
_Float = npt.NDArray[np.float64]
_Bool = npt.NDArray[np.bool_]
_EPS = 1e-12  # a swap that changes nothing is as extreme


@dataclass(frozen=True)
class SwapTest:
    """A two-sided permutation test that the arms are alike.

    Every swap is tried where 14 patients or fewer can change something, otherwise so many are drawn (and the test
    itself counts as one, so that no p-value is 0; Phipson and Smyth 2010, https://doi.org/10.2202/1544-6115.1585).

    Args:
        p_value: Share of swaps whose difference is as large.
        smallest: The least that it could be, with so many patients whose swap can change something.
    """

    p_value: float
    smallest: float

    def told(self, difference: Interval, smaller: bool = False) -> dict[str, Any]:
        """The test of a difference with its verdict; JSON-able.

        Args:
            difference: Ours minus theirs, over the same patients.
            smaller: Whether less is better.
        """
        ends = (-difference.high, -difference.low) if smaller else (difference.low, difference.high)
        numbers = {"p_value": self.p_value, "smallest_p_value": self.smallest}
        plain = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return {**plain, "verdict": told_tested(*ends, self.p_value)}


def swap_means(differences: Sequence[float], clusters: Sequence[Hashable], draws: int = _DRAWS) -> SwapTest:
    """Test that paired differences have mean 0; a patient's change their sign together.

    Args:
        differences: One a case; NaN is left out.
        clusters: Patient of each case.
        draws: Swaps, where not all are tried.

    Returns:
        NaN with no finite difference.
    """
    sums: dict[Hashable, float] = {}
    for difference, cluster in zip(differences, clusters, strict=True):
        if math.isfinite(difference):
            sums[cluster] = sums.get(cluster, 0.0) + difference
    if not sums:
        return SwapTest(math.nan, math.nan)
    values = np.array(list(sums.values())) / (np.abs(list(sums.values())).sum() or 1.0)
    values = values[np.abs(values) > _EPS]
    return _test(lambda swapped: (1 - 2 * swapped) @ values, len(values), draws, max(len(values), 1))


def swap_answers(
    metric: ClassNumber,
    truth: _Int,
    shares: Sequence[tuple[_Float, _Float]],
    clusters: Sequence[Hashable],
    draws: int = _DRAWS,
    weights: Sequence[float] | _Float = (),
) -> SwapTest:
    """Test that two arms differ in a number of all cases, measured anew for every swap of their answers.

    What a patient brings to such a number depends on the others, so no sum over patients stands for it. For AUROC and
    average precision the probabilities are first brought to one scale: arms may be surer than others or put all
    probabilities higher, which these numbers do not know, and mixed ones would say more of that than of the order.

    Args:
        metric: Which number.
        truth: (n,) class numbers.
        shares: Of each seed the probabilities of classes, (n, K), of both arms.
        clusters: Patient of each case.
        draws: Swaps, where not all are tried.
        weights: What the difference of each seed counts in the sum that is tested; all alike when left out.
    """
    measure = _MEASURES[metric]
    called = [(a.argmax(1)[:, None], b.argmax(1)[:, None]) for a, b in shares] if metric in _OF_ANSWERS else shares
    unlike = np.any([(ours != theirs).any(1) for ours, theirs in called], axis=0)
    answers = [_on_one_scale(a, b, ~unlike) for a, b in called] if metric in _OF_ORDER else called
    patients, position = _who_differ(clusters, unlike)

    def difference(swapped: _Bool) -> _Float:
        cases = _of_cases(swapped, position)[:, :, None]
        each = [measure(truth, np.where(cases, b, a)) - measure(truth, np.where(cases, a, b)) for a, b in answers]
        return np.asarray(np.average(each, axis=0) if not len(weights) else np.asarray(weights) @ each)

    return _test(difference, patients, draws, answers[0][0].size)


def swap_scores(
    answers: _Bool, scores: Sequence[tuple[_Float, _Float]], clusters: Sequence[Hashable], draws: int = _DRAWS
) -> SwapTest:
    """Test that two arms differ in AUROC, mean over questions and over pairs of scores on whatever scale.

    Each column of an arm is brought to median 0 and quartiles 1 apart. What two cases of unlike answer add to the
    difference is, whichever of them changes sides, a sum of what each adds; so every swap is measured, exactly, by
    what its patients add, without a rank anew.

    Args:
        answers: (n, Q), a column a question; one with a single answer is left out.
        scores: Of each draw and encoder those of both arms, (n, Q).
        clusters: Patient of each case.
        draws: Swaps, where not all are tried.

    Returns:
        NaN where no question has both answers.
    """
    asked = np.flatnonzero(answers.any(0) & ~answers.all(0))
    added = [_added(answers[:, k], ours[:, k], theirs[:, k]) for ours, theirs in scores for k in asked]
    return swap_means(np.mean(added, axis=0).tolist() if added else [math.nan] * len(answers), clusters, draws)


def _added(answers: _Bool, ours: _Float, theirs: _Float) -> _Float:
    """(n,) what each case adds to the difference of two AUROCs; swapped it takes that away instead."""
    first, second = _scaled(ours), _scaled(theirs)
    found = np.empty(len(answers))
    for side, sign in ((answers, 1), (~answers, -1)):
        others = np.sort(np.concatenate([first[~side], second[~side]]))
        ends = [np.searchsorted(others, first[side], end) - np.searchsorted(others, second[side], end) for end in _ENDS]
        found[side] = sign * np.sum(ends, axis=0)
    return np.asarray(found / (4 * answers.sum() * (~answers).sum()))


def swap_medians(ours: _Float, theirs: _Float, clusters: Sequence[Hashable], draws: int = _DRAWS) -> SwapTest:
    """Test that two arms differ in the median of all their numbers, measured anew for every swap.

    Args:
        ours: (runs, n, ...), NaN where there is none; so in both arms.
        theirs: (k runs, n, ...), each k-th of them beside ours.
        clusters: Patient of each of the n cases.
        draws: Swaps, where not all are tried.

    Returns:
        NaN with no finite number.
    """
    first = np.tile(ours, (len(theirs) // len(ours), *[1] * (ours.ndim - 1)))
    known = np.isfinite(first) & np.isfinite(theirs)
    if not known.any():
        return SwapTest(math.nan, math.nan)
    a, b, case = first[known], theirs[known], np.nonzero(known)[1]
    patients, position = _who_differ(clusters, np.isin(np.arange(len(clusters)), case[a != b]))

    def difference(swapped: _Bool) -> _Float:
        moved = _of_cases(swapped, position)[:, case]
        return np.asarray(np.median(np.where(moved, b, a), axis=1) - np.median(np.where(moved, a, b), axis=1))

    return _test(difference, patients, draws, len(a))


def _who_differ(clusters: Sequence[Hashable], unlike: _Bool) -> tuple[int, _Int]:
    """How many patients have a case that the arms answer differently, and which of them each case is of, or none: n."""
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(np.array(clusters)[unlike].tolist()))}
    return len(numbers), np.array([numbers.get(cluster, len(numbers)) for cluster in clusters])


def _of_cases(swapped: _Bool, position: _Int) -> _Bool:
    """(swaps, n) whether a case changes sides, of patients who do, as `_who_differ` numbers them."""
    return np.asarray(np.hstack([swapped, np.zeros((len(swapped), 1), dtype=bool)])[:, position])


def _on_one_scale(ours: _Float, theirs: _Float, alike: _Bool) -> tuple[_Float, _Float]:
    """Logits of each column with median 0 and quartiles 1 apart; cases that both arms answer alike stay alike."""
    scaled = []
    for shares in (ours, theirs):
        within = np.clip(shares, _EPS, 1 - _EPS)
        scaled.append(_scaled(np.log(within) - np.log1p(-within)))
    between = (scaled[0] + scaled[1]) / 2
    first, second = (np.where(alike[:, None], between, one) for one in scaled)
    return first, second


def _scaled(scores: _Float) -> _Float:
    """Scores of each column with median 0 and quartiles 1 apart: few patients, however far off, hardly move others."""
    low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75], axis=0)
    return np.asarray((scores - middle) / np.where(high - low > _EPS, high - low, 1.0))


def smallest_p_value(patients: int, draws: int) -> float:
    """The least that a swap test gives with so many patients whose swap changes something."""
    return min(2 / 2**patients, 1.0) if patients <= _EXACT else 1 / (draws + 1)


def _test(difference: Callable[[_Bool], _Float], patients: int, draws: int, elements: int) -> SwapTest:
    """Try swaps, given as (swaps, patients); `elements` are the answers of one swap. NaN counts as extreme."""
    found = abs(float(difference(np.zeros((1, patients), dtype=bool))[0])) - _EPS
    block = max(_ELEMENTS // elements, 1)
    extreme = sum(int((~(np.abs(difference(s)) < found)).sum()) for s in _swaps(patients, draws, block))
    p_value = extreme / 2**patients if patients <= _EXACT else (1 + extreme) / (1 + draws)
    return SwapTest(p_value, smallest_p_value(patients, draws))


def _swaps(patients: int, draws: int, block: int) -> Iterator[_Bool]:
    """Every swap of few patients, or so many that are drawn; in blocks of rows."""
    rng = np.random.default_rng(0)
    total = 2**patients if patients <= _EXACT else draws
    for begin in range(0, total, block):
        end = min(begin + block, total)
        if patients <= _EXACT:
            yield (np.arange(begin, end)[:, None] >> np.arange(patients)) & 1 == 1
        else:
            yield rng.random((end - begin, patients)) < 0.5


def _aurocs(truth: _Int, shares: _Float) -> _Float:
    """`class_metrics.auroc` of (swaps, n, K) probabilities by their ranks (Mann and Whitney 1947); NaN of one class."""
    classes = shares.shape[2]
    found = []
    for k in [1] if classes == 2 else range(classes):
        positive = truth == k
        count = int(positive.sum())
        if 0 < count < len(truth):
            ranks = stats.rankdata(shares[:, :, k], axis=1)[:, positive].mean(1)
            found.append((ranks - (count + 1) / 2) / (len(truth) - count))
    return np.asarray(np.mean(found, axis=0)) if found else np.full(len(shares), np.nan)


def _each(metric: ClassMetric) -> Callable[[_Int, _Float], _Float]:
    """A number of (swaps, n, K) probabilities, one swap after the other."""
    return lambda truth, shares: np.array([metric(truth, one) for one in shares])


def _accuracies(truth: _Int, chosen: _Int) -> _Float:
    """`class_metrics.accuracy` of (swaps, n, 1) answers."""
    return np.asarray((chosen[:, :, 0] == truth).mean(1))


def _balanced_accuracies(truth: _Int, chosen: _Int) -> _Float:
    """`class_metrics.balanced_accuracy` of (swaps, n, 1) answers."""
    right = chosen[:, :, 0] == truth
    return np.asarray(np.mean([right[:, truth == k].mean(1) for k in np.unique(truth)], axis=0))


def _kappas(truth: _Int, chosen: _Int) -> _Float:
    """`class_metrics.quadratic_kappa` of (swaps, n, 1) answers, by moments; NaN where only one class occurs."""
    answers, truth = chosen[:, :, 0].astype(np.float64), truth.astype(np.float64)
    by_chance = (truth**2).mean() - 2 * truth.mean() * answers.mean(1) + (answers**2).mean(1)
    found = ((answers - truth) ** 2).mean(1)
    known = by_chance > _EPS
    return np.where(known, 1 - found / np.where(known, by_chance, 1.0), np.nan)


_MEASURES: dict[ClassNumber, Callable[[_Int, npt.NDArray[Any]], _Float]] = {
    "auroc": _aurocs,
    "average_precision": _each(average_precision),
    "accuracy": _accuracies,
    "calibration_error": _each(calibration_error),
    "brier": _each(brier),
    "balanced_accuracy": _balanced_accuracies,
    "quadratic_kappa": _kappas,
}
