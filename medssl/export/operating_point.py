"""The probability from which a two-class model calls the second class, with what it costs on validation cases."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import nn

from medssl.data.cache import Cache
from medssl.imaging.errors import ConfigError
from medssl.tasks.inference import classify_image
from medssl.tasks.model_file import ModelSpec


def operating_point(
    networks: Sequence[nn.Module],
    spec: ModelSpec,
    cache: Cache,
    threshold: float | Literal["youden"] | None,
    temperature: float = 1.0,
) -> dict[str, Any]:
    """Content of bundle.json's `operating_point`; empty where the more probable class is taken.

    Args:
        networks: One network or the folds.
        spec: Its classes, two of them.
        cache: Cache with validation cases of both classes, on which the point is measured.
        threshold: Probability of the second class, or `youden` (Youden, Cancer 1950): the one with the highest
            sensitivity + specificity.
        temperature: That of the bundle; the point is one of calibrated probabilities.

    Raises:
        ConfigError: Not two classes, or no validation cases of both.
    """
    if threshold is None:
        return {}
    if len(spec.classes) != 2:
        raise ConfigError([f"operation.threshold needs a model of two classes, this one has {len(spec.classes)}"])
    cases = [case for case in cache.cases if case.split == "val" and case.class_name in spec.classes]
    positive = np.array([case.class_name == spec.classes[1] for case in cases], dtype=bool)
    if not positive.any() or positive.all():
        raise ConfigError(
            [f"operation.threshold is measured on validation cases of both classes, {cache.path} does not hold them"]
        )
    score = np.array([classify_image(networks, spec, cache.image(case), temperature)[1] for case in cases])
    chosen = youden_threshold(score, positive) if threshold == "youden" else float(threshold)
    called = score >= chosen
    return {
        "class": spec.classes[1],
        "threshold": chosen,
        "rule": "highest sensitivity + specificity" if threshold == "youden" else "given",
        "sensitivity": float(called[positive].mean()),
        "specificity": float((~called[~positive]).mean()),
        "measured_on": f"{len(cases)} validation cases of {len({case.patient for case in cases})} patients",
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
