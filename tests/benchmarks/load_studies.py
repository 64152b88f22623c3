"""Studies that a bundle takes, made of noise: its modality, voxel size and channels; some of them bad."""

import io
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pydicom
from dicom_phantom import slice_dataset
from pydicom.uid import UID
from serving import COMPANION

from medssl.runtime.bundle import BundleSpec

SHAPE = (24, 64, 64)
_KINDS = {"MR": "1.2.840.10008.5.1.4.1.1.4", "CR": "1.2.840.10008.5.1.4.1.1.1", "DX": "1.2.840.10008.5.1.4.1.1.1.1"}
"""Storage classes by modality; CT for all others."""


def check(spec: BundleSpec) -> None:
    """End where studies cannot be made for a bundle."""
    if spec.preprocess.channels_of(1) != len(spec.channels) and not spec.series:
        raise SystemExit(f"{spec.name} takes {', '.join(spec.channels)} in one image: no studies are made for it")


def images(spec: BundleSpec, number: int) -> list[pydicom.Dataset]:
    """The slices of a study, of one series a channel; a picture for bundles of two dimensions."""
    return [dataset for channel in range(max(1, len(spec.series))) for dataset in _series(spec, number, channel)]


def spoilt(datasets: list[pydicom.Dataset], number: int) -> tuple[str, list[pydicom.Dataset]]:
    """What is wrong with a study, and what is left of it; of four studies one is bad, in one of four ways."""
    kind = ("cut", "foreign", "missing", "promising")[number // 4 % 4] if number % 4 == 3 else ""
    if kind == "cut":
        datasets[0].PixelData = datasets[0].PixelData[:-1000]
    elif kind == "missing":
        del datasets[len(datasets) // 2]
    elif kind == "promising":
        datasets[0].Rows = 60_000
    return kind, datasets


def zipped(datasets: list[pydicom.Dataset], kind: str) -> bytes:
    """An upload; a foreign one has no images, half of them leave the folder that they are unpacked to."""
    if kind == "foreign":
        files = {"../../out.dcm": b"x"}
    elif kind == "promising":
        files = {"a.dcm": os.urandom(10_000)}
    else:
        files = {f"{name:03d}.dcm": _bytes(dataset) for name, dataset in enumerate(datasets)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _bytes(dataset: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _series(spec: BundleSpec, number: int, channel: int) -> Iterator[pydicom.Dataset]:
    rule = spec.series[channel] if spec.series else None
    modality = (rule.modality if rule else "") or next(iter(spec.modalities), "CT")
    words = " ".join(word.split("|")[0] for word in rule.words) if rule else ""
    more: dict[str, Any] = {"SeriesDescription": words} if words else {}
    slices, *plane = SHAPE if spec.preprocess.spatial_dims == 3 else (1, *SHAPE[1:])
    pixels = np.random.default_rng((number, channel)).integers(0, 30, (slices, *plane)).astype(np.int16)
    columns_mm, rows_mm, between_mm = _voxel_mm(spec)
    for k in range(slices):
        dataset = slice_dataset(
            pixels[k], (0, 0, between_mm * k), series=f"1.2.3.{number}.{channel + 1}", number=k + 1,
            spacing=(rows_mm, columns_mm), StudyInstanceUID=f"1.2.3.{number}", FrameOfReferenceUID=f"1.2.4.{number}",
            Modality=modality, SliceThickness=between_mm, **COMPANION, **more,
        )  # fmt: skip
        if modality in _KINDS:
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(_KINDS[modality])
        yield dataset


def _voxel_mm(spec: BundleSpec) -> tuple[float, float, float]:
    """Along columns, rows and slices of axial images: what the network wants or was trained on, else a usual size."""
    known = spec.provenance.get("fingerprint", {}).get("spacing_mm") or spec.spacing_mm
    if known:
        wanted = tuple(float(np.sqrt(a * b)) for a, b in zip(known["smallest"], known["largest"], strict=True))
    else:
        wanted = spec.preprocess.spacing_mm or ()
    if len(wanted) != 3:
        return 0.5, 0.5, 2.5
    along = {code: round(size, 3) for code, size in zip(spec.preprocess.orientation, wanted, strict=True)}
    x, y, z = (along[next(code for code in pair if code in along)] for pair in ("RL", "AP", "SI"))
    return x, y, z
