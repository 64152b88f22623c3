"""A pixel's size is one in the patient, or nothing is said in millimetres: a projection shows everything magnified."""

from pathlib import Path
from typing import Any

import pytest
from dicom_phantom import ramp, write_series

from medssl.imaging.readers.open import read_volume

_NOWHERE = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
_IMAGER = {"ImagerPixelSpacing": [0.2, 0.3]}
_FACTOR = {"EstimatedRadiographicMagnificationFactor": 1.5}
_TOO_SMALL = {"EstimatedRadiographicMagnificationFactor": 0.5}
_TYPE = {"PixelSpacingCalibrationType": "GEOMETRY"}


@pytest.mark.parametrize(
    ("modality", "header", "spacing", "calibrated", "note"),
    [
        ("DX", {"PixelSpacing": None, **_IMAGER}, (0.3, 0.2), False, "magnified by an unknown factor"),
        ("DX", {"PixelSpacing": None, **_IMAGER, **_FACTOR}, (0.2, 0.2 / 1.5), True, "magnification of 1.5"),
        ("DX", {"PixelSpacing": [0.2, 0.3], **_IMAGER}, (0.3, 0.2), False, "magnified by an unknown factor"),
        ("DX", {"PixelSpacing": [0.2, 0.3], **_IMAGER, **_FACTOR}, (0.2, 0.2 / 1.5), True, "magnification of 1.5"),
        ("DX", {"PixelSpacing": [0.1, 0.15], **_IMAGER, **_FACTOR}, (0.15, 0.1), True, ""),
        ("DX", {"PixelSpacing": [0.2, 0.3], **_IMAGER, **_TYPE}, (0.3, 0.2), True, ""),
        ("CR", {"PixelSpacing": [0.2, 0.3], "PixelSpacingCalibrationType": "FIDUCIAL"}, (0.3, 0.2), True, ""),
        ("CR", {"PixelSpacing": [0.2, 0.3]}, (0.3, 0.2), False, "does not say whether"),
        ("CR", {"PixelSpacing": [0.2, 0.3], "NominalScannedPixelSpacing": [0.2, 0.3]}, (0.3, 0.2), False, "or film"),
        ("OT", {"PixelSpacing": [0.2, 0.3], "NominalScannedPixelSpacing": [0.2, 0.3]}, (0.3, 0.2), False, "or film"),
        ("OP", {"PixelSpacing": [0.2, 0.3]}, (0.3, 0.2), True, ""),
        ("DX", {"PixelSpacing": None, **_IMAGER, **_TOO_SMALL}, (0.3, 0.2), False, ""),
        ("CR", {"PixelSpacing": [0.2, 0.3], "ImagerPixelSpacing": 0.15, **_TYPE}, (0.3, 0.2), True, ""),
        ("CR", {"PixelSpacing": None, "ImagerPixelSpacing": 0.15}, (1.0, 1.0), False, "pixel size is not known"),
        ("DX", {"PixelSpacing": None}, (1.0, 1.0), False, "pixel size is not known"),
    ],
)  # fmt: skip
def test_a_radiograph_is_measured_in_the_patient_or_not_at_all(
    tmp_path: Path, modality: str, header: dict[str, Any], spacing: tuple[float, float], calibrated: bool, note: str
):
    write_series(tmp_path, ramp(1), Modality=modality, **_NOWHERE, **header)
    volume = read_volume(tmp_path)
    assert volume.geometry.spacing_mm == pytest.approx(spacing)
    assert volume.source.calibrated is calibrated
    assert volume.source.at_detector is (not calibrated and spacing != (1.0, 1.0))
    assert any(note in told for told in volume.source.notes)
    assert calibrated or any("size" in told for told in volume.source.notes)


def test_a_plane_with_a_place_in_the_patient_has_its_size_there(tmp_path: Path):
    write_series(tmp_path / "ct", ramp(3), ImagerPixelSpacing=[0.5, 0.5])
    assert read_volume(tmp_path / "ct").source.calibrated
    write_series(tmp_path / "odd", ramp(3), ImagerPixelSpacing=0.15)
    assert read_volume(tmp_path / "odd").source.calibrated, "what is malformed beside a good spacing does not matter"
    write_series(tmp_path / "xa", ramp(3), Modality="XA", PixelSpacing=None, ImagerPixelSpacing=[0.5, 0.5])
    volume = read_volume(tmp_path / "xa")
    assert not volume.source.calibrated
    assert any("no sizes are given" in note for note in volume.source.notes)
