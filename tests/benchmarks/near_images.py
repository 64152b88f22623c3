"""Images that are nearly those of the hippocampus application: `python tests/benchmarks/near_images.py DIR OUT`.

Cuts crops of the application's size from whole heads and writes them below OUT, a folder a kind, for
`medssl export --confidence.near`: another sequence (FLAIR), T1 after contrast, other places of a T1 head, and, as
controls that a gate should let pass, the hippocampi of a T1 template and of another hospital. DIR is the folder of the
Brain-Tumor-Progression series (Study1 to Study3); the template comes with nilearn (extra `demo`).
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from nilearn.datasets import load_mni152_template

from medssl.imaging.geometry import Geometry
from medssl.imaging.readers.open import read_volume
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti

_SIZE_MM = np.array((36.0, 50.0, 36.0))
_HIPPOCAMPI_MM = ((-28.0, -22.0, -14.0), (28.0, -22.0, -14.0))
"""Centres in MNI152 space."""
_MOST = 20
_HEADS = {"flair": "Study3/36468-FLAIRreg-58706", "t1_contrast": "Study3/11-T1post-18670"}
_CROPS = ("Study1/13_HCropVolume", "Study2/14_HCropVolume", "Study3/11_HCropVolume")


def crop(head: Volume, centre_mm: np.ndarray) -> Volume | None:
    """The voxels around a point, or None where the crop leaves the image or shows little of the head."""
    affine = head.geometry.affine
    half = _SIZE_MM / np.array(head.geometry.spacing_mm) / 2
    centre = (np.linalg.inv(affine) @ np.append(centre_mm, 1.0))[:3]
    low, high = np.round(centre - half).astype(int), np.round(centre + half).astype(int)
    if (low < 0).any() or (high > head.array.shape[1:]).any():
        return None
    array = head.array[:, *(slice(a, b) for a, b in zip(low, high, strict=True))]
    if (array > 0.2 * np.percentile(head.array, 99)).mean() < 0.6:
        return None
    placed = affine.copy()
    placed[:3, 3] += affine[:3, :3] @ low
    return Volume(array, Geometry(placed, array.shape[1:]), head.modality)


def crops(head: Volume, apart_mm: float = 0.0) -> Iterator[Volume]:
    """Crops at random places, none of them nearer than `apart_mm` (each axis) to a hippocampus of the template."""
    rng, shape = np.random.default_rng(0), np.array(head.array.shape[1:])
    for _ in range(2000):
        centre = (head.geometry.affine @ np.append(rng.uniform(0, shape - 1), 1.0))[:3]
        near = any((np.abs(centre - np.array(place)) < apart_mm).all() for place in _HIPPOCAMPI_MM)
        found = None if near else crop(head, centre)
        if found is not None:
            yield found


def main(data: Path, out: Path) -> None:
    """Write the folders."""
    image = load_mni152_template(resolution=1)
    array = np.asarray(image.get_fdata(), np.float32)[None]
    template = Volume(array, Geometry(np.array(image.affine), array.shape[1:]), "MR")
    kinds = {kind: crops(read_volume(data / folder)) for kind, folder in _HEADS.items()}
    kinds["elsewhere_in_t1"] = crops(template, apart_mm=25.0)
    kinds["hippocampi_of_template"] = (found for p in _HIPPOCAMPI_MM if (found := crop(template, np.array(p))))
    kinds["hippocampi_of_another_hospital"] = (read_volume(data / folder) for folder in _CROPS)
    for kind, volumes in kinds.items():
        number = 0
        for number, volume in zip(range(1, _MOST + 1), volumes, strict=False):
            write_nifti(volume, out / kind / f"{number:02d}.nii.gz")
        sys.stdout.write(f"{kind}: {number}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
