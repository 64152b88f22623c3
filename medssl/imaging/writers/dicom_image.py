"""Write a volume as a single-frame MR series: for synthetic cohorts and tests, not to pass data off as a scanner's."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from medssl.imaging.errors import ImageError
from medssl.imaging.files import atomic_path
from medssl.imaging.volume import Volume

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def write_mr_series(volume: Volume, folder: Path, *, patient: str, description: str, sex: str = "O") -> None:
    """Write one file a slice, `ImageType` DERIVED, with UIDs derived from the patient and description.

    Args:
        volume: (1, *S) 3D, values from 0 to 65535; rounded to whole numbers.
        folder: Folder of the series; one `IM0001.dcm` a slice.
        patient: PatientID and PatientName.
        description: SeriesDescription; say here that the data is synthetic.
        sex: `M`, `F` or `O`.

    Raises:
        ImageError: Not a single-channel 3D volume at right angles, or values outside 0 to 65535.
    """
    if volume.spatial_dims != 3 or volume.channels != 1 or volume.geometry.is_sheared:
        raise ImageError("an MR series needs one channel on a 3D grid at right angles", reason="bad-shape")
    values = np.rint(volume.array[0])
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"MR pixels are 0 to 65535, got {values.min():g} to {values.max():g}", reason="bad-values")
    pixels = values.astype(np.uint16)
    uids = {
        "StudyInstanceUID": generate_uid(entropy_srcs=[patient, "study"]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=[patient, description]),
        "FrameOfReferenceUID": generate_uid(entropy_srcs=[patient, "frame"]),
    }
    for k in range(pixels.shape[2]):
        dataset = _slice(volume, pixels[:, :, k], k, uids)
        dataset.PatientID = dataset.PatientName = patient
        dataset.PatientSex = sex
        dataset.SeriesDescription = description
        with atomic_path(folder / f"IM{k + 1:04d}.dcm") as temporary:
            dataset.save_as(temporary, enforce_file_format=True)


def _slice(volume: Volume, pixels: npt.NDArray[np.uint16], k: int, uids: Mapping[str, str]) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[uids["SeriesInstanceUID"], str(k)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    for name, uid in uids.items():
        setattr(dataset, name, uid)
    dataset.Modality = "MR"
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    dataset.InstanceNumber, dataset.SeriesNumber, dataset.AcquisitionNumber = k + 1, 1, 1
    dataset.StudyID, dataset.AccessionNumber = "1", ""
    dataset.StudyDate = dataset.SeriesDate = "20260101"
    dataset.StudyTime = dataset.SeriesTime = "120000"
    dataset.PatientBirthDate, dataset.ReferringPhysicianName = "", ""
    dataset.Manufacturer, dataset.PositionReferenceIndicator = "medssl (synthetic)", ""
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "GR", "NONE", ""
    dataset.MRAcquisitionType, dataset.EchoTime, dataset.RepetitionTime, dataset.EchoTrainLength = (
        "3D",
        "3",
        "2000",
        "1",
    )
    dataset.PatientPosition, dataset.Laterality = "HFS", ""
    _place(dataset, volume, k)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[1], pixels.shape[0]
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = np.ascontiguousarray(pixels.T).tobytes()
    return dataset


def _place(dataset: pydicom.Dataset, volume: Volume, k: int) -> None:
    """Plane attributes of slice k (DICOM PS3.3 C.7.6.2): i is the column index, j the row index."""
    geometry = volume.geometry
    directions = _RAS_TO_LPS @ geometry.affine[:3, :3] / np.linalg.norm(geometry.affine[:3, :3], axis=0)
    dataset.ImageOrientationPatient = [f"{v:.10g}"[:16] for v in (*directions[:, 0], *directions[:, 1])]
    dataset.ImagePositionPatient = [f"{v:.8g}" for v in _RAS_TO_LPS @ geometry.to_world((0, 0, k))]
    dataset.PixelSpacing = [geometry.spacing_mm[1], geometry.spacing_mm[0]]
    dataset.SliceThickness = dataset.SpacingBetweenSlices = geometry.spacing_mm[2]
