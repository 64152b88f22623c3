"""Every kind of DICOM result of one small mask, and an independent look at where its marks lie."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medssl.imaging.labels import Code, Label
from medssl.imaging.volume import Volume
from medssl.imaging.writers.dicom_sc import write_secondary_capture
from medssl.imaging.writers.dicom_seg import write_dicom_seg, write_fractional_seg
from medssl.imaging.writers.dicom_source import Maker
from medssl.imaging.writers.dicom_sr import Findings, Structure, write_dicom_sr
from medssl.imaging.writers.rtstruct import write_rtstruct

LABELS = (
    Label(1, "liver", Code("10200004", "SCT", "Liver"), Code("123037004", "SCT", "Anatomical Structure")),
    Label(3, "lesion"),
)
CAUTIONS = ("DO NOT USE: unlike the training images", "voxel size lies outside the training data's")
MAKER = Maker("test model", "0123abcd" * 8, CAUTIONS)
FINDINGS = Findings((Structure(LABELS[0], 1.25), Structure(LABELS[1], 0.3)))
COMPANION = {"AccessionNumber": "", "StudyID": "1", "PatientBirthDate": "", "PatientSex": "O", "StudyDate": "20260101"}


def mask_on(volume: Volume) -> Volume:
    """A liver in slices 1 and 2 with a hole, a lesion of two parts from slice 2 on, of which one is a single voxel."""
    array = np.zeros((1, *volume.geometry.shape), np.uint8)
    array[0, 1:6, 1:5, 1:3] = 1
    array[0, 3, 3, 1:3] = 0
    array[0, 6:8, 5:9, 2:] = 3
    array[0, 9, 2, 2:] = 3
    return Volume(array, volume.geometry)


def shares_on(volume: Volume) -> Volume:
    """255 times the probability of each label: a ramp, so that slices, rows and columns differ."""
    mask = mask_on(volume).array[0]
    ramp = (np.indices(mask.shape).sum(axis=0) * 7 % 200 + 50).astype(np.uint8)
    return Volume(
        np.stack([np.where(mask == label.value, ramp, 0).astype(np.uint8) for label in LABELS]), volume.geometry
    )


def _sr(volume: Volume, path: Path) -> tuple[str, ...]:
    write_dicom_seg(mask_on(volume), volume, LABELS, path.with_name("referred.dcm"), MAKER)
    return write_dicom_sr(FINDINGS, volume, path, MAKER, path.with_name("referred.dcm"))


def _sr_of_classes(volume: Volume, path: Path) -> tuple[str, ...]:
    return write_dicom_sr(Findings(probabilities={"covid": 0.75, "other": 0.25}, called="covid"), volume, path, MAKER)


KINDS: dict[str, Callable[[Volume, Path], tuple[str, ...]]] = {
    "seg": lambda v, p: write_dicom_seg(mask_on(v), v, LABELS, p, MAKER),
    "labelmap": lambda v, p: write_dicom_seg(mask_on(v), v, LABELS, p, MAKER, "labelmap"),
    "fractional": lambda v, p: write_fractional_seg(shares_on(v), v, LABELS, p, MAKER),
    "sr": _sr,
    "sr_of_classes": _sr_of_classes,
    "sr_without_seg": lambda v, p: write_dicom_sr(FINDINGS, v, p, MAKER),
    "sc": lambda v, p: write_secondary_capture(v, mask_on(v), LABELS, p, MAKER, ["liver: 1.25 mL"]),
    "rtstruct": lambda v, p: write_rtstruct(mask_on(v), v, LABELS, p, MAKER),
}


def errors_of(path: Path) -> list[str]:
    """What dciodvfy calls an error; none where it is not installed, but under continuous integration (CI=true)."""
    if shutil.which("dciodvfy") is None and os.environ.get("CI") != "true":
        return []
    return judged(path)


def judged(path: Path) -> list[str]:
    """What dciodvfy calls an error; where it is not installed the test skips, under CI=true it fails."""
    program = shutil.which("dciodvfy")
    if program is None:
        missing = "dciodvfy is not on the PATH: apt-get install dicom3tools"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    done = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, errors="replace", check=False)
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


def marks(path: Path) -> dict[tuple[int, float, float, float], int]:
    """Stored value by segment number and LPS place, from the plain attributes, without highdicom."""
    dataset = pydicom.dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    found = {}
    for frame, group in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        orientation = (group.get("PlaneOrientationSequence") or shared.PlaneOrientationSequence)[0]
        row, column = np.reshape(np.array(orientation.ImageOrientationPatient, float), (2, 3))
        spacing = (group.get("PixelMeasuresSequence") or shared.PixelMeasuresSequence)[0].PixelSpacing
        for r, c in np.argwhere(frame):
            place = origin + row * float(spacing[1]) * c + column * float(spacing[0]) * r
            labelmap = "SegmentIdentificationSequence" not in group
            segment = frame[r, c] if labelmap else group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            found[int(segment), *(round(float(v), 2) for v in place)] = int(frame[r, c])
    return found
