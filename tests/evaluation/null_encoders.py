"""How often an encoder that learned nothing is called better: `python tests/evaluation/null_encoders.py`.

Encoders vary by their weights (deviation 0.04 of AUROC), their difference by the patients (0.01), over which the
interval and p are, which agree here: of one comparison, not corrected. Prints a line of JSON a number of random
encoders: the share by the interval alone, and by `told_beside`.
"""

import json
import sys

import numpy as np
from scipy import stats

from medssl.evaluation.rankings import told, told_beside

WEIGHTS, PATIENTS = 0.04, 0.01


def called_better(encoders: int, trials: int) -> tuple[float, float]:
    """Shares of trials, by the interval alone and where every random encoder is worse as well."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0, WEIGHTS, trials), rng.normal(0, WEIGHTS, (trials, encoders))
    seen = ours - theirs.mean(1) + rng.normal(0, PATIENTS, trials)
    p_values = 2 * stats.norm.sf(np.abs(seen) / PATIENTS)
    ends = [(one - 1.96 * PATIENTS, one + 1.96 * PATIENTS) for one in seen]
    alone = [told(*end) == "better" for end in ends]
    beside = [
        told_beside(o, t, *end, p) == "better"
        for o, t, end, p in zip(ours, theirs.tolist(), ends, p_values, strict=True)
    ]
    return float(np.mean(alone)), float(np.mean(beside))


if __name__ == "__main__":
    for number in (3, 9, 20):
        interval, both = called_better(number, 20_000)
        sys.stdout.write(json.dumps({"encoders": number, "interval": interval, "beside": both}) + "\n")
