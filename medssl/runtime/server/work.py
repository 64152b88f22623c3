"""One job from beginning to end: pull, read, predict, write, store."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from medssl.imaging.errors import BundleError, ImageError, unquoted
from medssl.imaging.files import sync_folder
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti
from medssl.runtime.predictor import Prediction, Predictor
from medssl.runtime.results import DICOM_FORMATS, FRACTIONAL, check_formats, write_results
from medssl.runtime.server.channels import files_of
from medssl.runtime.server.folders import read_record
from medssl.runtime.server.inputs import UNPACKED, compact, read_input
from medssl.runtime.server.options import LimitOptions, PacsOptions
from medssl.runtime.server.pacs import Caller, pull_study, store_results

_PREDICTING, _WRITING, _STEP = 0.25, 0.8, 0.05
_MARK = "json"
"""Format that is always written: `report.json` says that results are finished, so that a retry stores these again."""
_REPLACES = (
    "a result was made of this study before more or changed objects of it came, and may be in the archive: this one "
    "replaces it"
)


class Report(Protocol):
    """Where a job tells how far it is."""

    def __call__(self, stage: str, progress: float, study_uid: str = "") -> None:
        """Say what is begun, the share that is done, and the study once it is known."""


def work(folder: Path, predictors: Mapping[str, Predictor], settings: Mapping[str, Any], report: Report) -> None:
    """Do a job; results that an earlier try finished are not computed again.

    Args:
        folder: Folder of the job.
        predictors: Loaded bundles by their names.
        settings: `limits`, `pacs`, `caller`, `formats`, `resample_irregular`.
        report: Told of every stage.

    Raises:
        MedsslError: The job failed, with the reason why.
    """
    record = read_record(folder)
    if record.get("incomplete"):
        raise ImageError(record["incomplete"], reason="incomplete-study")
    limits = LimitOptions(**settings["limits"])
    pacs = PacsOptions(**_with_paths(settings["pacs"], "password", "certificate"))
    predictor = predictors.get(record.get("model", ""))
    if predictor is None:
        raise BundleError(
            f"no model {record.get('model', '')!r} is served: it was when the job was accepted", reason="no-model"
        )
    if record.get("study_uid") and not any((folder / "input").iterdir()):
        report("pulling", 0.02)
        _pull(folder, record, pacs, limits)
    if not _finished(folder, predictor):
        try:
            _compute(folder, predictor, limits, settings, report)
        finally:
            shutil.rmtree(folder / UNPACKED, ignore_errors=True)
    objects = sorted((folder / "results").glob("*.dcm"))
    if pacs.store != "none" and not objects and DICOM_FORMATS & set(settings["formats"]) and _of_dicom(folder):
        raise ImageError(
            "no DICOM result could be written for this image, so nothing is in the archive; the other results and the "
            "reason, in report.json, can be fetched here",
            reason="not-written",
        )
    if pacs.store != "none" and objects:
        report("storing", 0.95)
        store_results(objects, pacs, Caller(**_with_paths(settings["caller"], "certificate", "key")))


def _pull(folder: Path, record: Mapping[str, Any], pacs: PacsOptions, limits: LimitOptions) -> None:
    """Fill `input` by one rename: after a kill half way the study is pulled anew, never computed in part."""
    pulling = folder / "pulling"
    shutil.rmtree(pulling, ignore_errors=True)
    pulling.mkdir()
    pull_study(record["study_uid"], pulling, pacs, limits, series_uid=record.get("series_uid", ""))
    sync_folder(pulling)
    pulling.rename(folder / "input")
    sync_folder(folder)


def _compute(
    folder: Path, predictor: Predictor, limits: LimitOptions, settings: Mapping[str, Any], report: Report
) -> None:
    report("reading", 0.1)
    spec, series = predictor.bundle.spec, read_record(folder).get("series_uid", "")
    volume = read_input(folder, spec, limits, series=series, resample_irregular=settings["resample_irregular"])
    report("predicting", _PREDICTING, volume.source.uids.get("StudyInstanceUID", ""))
    formats = _formats(settings["formats"], volume)
    prediction = _predicted(predictor, volume, FRACTIONAL in formats, _advancing(report))
    prediction.report["image"]["files"] = files_of(volume, spec.channels)
    prediction.report["warnings"] += [_REPLACES] if read_record(folder).get("replaces") else []
    if _finished(folder, predictor):  # by another server, which took this one for dead: its results may be stored
        return
    report("writing", _WRITING)
    write_nifti(compact(volume), folder / "image.nii.gz")
    results = folder / "results"
    possible = [name for name in formats if name != FRACTIONAL or prediction.shares is not None]
    write_results(results, predictor.bundle, prediction, volume, [*possible, _MARK], partly=True)


def _advancing(report: Report) -> Callable[[float], None]:
    """Tells of the network's part of a job, in steps: each of them is written down."""
    last = _PREDICTING

    def told(share: float) -> None:
        nonlocal last
        progress = _PREDICTING + share * (_WRITING - _PREDICTING)
        if progress >= last + _STEP:
            last = progress
            report("predicting", round(progress, 2))

    return told


def _predicted(predictor: Predictor, volume: Volume, shares: bool, told: Callable[[float], None]) -> Prediction:
    """What the network found; without the probability of each voxel, which is told, where they would be too many."""
    try:
        return predictor.predict(volume, shares, told)
    except ImageError as error:
        if not shares or error.reason != "too-large":
            raise
        prediction = predictor.predict(volume, told=told)
        prediction.report["warnings"].append(f"{FRACTIONAL} was not written: {unquoted(error)}")
        return prediction


def _with_paths(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Values of options, those that are paths as such again."""
    return {**values, **{name: Path(values[name]) for name in names if values[name]}}


def _finished(folder: Path, predictor: Predictor) -> bool:
    """Whether the results are there whole, made by the same bundle; the folder appears at once or not at all."""
    try:
        report = json.loads((folder / "results" / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(report["bundle_sha256"] == predictor.bundle.sha256)


def _of_dicom(folder: Path) -> bool:
    report = json.loads((folder / "results" / "report.json").read_text(encoding="utf-8"))
    return bool(report["image"]["format"] == "dicom")


def _formats(wanted: list[str], volume: Volume) -> list[str]:
    """Of the wanted formats those that the image allows."""
    formats = []
    for name in wanted:
        try:
            check_formats(volume, [name])
        except ImageError:
            continue
        formats.append(name)
    return formats
