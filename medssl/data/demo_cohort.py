"""A cohort of virtual patients, made from the MNI152 template that ships inside nilearn: synthetic, and said so.

Each patient is the template after a random affine and a smooth random deformation, with contrast, bias field and noise
of its own. Nothing about real patients can be learned or claimed from it; it shows that the line works.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medssl.imaging.files import write_json
from medssl.imaging.geometry import Geometry
from medssl.imaging.progress import Progress
from medssl.imaging.volume import Volume
from medssl.imaging.writers.dicom_image import write_mr_series
from medssl.imaging.writers.nifti import write_nifti

SYNTHETIC = "SYNTHETIC virtual patient, made from the MNI152 template; not a real person"
TISSUES = ("grey_matter", "white_matter")
_MEAN = np.array([0.22, 0.58, 0.90])
"""T1-like intensity of fluid, grey and white matter before the patient's own contrast."""

_Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Cohort:
    """What to make.

    Args:
        patients: Number of virtual patients; the first `labelled` come with a tissue label map.
        labelled: How many are labelled.
        dicom_every: Each so many-th unlabelled patient is written as a DICOM series, the others as NIfTI.
        spacing_mm: Isotropic voxel size.
        seed: Seed of all random draws.
    """

    patients: int = 36
    labelled: int = 18
    dicom_every: int = 2
    spacing_mm: int = 4
    seed: int = 0


def write_cohort(folder: Path, cohort: Cohort) -> None:
    """Write `images/`, `labels/`, `dicom/PATIENT/` and `README.json` below `folder`."""
    template, tissues, geometry = _template(cohort.spacing_mm)
    with Progress("demo cohort", cohort.patients, "patient") as progress:
        for number in range(cohort.patients):
            name = f"demo{number + 1:03d}"
            image, label = _patient(template, tissues, np.random.default_rng((cohort.seed, number)))
            volume = Volume(image[None], geometry, modality="MR")
            unlabelled = number - cohort.labelled
            if unlabelled >= 0 and unlabelled % cohort.dicom_every == 0:
                write_mr_series(volume, folder / "dicom" / name, patient=name, description="SYNTHETIC T1")
            else:
                write_nifti(volume, folder / "images" / f"{name}.nii.gz")
            if unlabelled < 0:
                write_nifti(Volume(label[None], geometry), folder / "labels" / f"{name}.nii.gz")
            progress.advance(note=name)
    write_json(
        folder / "README.json",
        {"what": SYNTHETIC, "labels": {name: k + 1 for k, name in enumerate(TISSUES)}, "seed": cohort.seed},
    )


def _template(spacing_mm: int) -> tuple[_Array, _Array, Geometry]:
    """T1 template (*S), probabilities of fluid, grey and white matter (3, *S), and the grid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nilearn's notices about its own dependencies
        from nilearn import datasets  # noqa: PLC0415 (slow import, only needed here)

        image = datasets.load_mni152_template(resolution=spacing_mm)
        grey, white, brain = (
            load(resolution=spacing_mm).get_fdata(dtype=np.float32)
            for load in (
                datasets.load_mni152_gm_template,
                datasets.load_mni152_wm_template,
                datasets.load_mni152_brain_mask,
            )
        )
    fluid = np.clip(brain - grey - white, 0, 1)
    tissues = np.stack([fluid, grey, white])
    return image.get_fdata(dtype=np.float32), tissues, Geometry(image.affine, image.shape)


def _patient(template: _Array, tissues: _Array, rng: np.random.Generator) -> tuple[_Array, npt.NDArray[np.uint8]]:
    """Image (*S), 0 to about 1200, and tissue labels (*S) of one virtual patient."""
    where = _deformation(template.shape, rng)
    warp = [ndimage.map_coordinates(channel, where, order=1, mode="nearest") for channel in (template, *tissues)]
    anatomy, maps = warp[0], np.stack(warp[1:])
    label = np.where(maps.sum(axis=0) > 0.5, maps.argmax(axis=0), 0).astype(np.uint8)  # fluid is background
    mean = _MEAN + rng.normal(0, 0.05, size=3)
    image = 0.7 * np.tensordot(mean, maps, axes=1) + 0.3 * anatomy
    image = np.clip(image, 0, None) ** rng.uniform(0.8, 1.25) * _bias_field(template.shape, rng)
    noise = rng.normal(0, rng.uniform(0.02, 0.06), size=(2, *template.shape))
    magnitude = np.hypot(image + noise[0], noise[1])  # Rician, as in magnitude MR
    return (rng.uniform(600, 1200) * magnitude).astype(np.float32), label


def _deformation(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Source voxel coordinates (3, *S): small rotation and scaling about the centre plus a smooth displacement."""
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float64) for n in shape), indexing="ij"))
    centre = (np.array(shape, dtype=np.float64) - 1) / 2
    skew = rng.normal(0, 0.08, size=3)
    turn = np.array([[0, -skew[2], skew[1]], [skew[2], 0, -skew[0]], [-skew[1], skew[0], 0]])
    matrix = (np.eye(3) + turn) @ np.diag(1 + rng.uniform(-0.1, 0.1, size=3))
    coarse = rng.normal(0, 1.2, size=(3, 6, 6, 6))
    factors = [n / 6 for n in shape]
    smooth = np.stack([ndimage.zoom(component, factors, order=3, mode="nearest") for component in coarse])
    offset = grid - centre[:, None, None, None]
    turned: npt.NDArray[np.float64] = np.tensordot(matrix, offset, axes=1)
    where: npt.NDArray[np.float64] = turned + centre[:, None, None, None] + smooth
    return where


def _bias_field(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Smooth multiplicative coil sensitivity (*S), about 0.7 to 1.4."""
    coarse = rng.normal(0, 0.15, size=(3, 3, 3))
    field: npt.NDArray[np.float64] = np.exp(ndimage.zoom(coarse, [n / 3 for n in shape], order=3, mode="nearest"))
    return field
