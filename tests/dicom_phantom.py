"""DICOM series made for tests: a ramp whose value tells the voxel's place."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def slice_dataset(
    pixels: np.ndarray,
    position: Sequence[float],
    *,
    series: str = "1.2.3.1",
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    spacing: Sequence[float] = (0.5, 0.5),
    number: int = 1,
    **attributes: object,
) -> FileDataset:
    """One CT slice; keyword arguments set or (with None) remove attributes."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3", series, "1.2.4"
    dataset.PatientID, dataset.PatientName, dataset.Modality = "patient", "Test^Patient", "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.InstanceNumber = number
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = list(position), list(orientation)
    dataset.PixelSpacing, dataset.SliceThickness = list(spacing), 2.5
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
    for name, value in attributes.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    return dataset


def ramp(slices: int = 16, rows: int = 10, columns: int = 12) -> np.ndarray:
    """(slices, rows, columns) int16; the value names slice, row and column."""
    k, r, c = np.indices((slices, rows, columns))
    return (1000 * k + 20 * r + c - 1000).astype(np.int16)


def write_series(
    folder: Path,
    volume: np.ndarray,
    *,
    positions: Sequence[Sequence[float]] | None = None,
    order: Sequence[int] | None = None,
    series: str = "1.2.3.1",
    **attributes: object,
) -> Path:
    """Write a series; file names follow `order`, so that they say nothing about the place."""
    folder.mkdir(parents=True, exist_ok=True)
    places = positions or [(0, 0, 2.5 * k) for k in range(len(volume))]
    for name, k in enumerate(order or range(len(volume))):
        slice_dataset(volume[k], places[k], series=series, number=k + 1, **attributes).save_as(
            folder / f"{name:03d}.dcm", enforce_file_format=True
        )
    return folder


def read(path: Path) -> Dataset:
    return pydicom.dcmread(path)


def by_another_program(path: Path) -> None:
    """Give a result of medssl another maker, as a program does that corrects it."""
    dataset = pydicom.dcmread(path)
    dataset.Manufacturer = "Other"
    dataset.save_as(path)
