"""How many studies without any difference call an arm better or worse: `python tests/evaluation/null_studies.py`.

Simulated studies of four arms that are alike over all patients there could be, at three numbers of labels. Each arm
does better with some patients and worse with others, the same at every number and seed (deviation 1); each training has
an effect of its own (`seed_effect`); the noise of a patient under a training has deviation 1. Prints a line of JSON a
setting: the share of studies with a wrong verdict, with a p-value of the swaps below 0.05, corrected alone, and what
the 95 % interval over seeds alone would have said. Numbers of classes also with few patients of one (`rare`).
"""

import json
import sys
from collections.abc import Iterator

import numpy as np

from medssl.evaluation.rankings import LEVEL, NOT_SHOWN, holm, told
from medssl.evaluation.study_plan import Metric
from medssl.evaluation.study_scores import NetworkScores
from medssl.evaluation.study_table import compare_arms

ARMS, LABELS = ("scratch", "a", "b", "c"), (4, 8, 16)
SEED_EFFECTS = (0.0, 0.1, 0.3, 1.0)


def wrong_verdicts(
    seeds: int, patients: int, seed_effect: float, studies: int, metric: Metric = "dice", rare: int = 0
) -> tuple[float, float, float]:
    """Shares of studies with a wrong verdict, with swaps' p below LEVEL, and with an interval over seeds beside 0.

    Args:
        seeds: Trainings of an arm at a number of labels.
        patients: Test patients.
        seed_effect: Deviation of a training's own effect.
        studies: How many are simulated.
        metric: What is compared.
        rare: Patients of the second class; 0 = half of them.
    """
    wrong = np.zeros(3)
    for rows in _studies(seeds, patients, seed_effect, studies, metric, rare):
        points = compare_arms(rows, ARMS[0], metric)["points"]
        found = [one for point in points for one in point["differences"].values()]
        wrong[0] += any(one["verdict"] != NOT_SHOWN for one in found)
        wrong[1] += any(p_value < LEVEL for p_value in holm([one["p_value"] for one in found]))
        wrong[2] += any(told(one["over_seeds"]["low"], one["over_seeds"]["high"]) != NOT_SHOWN for one in found)
    by_verdict, by_swaps, by_seeds = (wrong / studies).tolist()
    return by_verdict, by_swaps, by_seeds


def _studies(
    seeds: int, patients: int, seed_effect: float, studies: int, metric: Metric, rare: int
) -> Iterator[list[NetworkScores]]:
    names = tuple(f"p{number}" for number in range(patients))
    truth = (np.arange(patients) < rare).astype(np.int64) if rare else np.arange(patients) % 2
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


def _say(metric: Metric, seeds: int, patients: int, seed_effect: float, studies: int, rare: int = 0) -> None:
    found = dict(
        zip(
            ("wrong", "by_swaps_alone", "by_seeds_alone"),
            wrong_verdicts(seeds, patients, seed_effect, studies, metric, rare),
            strict=True,
        )
    )
    setting = {"metric": metric, "seeds": seeds, "patients": patients, "rare": rare or patients // 2}
    sys.stdout.write(json.dumps({**setting, "seed_effect": seed_effect, "studies": studies, **found}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    for effect in SEED_EFFECTS:
        for seeds, patients in ((3, 26), (5, 26), (5, 60)):
            _say("dice", seeds, patients, effect, 400)
        _say("balanced_accuracy", 3, 26, effect, 200)
    _say("auroc", 3, 26, 0.3, 40)
    for effect in (0.0, 0.3):
        for rare in (2, 4, 6):
            _say("balanced_accuracy", 3, 42, effect, 200, rare)
            _say("auroc", 3, 42, effect, 40, rare)
