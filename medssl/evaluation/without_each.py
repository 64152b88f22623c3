"""Numbers of all cases without each patient in turn, for a jackknife: what a patient adds is taken away.

Each takes true class numbers (n,), probabilities (n, K) and the number of each case's patient (n,), 0 to P - 1, and
gives (P,): the metric of the same name (`medssl.evaluation.class_metrics`) of the other patients' cases; NaN where a
mean over classes lacks a class without that patient, and where it is not defined.
"""

import numpy as np
import numpy.typing as npt

_Int = npt.NDArray[np.int64]
_Float = npt.NDArray[np.float64]
_Bool = npt.NDArray[np.bool_]


def auroc_without_each(truth: _Int, shares: _Float, patients: _Int) -> _Float:
    """AUROC: pairs of cases of unlike class in which the positive one is ahead, less those that the patient is in."""
    asked = [1] if shares.shape[1] == 2 else range(shares.shape[1])
    sides = [(truth == k, shares[:, k]) for k in asked]
    found = [_one_class(positive, scores, patients) for positive, scores in sides if 0 < positive.sum() < len(truth)]
    return np.asarray(np.mean(found, axis=0)) if found else np.full(patients.max() + 1, np.nan)


def balanced_accuracy_without_each(truth: _Int, shares: _Float, patients: _Int) -> _Float:
    """Mean share of right answers over the classes that occur."""
    table, occur = _confusion(truth, shares, patients), np.unique(truth)
    cases, right = table.sum(2)[:, occur], np.diagonal(table, axis1=1, axis2=2)[:, occur]
    return np.asarray(np.where(cases > 0, right / np.maximum(cases, 1), np.nan).mean(1))


def quadratic_kappa_without_each(truth: _Int, shares: _Float, patients: _Int) -> _Float:
    """Cohen's kappa with quadratic weights."""
    table, places = _confusion(truth, shares, patients), np.arange(shares.shape[1])
    distance = (places[:, None] - places) ** 2.0
    by_chance = np.einsum("pi,ij,pj->p", table.sum(2), distance, table.sum(1))
    found = (distance * table).sum((1, 2)) * table.sum((1, 2))
    return np.where(by_chance > 0, 1 - found / np.where(by_chance > 0, by_chance, 1.0), np.nan)


def _one_class(positive: _Bool, scores: _Float, patients: _Int) -> _Float:
    """(P,) AUROC of one class against the rest."""
    ahead = np.empty(len(scores))  # pairs of each case that are in order
    ahead[positive] = _above(scores[positive], scores[~positive])
    ahead[~positive] = positive.sum() - _above(scores[~positive], scores[positive])
    with_it, without = np.bincount(patients, positive), np.bincount(patients, ~positive)
    lost = np.bincount(patients, ahead)
    members = np.split(np.argsort(patients, kind="stable"), np.cumsum(np.bincount(patients))[:-1])
    for patient in np.flatnonzero((with_it > 0) & (without > 0)):  # its own pairs were counted from either side
        own = members[patient]
        lost[patient] -= _above(scores[own][positive[own]], scores[own][~positive[own]]).sum()
    pairs = (with_it.sum() - with_it) * (without.sum() - without)
    return np.where(pairs > 0, (ahead[positive].sum() - lost) / np.maximum(pairs, 1), np.nan)


def _above(scores: _Float, others: _Float) -> _Float:
    """(n,) how many of the others each score is above; ties count half."""
    ranked = np.sort(others)
    return np.asarray((np.searchsorted(ranked, scores, "left") + np.searchsorted(ranked, scores, "right")) / 2)


def _confusion(truth: _Int, shares: _Float, patients: _Int) -> _Float:
    """(P, K, K) true and likeliest classes of the cases of all other patients."""
    count, classes = int(patients.max()) + 1, shares.shape[1]
    cells = np.bincount((patients * classes + truth) * classes + shares.argmax(1), minlength=count * classes**2)
    table = cells.reshape(count, classes, classes).astype(np.float64)
    return np.asarray(table.sum(0) - table)
