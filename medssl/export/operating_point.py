"""The probability from which a two-class model calls the second class, with what it costs on validation cases."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medssl.export.trained import Trained
from medssl.imaging.errors import ConfigError
from medssl.tasks.inference import classify_image


def operating_point(
    trained: Trained,
    threshold: float | Literal["youden"] | None,
    temperature: float = 1.0,
) -> dict[str, Any]:
    """Content of bundle.json's `operating_point`; empty where the more probable class is taken.

    Args:
        trained: Networks of two classes and cases; each case is scored by the networks that have not learned from its
            patient, so of folds by some of those that the bundle averages.
        threshold: Probability of the second class, or `youden` (Youden, Cancer 1950): the one with the highest
            sensitivity + specificity.
        temperature: That of the bundle; the point is one of calibrated probabilities.

    Raises:
        ConfigError: No cases of both classes that a network has not learned from.
    """
    if threshold is None:
        return {}
    spec, cache = trained.spec, trained.cache
    held = trained.held_out()
    positive = np.array([case.class_name == spec.classes[1] for case, _ in held], dtype=bool)
    if not positive.any() or positive.all():
        raise ConfigError(
            [
                "operation.threshold is measured on validation cases of both classes whose patients the network, or "
                f"one of the folds, has not learned from; {cache.path} holds {len(held)} such case(s), of one class "
                "at most"
            ]
        )
    score = np.array(
        [
            classify_image([trained.networks[n] for n in unseen], spec, cache.image(case), temperature)[1]
            for case, unseen in held
        ]
    )
    chosen = youden_threshold(score, positive) if threshold == "youden" else float(threshold)
    called = score >= chosen
    return {
        "class": spec.classes[1],
        "threshold": chosen,
        "rule": "highest sensitivity + specificity" if threshold == "youden" else "given",
        "sensitivity": float(called[positive].mean()),
        "specificity": float((~called[~positive]).mean()),
        "measured_on": f"{len(held)} validation cases of {len({case.patient for case, _ in held})} patients",
        "measured_by": trained.measured_by([case for case, _ in held]),
    }


def youden_threshold(score: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> float:
    """Threshold with the highest sensitivity + specificity, half-way to the next lower score; the lowest of equals.

    Args:
        score: (cases,) probability of the positive class.
        positive: (cases,) truth, both values present.
    """
    values = np.unique(score)
    gain = [float((score[positive] >= v).mean() + (score[~positive] < v).mean()) for v in values]
    best = int(np.argmax(gain))
    return float(values[best] if best == 0 else (values[best - 1] + values[best]) / 2)
