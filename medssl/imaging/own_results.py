"""Which DICOM objects are results of medssl: an archive sends them again with the study that they belong to."""

from pydicom.dataset import Dataset

MANUFACTURER = "medssl"
"""Maker that every result names, and no scanner."""
UID_ROOT = "2.25."
"""Root of the results' UIDs, which are derived by a hash (PS3.5 B.2)."""

_KINDS = (
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
    "1.2.840.10008.5.1.4.1.1.88.34",  # Comprehensive 3D SR
    "1.2.840.10008.5.1.4.1.1.481.3",  # RT Structure Set
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture Image
)


def is_own_result(dataset: Dataset) -> bool:
    """Whether an object is a result of medssl, this one's or another's.

    Maker, root of the UID and kind must all fit, so that no image of a patient is taken for a result: scanners name
    other makers, and what others derive from a result names them. Needs `Manufacturer`, `SOPClassUID` and
    `SOPInstanceUID`.
    """
    return (
        str(dataset.get("SOPClassUID", "")) in _KINDS
        and str(dataset.get("SOPInstanceUID", "")).startswith(UID_ROOT)
        and str(dataset.get("Manufacturer", "") or "").strip() == MANUFACTURER
    )
