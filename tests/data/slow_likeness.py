"""Plain likeness of hashes and of embeddings, one image against others: the oracle of the search by faiss."""

import numpy as np

from medssl.data.likeness import Likeness


def by_hash(hashes: np.ndarray) -> Likeness:
    """Minus the Hamming distance of hashes (N, 8)."""
    return lambda item, others: -np.bitwise_count(hashes[others] ^ hashes[item]).sum(1).astype(np.float64)


def by_cosine(embeddings: np.ndarray) -> Likeness:
    """Cosine of embeddings (N, E)."""
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return lambda item, others: (units[others] @ units[item]).astype(np.float64)
