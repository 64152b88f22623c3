"""Whether the interval over seeds and patients holds the truth: `python tests/evaluation/crossed_coverage.py`.

Simulated studies: a difference is the effect of its seed, that of its patient, and noise of deviation 1.
Prints a line of JSON a setting, 2,000 studies each, so that a share has an error of 0.5 %; then what a bootstrap that
draws seeds and patients holds instead (percentile; Owen 2007, https://doi.org/10.1214/07-AOAS122).
"""

import json
import sys
from collections.abc import Iterator

import numpy as np

from medssl.evaluation.statistics import crossed_interval

PATIENT_EFFECTS = {
    "none": lambda rng, count: np.zeros(count),
    "normal": lambda rng, count: rng.normal(size=count),
    "skewed": lambda rng, count: rng.exponential(size=count) - 1,
}
SEED_EFFECTS = (0.0, 0.1, 0.3, 1.0)
"""Deviations of the effect of a seed."""


def coverage(seeds: int, patients: int, seed_effect: float, patient_effect: str, studies: int) -> float:
    """Share of the intervals that hold the true mean, 0."""
    held = 0
    for ours in _studies(seeds, patients, seed_effect, patient_effect, studies):
        interval, _ = crossed_interval(lambda drawn, all_of=ours: all_of[:, drawn].mean(1).tolist(), range(patients))
        held += interval.low <= 0 <= interval.high
    return held / studies


def bootstrap_coverage(seeds: int, patients: int, seed_effect: float, patient_effect: str, studies: int) -> float:
    """Share of the percentile intervals of 1,000 draws of seeds and of patients that hold 0."""
    held, rng = 0, np.random.default_rng(0)
    for ours in _studies(seeds, patients, seed_effect, patient_effect, studies):
        of_seeds, of_patients = (rng.multinomial(n, np.full(n, 1 / n), 1000) / n for n in (seeds, patients))
        low, high = np.quantile(((of_seeds @ ours) * of_patients).sum(1), [0.025, 0.975])
        held += low <= 0 <= high
    return held / studies


def _studies(seeds: int, patients: int, seed_effect: float, patient_effect: str, studies: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng([seeds, patients, int(10 * seed_effect), list(PATIENT_EFFECTS).index(patient_effect)])
    for _ in range(studies):
        ours = rng.normal(size=(seeds, patients)) + seed_effect * rng.normal(size=(seeds, 1))
        yield ours + PATIENT_EFFECTS[patient_effect](rng, patients)


if __name__ == "__main__":
    for seeds in (3, 5):
        for patients in (26, 60):
            for kind in PATIENT_EFFECTS:
                shares = {str(effect): coverage(seeds, patients, effect, kind, 2000) for effect in SEED_EFFECTS}
                told = {"seeds": seeds, "patients": patients, "patient_effect": kind, "by_seed_effect": shares}
                sys.stdout.write(json.dumps(told) + "\n")
    held = {str(seeds): float(bootstrap_coverage(seeds, 26, 1.0, "normal", 2000)) for seeds in (3, 5)}
    sys.stdout.write(json.dumps({"bootstrap, 26 patients, seed_effect 1, normal, by_seeds": held}) + "\n")
