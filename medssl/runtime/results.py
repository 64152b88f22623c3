"""What a prediction leaves behind: a folder a case, written whole, by `medssl predict` and the server alike."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medssl.imaging.errors import ImageError, MedsslError, in_words, unquoted
from medssl.imaging.files import UMASK, sync_folder, write_json
from medssl.imaging.volume import Volume
from medssl.runtime.bundle import Bundle
from medssl.runtime.predictor import Prediction

if TYPE_CHECKING:
    from medssl.imaging.writers.dicom_source import Maker
    from medssl.imaging.writers.dicom_sr import Structure

FRACTIONAL = "dicom-seg-fractional"
"""Format that needs `Predictor.predict(..., shares=True)`."""
Writer = Callable[[Path, Bundle, Prediction, Volume], None]

_FILES = {
    *("seg.nii.gz", "seg.dcm", "seg_labelmap.dcm", "seg_fractional.dcm", "rtstruct.dcm", "sr.dcm", "sc.dcm"),
    *("overlay.png", "report.json"),
}
"""What `write_results` may write."""


def write_results(
    folder: Path,
    bundle: Bundle,
    prediction: Prediction,
    volume: Volume,
    formats: Sequence[str],
    *,
    partly: bool = False,
) -> None:
    """Write the files of a case; they appear at once, in a folder that replaces an earlier one.

    Args:
        folder: Folder of the case.
        bundle: What predicted.
        prediction: What it found; notes of the writers are added to its warnings.
        volume: The image.
        formats: Of `FORMATS`; what needs a mask is left out where there is none.
        partly: A DICOM format that cannot be written becomes a warning of the others, for callers who cannot ask again.

    Raises:
        ImageError: The image does not allow a format, or a library cannot write it.
    """
    check_formats(volume, formats)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        for name, writer in FORMATS.items():  # the report comes last: it tells what the others noted
            if name in formats:
                try:
                    with _explained(name):
                        writer(temporary, bundle, prediction, volume)
                except ImageError as error:
                    if not partly or name not in DICOM_FORMATS:
                        raise
                    _note(prediction, [f"{name} was not written: {unquoted(error)}"])
        temporary.chmod(0o777 & ~UMASK)
        sync_folder(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        sync_folder(folder.parent)  # what is stored to an archive next must still be here after a loss of power
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def forget_results(folder: Path) -> None:
    """Remove what an earlier call wrote of a case of this name, and nothing else."""
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what a library raises on an unusual header into an ImageError; what the disk says stays as it is."""
    try:
        yield
    except (MedsslError, OSError, MemoryError):
        raise
    except Exception as error:  # each library has kinds of its own
        raise ImageError(
            f"{name} cannot be written for this image ({in_words(error)}), most likely because its header has "
            f"values that DICOM does not allow: leave {name} out of the formats",
            reason="not-written",
        ) from error


def check_formats(volume: Volume, formats: Sequence[str]) -> None:
    """Refuse, before anything is computed, formats that the image does not allow.

    Raises:
        ImageError: DICOM results of an image that is not DICOM.
    """
    refused = [name for name in formats if name in DICOM_FORMATS]
    if refused and volume.source.format != "dicom":
        names = ", ".join(refused)
        raise ImageError(
            f"{names} refers to DICOM images, this is {volume.source.format}; leave {names} out of --format",
            reason="not-dicom",
        )


def _nifti(folder: Path, _: Bundle, prediction: Prediction, __: Volume) -> None:
    from medssl.imaging.writers.nifti import write_nifti  # noqa: PLC0415 (slow to import, as are those below)

    if prediction.mask is not None:
        write_nifti(prediction.mask, folder / "seg.nii.gz")


def _seg(
    folder: Path, bundle: Bundle, prediction: Prediction, volume: Volume, kind: Literal["binary", "labelmap"]
) -> None:
    from medssl.imaging.writers.dicom_seg import write_dicom_seg  # noqa: PLC0415

    if prediction.mask is not None:
        path = folder / ("seg.dcm" if kind == "binary" else "seg_labelmap.dcm")
        notes = write_dicom_seg(prediction.mask, volume, bundle.spec.labels, path, _maker(bundle, prediction), kind)
        _note(prediction, notes)


def _dicom_seg(folder: Path, bundle: Bundle, prediction: Prediction, volume: Volume) -> None:
    _seg(folder, bundle, prediction, volume, "binary")


def _labelmap(folder: Path, bundle: Bundle, prediction: Prediction, volume: Volume) -> None:
    _seg(folder, bundle, prediction, volume, "labelmap")


def _fractional(folder: Path, bundle: Bundle, prediction: Prediction, volume: Volume) -> None:
    from medssl.imaging.writers.dicom_seg import write_fractional_seg  # noqa: PLC0415

    if prediction.mask is None:
        return
    if prediction.shares is None:
        raise ImageError(
            "dicom-seg-fractional needs probabilities, which were not kept: ask predict for shares",
            reason="no-shares",
        )
    maker, path = _maker(bundle, prediction), folder / "seg_fractional.dcm"
    _note(prediction, write_fractional_seg(prediction.shares, volume, bundle.spec.labels, path, maker))


