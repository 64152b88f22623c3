"""Cases to look at again: a class that their features contradict, and features that are far from all others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medssl.evaluation.feature_files import FeatureTable
from medssl.evaluation.probes import PENALTIES, TEMPERATURE
from medssl.evaluation.retrieval import Neighbour

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Doubts:
    """Of N rows, all of which have a class.

    Args:
        rows: (N,) places in the table.
        classes: K names.
        given: (N,) number of the class of each.
        neighbours: (N, K) share of each class among the neighbours, weighted.
        probe: (N, K) probabilities of a linear probe that did not learn from the patient.
        thresholds: (K,) mean probability of each class among its own cases.
        counted: (N, K) share of each class among the neighbours, each counted once.
    """

    rows: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    given: npt.NDArray[np.int64]
    neighbours: Numbers
    probe: Numbers
    thresholds: Numbers
    counted: Numbers

    @property
    def by_neighbours(self) -> npt.NDArray[np.int64]:
        """Class of more than half of the neighbours, by number and by weight, where it is not the given one; else -1.

        By weight alone one near neighbour, a copy of another patient's image, would outvote all others.
        """
        most = self.neighbours.argmax(1)
        by_number = self.counted[np.arange(len(most)), most] > 0.5
        return np.where((most != self.given) & (self.neighbours.max(1) > 0.5) & by_number, most, -1)

    @property
    def by_probe(self) -> npt.NDArray[np.int64]:
        """Class that the probe is surer of than of the given one, and as sure as of its own cases; -1 elsewhere."""
        sure = np.where(self.probe >= self.thresholds, self.probe, -1.0)
        best = sure.argmax(1)
        places = np.arange(len(self.given))
        surer = self.probe[places, best] > self.probe[places, self.given]
        return np.where((sure.max(1) >= 0) & surer, best, -1)

    @property
    def scores(self) -> Numbers:
        """(N,) from 0 to 1: how little neighbours and probe believe in the given class, mean of both."""
        places = np.arange(len(self.given))
        believed: Numbers = (self.neighbours[places, self.given] + self.probe[places, self.given]) / 2
        return 1 - believed


def judged_rows(table: FeatureTable, least: int = 2) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Rows whose class can be judged, and what is left out, a sentence each.

    Args:
        table: The features.
        least: Patients that a class needs.
    """
    given, patients = table.columns["class"], table.columns["patient"]
    owners = {name: {p for p, c in zip(patients, given, strict=True) if c == name} for name in sorted(set(given))}
    few = [name for name, own in owners.items() if name and len(own) < least]
    told = [f"class {name!r} has {len(owners[name])} patient(s): its cases are not judged" for name in few]
    bare = sum(not name for name in given)
    if bare:
        told.append(f"{bare} of {len(given)} rows have no class and are looked at as outliers only")
    rows = np.array([n for n, name in enumerate(given) if name and name not in few], dtype=np.int64)
    if len({given[row] for row in rows}) < 2:
        told.append("mislabelled cases are not looked for: that needs two classes with patients of their own")
        return rows[:0], told
    return rows, told


def label_doubts(
    table: FeatureTable, rows: npt.NDArray[np.int64], near: Sequence[Sequence[Neighbour]], folds: int, seed: int
) -> Doubts:
    """Ask neighbours and a cross-validated probe about the class of each row.

    Neighbours vote with weights `exp(cosine / 0.07)`, as in the kNN probe. The probe is a logistic regression on
    standardised features, folds keep patients together, and its penalty is the one with the lowest loss out of fold.
    Who is as sure of another class as that class's own cases are is a doubt: confident learning (Northcutt, Jiang and
    Chuang, JAIR 70, 2021, https://arxiv.org/abs/1911.00068), without its estimate of how many labels are wrong.
    Deviation: the probe must also be surer of it than of the given class, which a rare class with a low bar needs.

    Args:
        table: The features.
        rows: Of which, from `judged_rows`.
        near: Neighbours of each, of other patients and among `rows`.
        folds: At most so many; fewer where a class has fewer patients.
        seed: Seed of the folds.
    """
    names, patients = np.array(table.columns["class"])[rows], np.array(table.columns["patient"])[rows]
    classes, given = np.unique(names, return_inverse=True)
    number_of = {int(row): int(k) for row, k in zip(rows, given, strict=True)}
    shares, counted = np.zeros((2, len(rows), len(classes)))
    for place, others in enumerate(near):
        weights = np.exp(np.array([n.likeness for n in others]) / TEMPERATURE)
        own = [number_of[n.row] for n in others]
        np.add.at(shares[place], own, weights / max(weights.sum(), 1e-12))
        np.add.at(counted[place], own, 1 / max(len(own), 1))
    fewest = min(len(set(patients[given == k])) for k in range(len(classes)))
    probe = _out_of_fold(table.vectors[rows].astype(np.float64), given, patients, min(folds, fewest), seed)
    thresholds = np.array([probe[given == k, k].mean() for k in range(len(classes))])
    return Doubts(rows, tuple(map(str, classes)), given, shares, probe, thresholds, counted)


def outlier_scores(near: Sequence[Sequence[Neighbour]]) -> Numbers:
    """How far rows are from their neighbours, against how far rows usually are.

    The mean distance to the neighbours (Sun et al., ICML 2022, https://arxiv.org/abs/2204.06507, take that to the k-th,
    of unit vectors, which is blind to strange images that lie in a common direction) as the modified z-score of its
    logarithm (Iglewicz and Hoaglin 1993), which one far row does not widen.

    Args:
        near: Neighbours of each row, of other patients, by distance.
    """
    distances = np.log([max(-float(np.mean([n.likeness for n in others])), 1e-9) for others in near])
    middle = np.median(distances)
    spread = np.median(np.abs(distances - middle))
    scores: Numbers = 0.6745 * (distances - middle) / max(float(spread), 1e-9)
    return scores


def _out_of_fold(
    values: Numbers, given: npt.NDArray[np.int64], patients: npt.NDArray[np.str_], folds: int, seed: int
) -> Numbers:
    parts = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(values, given, patients))
    tried = []
    for penalty in PENALTIES:
        found = np.zeros((len(values), int(given.max()) + 1))
        for known, asked in parts:
            if len(set(given[known])) < 2:  # all patients of the other classes are in one fold: nothing is known
                found[asked] = 1 / found.shape[1]
                continue
            model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=1000))
            model.fit(values[known], given[known])
            found[np.ix_(asked, model.classes_)] = model.predict_proba(values[asked])
            unknown = asked[~np.isin(given[asked], model.classes_)]  # all patients of their class are in this fold
            found[unknown] = 1 / found.shape[1]
        tried.append((log_loss(given, found, labels=range(found.shape[1])), found))
    return min(tried, key=lambda pair: pair[0])[1]
