"""How alike two images are: hashes of differences, structural similarity, mutual information, cosine of embeddings.

Likeness is of images of one size (N, H, W), and higher is more alike; hashes and embeddings are searched by
`near_duplicates`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from sklearn.metrics import normalized_mutual_info_score
from torchmetrics.functional.image import structural_similarity_index_measure

HASH_BITS = 64
_HASH_SIDE = 8
_MUTUAL_BINS = 64

Array = npt.NDArray[np.float32]
Likeness = Callable[[int, npt.NDArray[np.int64]], npt.NDArray[np.float64]]
"""An item and others to how alike each of the others is to it."""


def rescaled(image: Array, height: int, width: int) -> Array:
    """A picture (H, W), its lowest value 0 and its highest 1, at another size; a constant one is 0."""
    picture = PIL.Image.fromarray(_stretched(image).astype(np.float32))
    return np.asarray(picture.resize((width, height), PIL.Image.Resampling.BOX), dtype=np.float32)


def difference_hash(image: Array) -> npt.NDArray[np.uint8]:
    """(8,) bytes: whether each of 8x8 places is brighter than its left neighbour, places and bits in reading order.

    dHash (Krawetz 2013) as "Less is More" makes it (Wolf et al., Computers in Biology and Medicine 183:109242, 2024,
    https://arxiv.org/abs/2410.14524): the slice without a window, from its lowest to its highest value, in 256 levels
    of grey, made small by Lanczos as the library imagehash does, bit for bit. Deviation: a constant slice has hash 0.
    """
    grey = np.rint(255 * _stretched(image.astype(np.float64))).astype(np.uint8)  # as OpenCV rounds what it writes
    size = (_HASH_SIDE + 1, _HASH_SIDE)
    small = np.asarray(PIL.Image.fromarray(grey).resize(size, PIL.Image.Resampling.LANCZOS))
    return np.packbits(small[:, 1:] > small[:, :-1])


def _stretched(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """From 0 to 1; zeros where all values are the same."""
    low, high = float(image.min()), float(image.max())
    return (image - low) / (high - low) if high > low else np.zeros_like(image)


def by_structure(images: Array) -> Likeness:
    """Structural similarity (Wang et al. 2004) of images (N, H, W) with values from 0 to 1."""
    stack = torch.from_numpy(images)[:, None]

    def likeness(item: int, others: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        first, second = stack[item].expand(len(others), -1, -1, -1), stack[torch.from_numpy(others)]
        found = structural_similarity_index_measure(first, second, data_range=1.0, reduction="none")
        return np.atleast_1d(np.asarray(found, dtype=np.float64))

    return likeness


def grey_levels(images: Array) -> npt.NDArray[np.uint8]:
    """Which of 64 even bins each value from 0 to 1 is in."""
    return np.minimum((images * _MUTUAL_BINS).astype(np.uint8), _MUTUAL_BINS - 1)


def by_information(levels: npt.NDArray[np.uint8]) -> Likeness:
    """Normalised mutual information of the grey levels of images (N, H, W)."""
    flat = levels.reshape(len(levels), -1)
    return lambda item, others: np.array(
        [normalized_mutual_info_score(flat[item], flat[other]) for other in others], dtype=np.float64
    )


def by_bits(hashes: npt.NDArray[np.uint8]) -> Likeness:
    """Minus the bits in which hashes (N, 8) differ; `near_duplicates` finds those of one channel faster."""
    return lambda item, others: -np.bitwise_count(hashes[others] ^ hashes[item]).sum(1).astype(np.float64)


def least_alike(channels: Sequence[Likeness]) -> Likeness:
    """How alike two images are in the channel in which they are least so."""
    return lambda item, others: np.min([likeness(item, others) for likeness in channels], axis=0)


def unit_rows(embeddings: npt.NDArray[np.floating]) -> Array:
    """Embeddings (N, E) at length 1."""
    norms = np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return np.asarray(embeddings / norms, dtype=np.float32)