def _rtstruct(folder: Path, bundle: Bundle, prediction: Prediction, volume: Volume) -> None:
    from medssl.imaging.writers.rtstruct import write_rtstruct  # noqa: PLC0415

    if prediction.mask is not None:
        maker = _maker(bundle, prediction)
        notes = write_rtstruct(prediction.mask, volume, bundle.spec.labels, folder / "rtstruct.dcm", maker)
        _note(prediction, notes)


def _dicom_sr(folder: Path, bundle: Bundle, prediction: Prediction, volume: Volume) -> None:
    from medssl.imaging.writers.dicom_sr import Findings, write_dicom_sr  # noqa: PLC0415

    report = prediction.report
    findings = Findings(_structures(bundle, report), report.get("probabilities", {}), report.get("class", ""))
    written = (path for name in ("seg.dcm", "seg_labelmap.dcm") if (path := folder / name).exists())
    notes = write_dicom_sr(findings, volume, folder / "sr.dcm", _maker(bundle, prediction), next(written, None))
    _note(prediction, notes)


def _dicom_sc(folder: Path, bundle: Bundle, prediction: Prediction, volume: Volume) -> None:
    from medssl.imaging.writers.dicom_sc import write_secondary_capture  # noqa: PLC0415

    report = prediction.report
    found = [f"{s.label.name}: {_size(s)}" for s in _structures(bundle, report)]
    found += [f"{name}: probability {p:.3f}" for name, p in report.get("probabilities", {}).items()]
    maker = _maker(bundle, prediction)
    notes = write_secondary_capture(volume, prediction.mask, bundle.spec.labels, folder / "sc.dcm", maker, found)
    _note(prediction, notes)


def _maker(bundle: Bundle, prediction: Prediction) -> "Maker":
    """The bundle, with the reasons not to use the result and the warnings, in this order."""
    from medssl.imaging.writers.dicom_source import Maker  # noqa: PLC0415

    flags = [str(flag["text"]) for flag in prediction.report.get("flags", ())]
    told = {f"do not use: {text}" for text in flags}  # the report repeats flags among its warnings
    others = (text for text in prediction.report["warnings"] if text not in told)
    return Maker(bundle.spec.name, bundle.sha256, (*(f"DO NOT USE: {text}" for text in flags), *others))


def _structures(bundle: Bundle, report: Mapping[str, Any]) -> list["Structure"]:
    """Sizes that mean something: volumes of 3D images, areas of 2D ones, neither where the pixel size is unknown."""
    from medssl.imaging.writers.dicom_sr import Structure  # noqa: PLC0415

    return [
        Structure(label, row.get("volume_ml"), row.get("area_mm2"), _interval(row, report))
        for label, row in zip(bundle.spec.labels, report.get("labels", ()), strict=False)
    ]


def _interval(row: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """The volume's interval as a sentence that claims no more than was measured; empty where the bundle gives none."""
    if "volume_ml_low" not in row:
        return ""
    share = report.get("volume_interval", {}).get("coverage", 0)
    low, high = row["volume_ml_low"], row["volume_ml_high"]
    return (
        f"interval of the volume {low:.2f} to {high:.2f} mL: of new patients like those of the validation, at least "
        f"{share:.0%} have the volume that the experts of the training data would draw within their interval; it is no "
        "statement about this one patient"
    )


def _size(structure: "Structure") -> str:
    if structure.volume_ml is not None:
        return f"{structure.volume_ml:.2f} mL"
    return "size unknown" if structure.area_mm2 is None else f"{structure.area_mm2:.1f} mm2"


def _note(prediction: Prediction, notes: Sequence[str]) -> None:
    """Add notes to the report's warnings, each once."""
    warnings = prediction.report["warnings"]
    warnings.extend(note for note in notes if note not in warnings)


def _png(folder: Path, bundle: Bundle, prediction: Prediction, volume: Volume) -> None:
    from medssl.imaging.writers.overlay import write_overlay  # noqa: PLC0415

    write_overlay(volume, prediction.mask, bundle.spec.labels, folder / "overlay.png")


def _json(folder: Path, _: Bundle, prediction: Prediction, __: Volume) -> None:
    write_json(folder / "report.json", prediction.report)


FORMATS: Mapping[str, Writer] = {
    "nifti": _nifti,
    "dicom-seg": _dicom_seg,
    "dicom-seg-labelmap": _labelmap,
    FRACTIONAL: _fractional,
    "rtstruct": _rtstruct,
    "dicom-sr": _dicom_sr,  # refers to the segmentation written before it
    "dicom-sc": _dicom_sc,
    "png": _png,
    "json": _json,
}
"""Formats of results, in the order in which they are written."""
MASK_FORMATS = frozenset({"dicom-seg", "dicom-seg-labelmap", FRACTIONAL, "rtstruct"})
"""Those that a classification cannot give; `nifti`, a default, is left out without a word."""
DICOM_FORMATS = MASK_FORMATS | {"dicom-sr", "dicom-sc"}
"""Those that refer to DICOM images."""
