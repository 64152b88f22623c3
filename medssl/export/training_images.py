"""What a bundle says of the images that its networks learned from, so that others can be told."""

from collections.abc import Sequence

import numpy as np

from medssl.data.cache import CachedCase
from medssl.export.trained import Trained
from medssl.imaging.modality import known_modality
from medssl.imaging.target_grid import oriented


def told_modalities(cases: Sequence[CachedCase]) -> tuple[str, ...]:
    """DICOM modalities of images; none where one of them does not tell its own, which might be any."""
    found = {known_modality(case.modality) for case in cases}
    return () if "" in found else tuple(sorted(found))


def learned_count(trained: Trained) -> int | None:
    """Labelled cases that any of the networks learned from; None where the cache or their patients cannot tell."""
    if trained.cache.data_sha256 != trained.spec.provenance.get("data_sha256") or not all(trained.patients):
        return None
    return sum(trained.known(case) for case in trained.learned())


def spacing_range(cases: Sequence[CachedCase], orientation: str) -> dict[str, list[float]]:
    """Smallest and largest voxel size of the original images along the axes of an orientation.

    Images that do not tell their voxel size are left out; empty where none tells it.
    """
    known = [case for case in cases if case.to_scale is not False]
    if not known:
        return {}
    sizes = np.array([oriented(case.record.native, orientation).spacing_mm for case in known])
    return {"smallest": sizes.min(axis=0).tolist(), "largest": sizes.max(axis=0).tolist()}
