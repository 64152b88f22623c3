"""Plain likeness of embeddings, one image against others: the oracle of the search by faiss."""

import numpy as np

from medssl.data.likeness import Likeness


def by_cosine(embeddings: np.ndarray) -> Likeness:
    """Cosine of embeddings (N, E)."""
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return lambda item, others: (units[others] @ units[item]).astype(np.float64)
