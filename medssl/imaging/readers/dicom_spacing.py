"""How large a pixel is by a DICOM header: in the patient, or only at the detector, which shows everything magnified.

DICOM PS3.3 10.7.1 (Basic Pixel Spacing Calibration). A projection casts what lies before the detector onto it enlarged,
so sizes in the patient need the magnification; areas at the detector are too large by its square.
"""

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

_PROJECTIONS = ("CR", "DX", "IO", "MG", "PX", "RF", "RG", "XA")
"""Modalities of X-ray projections."""
_UNCORRECTED = ("ImagerPixelSpacing", "NominalScannedPixelSpacing")
"""Spacing at the detector, and on a film that was scanned: never corrected for magnification."""
_MOST = 10.0
"""A larger magnification is no estimate but a mistake."""
_AT_DETECTOR = (
    "pixel spacing is that of the detector or film, which shows the patient magnified by an unknown factor: no sizes "
    "are given, and a length taken from the image is too large"
)
_UNSAID = (
    "the header does not say whether the pixel spacing of this projection is corrected for its magnification: no sizes "
    "are given, and a length taken from the image may be too large"
)


@dataclass(frozen=True)
class PixelSize:
    """Distance of pixels.

    Args:
        spacing_mm: Between rows and between columns; None where the header has none.
        at_detector: Not corrected for magnification, so that it is no size in the patient.
        note: What the user should know of it; may be empty.
    """

    spacing_mm: tuple[float, float] | None
    at_detector: bool = False
    note: str = ""


def pixel_size(measures: Dataset, *, placed: bool) -> PixelSize:
    """Pixel spacing of a plane.

    Args:
        measures: The data set, or the item of the pixel measures in a multi-frame file.
        placed: The plane has a place in the patient, so what is called PixelSpacing is a size there.

    Raises:
        ValueError: PixelSpacing is no pair of numbers. What else is malformed counts as not there.
    """
    values = measures.get("PixelSpacing", None)
    given = None if values is None or values == "" else (float(values[0]), float(values[1]))
    if given is not None and (placed or _corrected(measures, given)):
        return PixelSize(given)
    imager = _pair(measures, "ImagerPixelSpacing")
    if imager is None:
        known = _pair(measures, "NominalScannedPixelSpacing") is not None
        note = _AT_DETECTOR if known else _UNSAID
        return PixelSize(None) if given is None else PixelSize(given, at_detector=True, note=note)
    factor = _number(measures.get("EstimatedRadiographicMagnificationFactor", None))
    if not 1 <= factor <= _MOST:
        return PixelSize(imager, at_detector=True, note=_AT_DETECTOR)
    note = f"pixel spacing at the detector was divided by the magnification of {factor:g} that the header estimates"
    return PixelSize((imager[0] / factor, imager[1] / factor), note=note)


def _corrected(measures: Dataset, given: tuple[float, float]) -> bool:
    """Whether PixelSpacing is a size in the patient; of a projection it need not be (10.7.1.1)."""
    if str(measures.get("PixelSpacingCalibrationType", "") or "").strip():
        return True
    uncorrected = [spacing for name in _UNCORRECTED if (spacing := _pair(measures, name)) is not None]
    if uncorrected:
        return not any(np.allclose(given, spacing, rtol=1e-4) for spacing in uncorrected)
    return str(measures.get("Modality", "")) not in _PROJECTIONS


def _pair(measures: Dataset, name: str) -> tuple[float, float] | None:
    try:
        first, second = measures.get(name, None)
        return float(first), float(second)
    except (TypeError, ValueError):
        return None


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return 0.0
