"""An image is held once while it is read, and a segmentation is not held as a whole while it is written.

Each is measured in a process of its own that has done the same with a small image before, so that libraries are loaded.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_phantom import write_series

from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti

_SIDE, _SLICES = 512, 64
_HEADER = {"AccessionNumber": "", "StudyID": "1", "PatientBirthDate": "", "PatientSex": "O", "StudyDate": "20260101"}
_READ = """
import sys
from pathlib import Path
from medssl.commands.benchmarks.predict_child import peak_mb
from medssl.imaging.readers.open import read_volume
read_volume(Path(sys.argv[1]))
before = peak_mb()
volume = read_volume(Path(sys.argv[2]))
print((peak_mb() - before) * 2**20 / volume.array.nbytes)
"""
_WRITE = """
import sys
from pathlib import Path
import numpy as np
from medssl.commands.benchmarks.predict_child import peak_mb
from medssl.imaging.labels import Label
from medssl.imaging.readers.open import read_volume
from medssl.imaging.volume import Volume
from medssl.imaging.writers.dicom_seg import write_dicom_seg
from medssl.imaging.writers.dicom_source import Maker
labels = [Label(k, str(k)) for k in range(1, 9)]
for path in sys.argv[1:3]:
    volume = read_volume(Path(path))
    mask = Volume(np.zeros(volume.array.shape, np.uint8), volume.geometry)
    for label in labels:
        mask.array[0, 40 * label.value : 40 * label.value + 30, 50:400] = label.value
    before = peak_mb()
    write_dicom_seg(mask, volume, labels, Path(sys.argv[2]).parent / "seg.dcm", Maker("model", "0"), sys.argv[3])
print((peak_mb() - before) * 2**20 / mask.array.nbytes)
"""


def _measured(program: str, *arguments: str) -> float:
    """What a process of its own tells of its peak."""
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return float(done.stdout)


def _series(folder: Path, slices: int, **attributes: object) -> str:
    pixels = np.random.default_rng(0).integers(0, 1000, (slices, _SIDE, _SIDE), dtype=np.int16)
    places = [(0, 0, float(k)) for k in range(slices)]
    return str(write_series(folder, pixels, positions=places, **_HEADER, **attributes))


@pytest.mark.parametrize("slope", [1, 1.37])
def test_a_series_is_read_into_one_array(tmp_path: Path, slope: float):
    small, large = (_series(tmp_path / str(n), n, RescaleSlope=slope, RescaleIntercept=0) for n in (2, _SLICES))
    assert _measured(_READ, small, large) < 1.5  # planes beside their stack made 2


@pytest.mark.parametrize("kind", [np.int16, np.float32])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_is_read_into_one_array(tmp_path: Path, kind: type, suffix: str):
    paths = []
    for slices in (2, 2 * _SLICES):
        array = np.zeros((1, _SIDE, _SIDE, slices), kind)
        array[0, :, 5] = 7
        paths.append(tmp_path / f"{slices}{suffix}")
        write_nifti(Volume(array, Geometry(np.eye(4), array.shape[1:])), paths[-1])
    assert _measured(_READ, *map(str, paths)) < 1.75  # parts of up to 32 MiB lie beside it


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_frames_of_a_segmentation_are_written_one_by_one(tmp_path: Path, kind: str):
    small, large = _series(tmp_path / "small", 2), _series(tmp_path / "large", _SLICES)
    assert _measured(_WRITE, small, large, kind) < 1.0  # a single copy of the mask
