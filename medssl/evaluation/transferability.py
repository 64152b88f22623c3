"""How well frozen features would transfer, told without fine-tuning: LogME, H-score, and PED before either.

Features are (N, D) and labels (N,) whole numbers of any value. Higher is better for both scores; what they are worth on
a set is the rank correlation with the real fine-tuned result (`ranking`).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import weightedtau
from sklearn.covariance import ledoit_wolf

from medssl.imaging.errors import ConfigError

_Float = npt.NDArray[np.float64]


class _Search(NamedTuple):
    """How the fixed point of LogME is looked for; `floor` keeps a residual of nothing from dividing by zero."""

    iterations: int
    tolerance: float
    floor: float


_RELEASED, _TO_THE_END = _Search(11, 1e-3, 1e-5), _Search(1000, 1e-8, 1e-12)
_NOISE = 1e-6  # relative: rounding of float32 features


def logme(features: npt.ArrayLike, labels: npt.ArrayLike, official: bool = False) -> float:
    """Evidence of a Bayesian linear model on the features, mean over one column a class.

    LogME (You et al., ICML 2021, https://arxiv.org/abs/2102.11005), by the fixed point of its extended version
    (https://arxiv.org/abs/2110.10545). Deviation: the released sum counts `log alpha` for all D features, also where
    there are only k < D singular values. That is no evidence: with fewer images than features it tells how large and
    how many the features are. Here it is counted k times, and the fixed point is looked for to the end.

    Args:
        features: (N, D).
        labels: (N,).
        official: The released sum and its 11 steps instead.

    Raises:
        ConfigError: Features that are not finite or do not vary, shapes that do not fit, or one class only.
    """
    values, classes = _checked(features, labels)
    left, singular, _ = np.linalg.svd(values, full_matrices=False)
    kept = singular > singular.max() * max(values.shape) * np.finfo(np.float64).eps
    left, variance = left[:, kept], singular[kept] ** 2
    columns = (classes[:, None] == np.unique(classes)).astype(np.float64)
    return float(np.mean([_evidence(left, variance, y, values.shape[1] if official else None) for y in columns.T]))


def h_score(features: npt.ArrayLike, labels: npt.ArrayLike, shrink: bool = False) -> float:
    """Trace of the pseudo-inverse covariance of the features times the covariance of their class means.

    Bao et al., ICIP 2019, https://doi.org/10.1109/ICIP.2019.8803726; 0 to `min(classes - 1, D)` without shrinkage.

    Args:
        features: (N, D).
        labels: (N,).
        shrink: Ledoit-Wolf covariance of the features, and the class means' shrunk by as much (Ibrahim et al., ECML
            2022, https://arxiv.org/abs/2110.06893); needed where D comes near N, since the plain score is then near its
            maximum whatever the labels are.

    Raises:
        ConfigError: As `logme`.
    """
    values, classes = _checked(features, labels)
    means = np.stack([values[classes == k].mean(0) for k in np.unique(classes)])[classes]
    centred, between = values - values.mean(0), means - means.mean(0)
    within, share = ledoit_wolf(centred, assume_centered=True) if shrink else (centred.T @ centred / len(values), 0.0)
    return (1 - share) * float(np.trace(np.linalg.pinv(within, hermitian=True) @ (between.T @ between / len(values))))


def ped(
    features: npt.ArrayLike,
    labels: npt.ArrayLike,
    reference: npt.ArrayLike | None = None,
    reach: float = 0.6,
    steps: int = 6,
) -> _Float:
    """Features after classes that overlap have pushed one another away, as fine-tuning would; score them afterwards.

    PED (Li et al., ICCV 2023, https://arxiv.org/abs/2308.15074). Deviation: the neutral features that set the scale are
    given, not those of a set of photographs.

    Args:
        features: (N, D).
        labels: (N,).
        reference: (M, D) features of neutral images, whose deviation is the unit; None = no scaling.
        reach: Radii by which two classes reach for one another (0.6 or 0.3 in the paper).
        steps: At most so many; they end when a displacement is half of the first one or less.

    Returns:
        (N, D).

    Raises:
        ConfigError: As `logme`.
    """
    values, classes = _checked(features, labels)
    shift, scale = np.zeros(values.shape[1]), np.ones(values.shape[1])
    if reference is not None:
        neutral = np.asarray(reference, dtype=np.float64)
        shift, scale = neutral.mean(0), np.maximum(neutral.std(0), 1e-3)
    values = (values - shift) / scale
    first = 0.0
    for step in range(steps):
        moves = displacements(values, classes, reach)
        size = float(np.linalg.norm(list(moves.values()), axis=1).sum())
        first = size if step == 0 else first
        if size == 0 or (step > 0 and size <= 0.5 * first):
            break
        values = values + np.stack([moves[k] for k in classes])
    return values * scale + shift


def displacements(
    values: _Float, labels: npt.NDArray[np.int64], reach: float, time_step: float = 0.1, stiffness: float = 1.0
) -> dict[int, _Float]:
    """Class to the vector (D,) by which it moves in a step of `ped`: away from each class that it overlaps."""
    names = [int(k) for k in np.unique(labels)]
    means = {k: values[labels == k].mean(0) for k in names}
    radii = {k: math.sqrt(float(values[labels == k].var(0).sum())) for k in names}
    moves = {k: np.zeros(values.shape[1]) for k in names}
    for one in names:
        for other in names:
            away = means[one] - means[other]
            distance = float(np.linalg.norm(away))
            overlap = max(reach * (radii[one] + radii[other]) - distance, 0.0)
            if one != other and overlap > 0 and distance > 0:
                moves[one] = moves[one] + min(0.5 * time_step**2 * stiffness * overlap, overlap) * away / distance
    return moves


SCORES: dict[str, Callable[[npt.ArrayLike, npt.ArrayLike], float]] = {
    "logme": logme,
    "h_score": lambda features, labels: h_score(features, labels, shrink=True),
    "ped_logme": lambda features, labels: logme(ped(features, labels, reference=features), labels),
}
"""Name to score, as `medssl curve` and `medssl evaluate` of an encoder report them; PED's unit is the deviation of the
scored features themselves."""


def ranking(scores: Sequence[float], results: Sequence[float]) -> float:
    """Weighted Kendall tau (Vigna 2015) of scores and fine-tuned results: 1 = the same order, the top counts most.

    NaN where fewer than two are given or all are alike.
    """
    if len(scores) < 2:
        return math.nan
    return float(weightedtau(scores, results)[0])


def _evidence(left: _Float, variance: _Float, target: _Float, released_width: int | None) -> float:
    search = _TO_THE_END if released_width is None else _RELEASED
    if released_width is None and len(variance):  # the maximum does not depend on the scale, the way to it does
        variance = variance / variance.max()
    count = len(target)
    along = left.T @ target
    residual = float(target @ target - along @ along)
    alpha = beta = 1.0
    ratio = alpha / beta
    for _ in range(search.iterations):
        ratio = alpha / beta
        gamma = float((variance / (variance + ratio)).sum())
        weights = float((variance * along**2 / (ratio + variance) ** 2).sum())
        error = float((along**2 / (1 + variance / ratio) ** 2).sum()) + residual
        alpha, beta = gamma / (weights + search.floor), (count - gamma) / (error + search.floor)
        if abs(alpha / beta - ratio) / ratio <= search.tolerance:
            break
    terms = (
        (released_width or len(variance)) * math.log(alpha)
        + count * math.log(beta)
        - float(np.log(alpha + beta * variance).sum())
        - beta * error
        - alpha * weights
        - count * math.log(2 * math.pi)
    )
    return 0.5 * terms / count


def _checked(features: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[_Float, npt.NDArray[np.int64]]:
    values, classes = np.asarray(features, dtype=np.float64), np.asarray(labels)
    problems = []
    if values.ndim != 2 or classes.shape != values.shape[:1]:
        problems.append(f"features (N, D) and labels (N,) are needed, got {values.shape} and {classes.shape}")
    if not np.isfinite(values).all():
        problems.append("features hold numbers that are not finite: the encoder failed on some images")
    elif values.size and np.ptp(values, axis=0).max() <= _NOISE * np.abs(values).max():
        problems.append("features do not vary over the cases: the encoder collapsed, or there is one case")
    if len(np.unique(classes)) < 2:
        problems.append("labels are all of one class, so there is nothing to tell apart")
    if problems:
        raise ConfigError(problems)
    return values, np.unique(classes, return_inverse=True)[1]
