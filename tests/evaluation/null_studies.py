"""How many studies without any difference call an arm better or worse: `python tests/evaluation/null_studies.py`.

Simulated studies of four arms that are alike over all patients there could be, at three numbers of labels. Each arm
does better with some patients and worse with others, the same at every number and seed (deviation 1); each training has
an effect of its own (`seed_effect`); the noise of a patient under a training has deviation 1. Prints a line of JSON a
setting: the share of studies with a wrong verdict, and what the 95 % interval over seeds alone would have said.
"""

import json
import sys
from collections.abc import Iterator

import numpy as np

from medssl.evaluation.rankings import NOT_SHOWN, told
from medssl.evaluation.study_plan import Metric
from medssl.evaluation.study_table import NetworkScores, compare_arms

ARMS, LABELS = ("scratch", "a", "b", "c"), (4, 8, 16)
SEED_EFFECTS = (0.0, 0.1, 0.3, 1.0)


def wrong_verdicts(
    seeds: int, patients: int, seed_effect: float, studies: int, metric: Metric = "dice"
) -> tuple[float, float]:
    """Shares of studies with a wrong verdict, and with an interval over seeds alone that leaves 0 out."""
    wrong = np.zeros(2)
    for rows in _studies(seeds, patients, seed_effect, studies, metric):
        points = compare_arms(rows, ARMS[0], metric)["points"]
        found = [one for point in points for one in point["differences"].values()]
        wrong[0] += any(one["verdict"] != NOT_SHOWN for one in found)
        wrong[1] += any(told(one["over_seeds"]["low"], one["over_seeds"]["high"]) != NOT_SHOWN for one in found)
    return float(wrong[0] / studies), float(wrong[1] / studies)


def _studies(
    seeds: int, patients: int, seed_effect: float, studies: int, metric: Metric
) -> Iterator[list[NetworkScores]]:
    names = tuple(f"p{number}" for number in range(patients))
    truth = np.arange(patients) % 2
    for study in range(studies):
        rng = np.random.default_rng([seeds, patients, int(10 * seed_effect), study])
        of_arm = {arm: rng.normal(size=patients) for arm in ARMS}
        rows = []
        for arm in ARMS:
            for labels in LABELS:
                for seed in range(seeds):
                    values = of_arm[arm] + seed_effect * rng.normal() + rng.normal(size=patients)
                    if metric != "dice":  # what helps a patient moves it to the side of its class
                        share = 1 / (1 + np.exp(-(values + 1) * (2 * truth - 1)))
                        values = np.stack([1 - share, share], 1)
                    of_classes = None if metric == "dice" else truth
                    rows.append(NetworkScores(arm, labels, seed, names, names, values, of_classes))
        yield rows


def _say(metric: Metric, seeds: int, patients: int, seed_effect: float, studies: int) -> None:
    now, before = wrong_verdicts(seeds, patients, seed_effect, studies, metric)
    setting = {"metric": metric, "seeds": seeds, "patients": patients, "seed_effect": seed_effect, "studies": studies}
    sys.stdout.write(json.dumps({**setting, "wrong": now, "by_seeds_alone": before}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    for effect in SEED_EFFECTS:
        for seeds, patients in ((3, 26), (5, 26), (5, 60)):
            _say("dice", seeds, patients, effect, 400)
        _say("balanced_accuracy", 3, 26, effect, 200)
    _say("auroc", 3, 26, 0.3, 40)
