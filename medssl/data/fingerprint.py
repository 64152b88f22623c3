"""What the data set looks like, and the settings that follow from it, with the reason in words (as nnU-Net plans)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.imaging.volume import Volume

_BATCH_SHARE = 0.05
"""nnU-Net's rule: a batch holds no more of the data set, or its steps hardly differ."""
_PATCH_VOXELS = {2: 512 * 512, 3: 64**3}


def case_fingerprint(volume: Volume, label: npt.NDArray[np.uint8] | None) -> dict[str, Any]:
    """Native spacing (None where not told), shape, percentiles a channel and voxels a class of one case."""
    sample = volume.array.reshape(volume.channels, -1)[:, :: max(1, volume.array[0].size // 100_000)]
    values, counts = (np.array([]), np.array([])) if label is None else np.unique(label, return_counts=True)
    return {
        "spacing_mm": list(volume.geometry.spacing_mm) if volume.source.to_scale else None,
        "shape": list(volume.geometry.shape),
        "percentiles": [[float(v) for v in np.percentile(c, [0, 0.5, 50, 99.5, 100])] for c in sample],
        "label_voxels": {str(int(v)): int(n) for v, n in zip(values, counts, strict=True)},
    }


def merge(fingerprints: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Fingerprint of the whole data set: median, smallest and largest; spacing of the cases that tell theirs."""
    spacing = [f["spacing_mm"] for f in fingerprints if f["spacing_mm"]]
    shape = np.array([f["shape"] for f in fingerprints])
    percentiles = np.array([f["percentiles"] for f in fingerprints])
    voxels: dict[str, int] = {}
    for fingerprint in fingerprints:
        for value, count in fingerprint["label_voxels"].items():
            voxels[value] = voxels.get(value, 0) + count
    return {
        "cases": len(fingerprints),
        "without_spacing": len(fingerprints) - len(spacing),
        "spacing_mm": _range(np.array(spacing)) if spacing else {},
        "shape": _range(shape),
        "intensity_percentiles": np.median(percentiles, axis=0).tolist(),
        "label_voxels": dict(sorted(voxels.items(), key=lambda item: int(item[0]))),
    }


def _range(values: npt.NDArray[Any]) -> dict[str, list[float]]:
    return {
        "median": np.median(values, axis=0).tolist(),
        "smallest": values.min(axis=0).tolist(),
        "largest": values.max(axis=0).tolist(),
        "tenth_percentile": np.percentile(values, 10, axis=0).tolist(),
    }


def propose(fingerprint: dict[str, Any], spatial_dims: int) -> list[str]:
    """Settings that suit the data, one sentence each: spacing, patch and batch."""
    shape = np.array(fingerprint["shape"]["median"])
    if fingerprint["spacing_mm"]:
        sentence, scale = _spacing(fingerprint)
        shape = shape * scale
    else:
        sentence = "spacing_mm null: no image tells how large its voxels are."
    patch = _patch(shape, spatial_dims)
    share = _BATCH_SHARE * fingerprint["cases"] * float(np.prod(shape))
    batch = max(2, int(min(2 * _PATCH_VOXELS[spatial_dims], share) // np.prod(patch)))
    return [
        sentence,
        f"patch {patch}: the median image, shrunk alike along all axes to what fits small memory, in steps of 8.",
        f"batch {batch}: as many patches as two of the largest would fill, but no more than {_BATCH_SHARE:.0%} of the "
        "data set's voxels; at least 2.",
    ]


def _spacing(fingerprint: dict[str, Any]) -> tuple[str, npt.NDArray[Any]]:
    """What spacing is proposed, and how many times as many voxels the median image then has along each axis."""
    spacing = np.array(fingerprint["spacing_mm"]["median"])
    coarse = float(spacing.max() / spacing.min())
    target = spacing.copy()
    reason = "the median of the data"
    if coarse > 3:
        axis = int(spacing.argmax())
        target[axis] = max(fingerprint["spacing_mm"]["tenth_percentile"][axis], float(spacing.min()) * 3)
        reason = (
            f"the median, but axis {axis} is {coarse:.1f} times coarser than the finest, so that its 10th percentile "
            "is taken there"
        )
    if fingerprint["without_spacing"]:
        reason += f"; {fingerprint['without_spacing']} of {fingerprint['cases']} images do not tell theirs"
    return f"spacing_mm {[round(float(s), 3) for s in target]}: {reason}.", spacing / target


def _patch(shape: npt.NDArray[Any], spatial_dims: int) -> list[int]:
    shrink = min(1.0, (_PATCH_VOXELS[spatial_dims] / float(np.prod(shape))) ** (1 / spatial_dims))
    return [max(8, round(float(n) * shrink / 8) * 8) for n in shape]
