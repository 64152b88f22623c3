"""What a prediction leaves behind: a folder a case, written whole, by `medssl predict` and the server alike."""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medssl.imaging.errors import ImageError
from medssl.imaging.files import write_json
from medssl.imaging.volume import Volume
from medssl.runtime.bundle import Bundle
from medssl.runtime.predictor import Prediction

Writer = Callable[[Path, Bundle, Prediction, Volume], None]


def write_results(folder: Path, bundle: Bundle, prediction: Prediction, volume: Volume, formats: Sequence[str]) -> None:
    """Write the files of a case; they appear at once, in a folder that replaces an earlier one.

    Args:
        folder: Folder of the case.
        bundle: What predicted.
        prediction: What it found; notes of the writers are added to its warnings.
        volume: The image.
        formats: Of `FORMATS`; what needs a mask is left out where there is none.

    Raises:
        ImageError: The image does not allow a format.
    """
    check_formats(volume, formats)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        for name, writer in FORMATS.items():  # the report comes last: it tells what the others noted
            if name in formats:
                writer(temporary, bundle, prediction, volume)
        temporary.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_formats(volume: Volume, formats: Sequence[str]) -> None:
    """Refuse, before anything is computed, formats that the image does not allow.

    Raises:
        ImageError: DICOM results of an image that is not DICOM.
    """
    if "dicom-seg" in formats and volume.source.format != "dicom":
        raise ImageError(
            f"dicom-seg refers to DICOM images, this is {volume.source.format}; leave dicom-seg out of --format",
            reason="not-dicom",
        )


def _nifti(folder: Path, _: Bundle, prediction: Prediction, __: Volume) -> None:
    from medssl.imaging.writers.nifti import write_nifti  # noqa: PLC0415 (slow to import, as are those below)

    if prediction.mask is not None:
        write_nifti(prediction.mask, folder / "seg.nii.gz")


def _dicom_seg(folder: Path, bundle: Bundle, prediction: Prediction, volume: Volume) -> None:
    from medssl.imaging.writers.dicom_seg import write_dicom_seg  # noqa: PLC0415

    if prediction.mask is not None:
        spec, path = bundle.spec, folder / "seg.dcm"
        notes = write_dicom_seg(prediction.mask, volume, spec.labels, path, model=spec.name, key=bundle.sha256)
        prediction.report["warnings"].extend(notes)


def _png(folder: Path, bundle: Bundle, prediction: Prediction, volume: Volume) -> None:
    from medssl.imaging.writers.overlay import write_overlay  # noqa: PLC0415

    write_overlay(volume, prediction.mask, bundle.spec.labels, folder / "overlay.png")


def _json(folder: Path, _: Bundle, prediction: Prediction, __: Volume) -> None:
    write_json(folder / "report.json", prediction.report)


FORMATS: Mapping[str, Writer] = {"nifti": _nifti, "dicom-seg": _dicom_seg, "png": _png, "json": _json}
"""Formats of results, in the order in which they are written."""
