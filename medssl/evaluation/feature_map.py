"""Features of images on a plane, by the answers to what was asked."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

from medssl.evaluation.probe_data import ProbeData


def principal_map(features: npt.NDArray[np.float32], data: ProbeData) -> dict[str, Any] | None:
    """The two directions of greatest variance of split test; None where there are no two. JSON-able.

    Args:
        features: (N, E) of all images.
        data: Their answers: exclusive classes by name, otherwise the first question.

    Returns:
        `method`, `explained` (share of the variance of each direction), `points`: answer to its images' (x, y).
    """
    rows = data.rows("test").numpy()
    values = np.asarray(features[rows], dtype=np.float64)
    if np.linalg.matrix_rank(values - values.mean(0)) < 2:
        return None
    fitted = PCA(n_components=2, svd_solver="full").fit(values)
    places = fitted.transform(values)
    answers = [_answer(answer, data) for answer in data.targets[rows].numpy()]
    return {
        "method": "PCA",
        "explained": [float(share) for share in fitted.explained_variance_ratio_],
        "points": {
            name: [[float(x), float(y)] for (x, y), own in zip(places, answers, strict=True) if own == name]
            for name in sorted(set(answers))
        },
    }


def _answer(answer: npt.NDArray[np.bool_], data: ProbeData) -> str:
    if data.exclusive:
        return data.names[int(answer.argmax())]
    return data.names[0] if answer[0] else f"not {data.names[0]}"
