"""Segment or classify new images with a bundle; needs no torch."""

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.commands.console import say
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.imaging.files import write_text
from medssl.imaging.naming import split_field
from medssl.imaging.progress import Progress

if TYPE_CHECKING:
    from medssl.runtime.predictor import Predictor

POSITIONAL = ("bundle", "inputs")


@dataclass
class Outcome:
    """What became of one input."""

    case: str
    given: str
    error: MedsslError | None = None
    report: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def predict(
    bundle: Path,
    inputs: list[str],
    out: Path,
    format: str = "nifti,json",
    threads: int = 0,
    batch_size: int = 1,
    resample_irregular: bool = False,
    overwrite: bool = False,
    endpoint: str = "",
) -> None:
    """Predict each input and write OUT/CASE/{seg.nii.gz, seg.dcm, report.json, overlay.png} and OUT/summary.csv.

    Not a medical device: for research only.

    Args:
        bundle: Bundle folder or .zip made by `medssl export`.
        inputs: NIfTI, NRRD, MHA or picture files, DICOM folders or files, zip files, or folders of these; channels
            of one case are joined by `;`.
        out: Folder of the results.
        format: Comma-separated: nifti, dicom-seg, json, png.
        threads: Threads to compute with; 0 takes every processor this process may use.
        batch_size: Windows computed at once; more need more memory.
        resample_irregular: Resample DICOM series with uneven slices instead of refusing them.
        overwrite: Replace results of a case that are already there.
        endpoint: URL of a Triton server with the bundle's repository (medssl triton) that computes instead of this
            machine; the golden case is computed there, too.

    Raises:
        ConfigError: Unknown formats, missing inputs.
        MedsslError: The bundle must not be used, or some cases failed.
    """
    formats = _formats(format)
    cases = _cases(inputs)
    _refuse_existing(out, [case for case, _ in cases], overwrite)
    from medssl.runtime.predictor import NOT_A_DEVICE, Predictor

    predictor = Predictor(bundle, threads, batch_size, endpoint)
    if predictor.bundle.spec.task == "classification" and {"nifti", "dicom-seg"} & set(formats) - {"nifti"}:
        raise ConfigError(["format dicom-seg: this bundle classifies and makes no mask"])
    say(f"{predictor.bundle.spec.name}: {len(cases)} case(s) into {out}. {NOT_A_DEVICE}")
    outcomes = []
    with Progress("predict", len(cases), "case") as progress:
        for case, name in cases:
            outcomes.append(_one(predictor, case, name, out, formats, resample_irregular))
            progress.advance(note=case)
    _write_summary(out, outcomes)
    _report_failures(out, outcomes)


def _formats(text: str) -> tuple[str, ...]:
    from medssl.runtime.results import FORMATS

    formats = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ConfigError([f"format {', '.join(unknown) or 'empty'}: choose from {', '.join(FORMATS)}"])
    return formats


def _cases(inputs: Sequence[str]) -> list[tuple[str, str]]:
    """Case names and image fields; a folder that is no single image is searched."""
    from medssl.imaging.readers.scan import images_below

    fields: list[str] = []
    problems = []
    for given in inputs:
        missing = [p for p in given.split(";") if not split_field(p)[0].exists()]
        if missing:
            problems.append(f"input {missing[0]} does not exist")
        elif Path(given).is_dir():
            found = images_below(Path(given))
            fields += found
            if not found:
                problems.append(f"input {given} holds no image; medssl index {given} --out manifest.csv says why")
        else:
            fields.append(given)
    if problems or not fields:
        raise ConfigError(problems or ["no input given"])
    return list(zip(_names(fields), fields, strict=True))


def _names(fields: Sequence[str]) -> list[str]:
    """A folder name for each case, from its file or series folder; repeated names get a number."""
    names: list[str] = []
    for text in fields:
        path = split_field(text.split(";", 1)[0])[0]
        name = path.resolve().name
        for suffix in (
            ".gz",
            ".nii",
            ".nrrd",
            ".mha",
            ".mhd",
            ".dcm",
            ".zip",
            ".png",
            ".jpg",
            ".jpeg",
            ".tif",
            ".tiff",
        ):
            name = name.removesuffix(suffix)
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".") or "case"
        number = 2
        unique = name
        while unique in names:
            unique = f"{name}_{number}"
            number += 1
        names.append(unique)
    return names


def _refuse_existing(out: Path, cases: Sequence[str], overwrite: bool) -> None:
    there = [case for case in cases if (out / case).exists()]
    if there and not overwrite:
        raise ConfigError(
            [
                f"{out} already holds results of {len(there)} case(s), first {there[0]!r}: "
                "choose another --out, or --overwrite"
            ]
        )


def _one(
    predictor: "Predictor", case: str, name: str, out: Path, formats: Sequence[str], resample_irregular: bool
) -> Outcome:
    from medssl.imaging.readers.open import read_channels
    from medssl.runtime.results import check_formats, write_results

    began = time.perf_counter()
    try:
        volume = read_channels(name, Path(), resample_irregular=resample_irregular)
        check_formats(volume, formats)
        prediction = predictor.predict(volume)
        write_results(out / case, predictor.bundle, prediction, volume, formats)
    except MedsslError as error:
        return Outcome(case, name, error)
    return Outcome(case, name, None, prediction.report, time.perf_counter() - began)


def _write_summary(out: Path, outcomes: Sequence[Outcome]) -> None:
    """One line a case: what was found, how long it took, what failed."""
    names = list(dict.fromkeys(key for outcome in outcomes for key in _numbers(outcome.report)))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("case", "input", "status", "seconds", *names, "warnings", "message"))
    for outcome in outcomes:
        numbers = _numbers(outcome.report)
        writer.writerow(
            (
                outcome.case,
                outcome.given,
                outcome.error.reason if outcome.error else "ok",
                f"{outcome.seconds:.2f}",
                *(numbers.get(name, "") for name in names),
                " | ".join(outcome.report.get("warnings", ())),
                outcome.error.message if outcome.error else "",
            )
        )
    write_text(out / "summary.csv", buffer.getvalue())


def _numbers(report: dict[str, Any]) -> dict[str, float]:
    volumes = {f"{label['name']}_ml": label["volume_ml"] for label in report.get("labels", ())}
    return volumes | {f"p_{name}": p for name, p in report.get("probabilities", {}).items()}


def _report_failures(out: Path, outcomes: Sequence[Outcome]) -> None:
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        lines = "\n".join(f"  - {o.case} ({o.error.reason}): {o.error.message}" for o in failed if o.error)
        raise MedsslError(
            f"{len(failed)} of {len(outcomes)} case(s) failed, the others are finished; "
            f"see {out / 'summary.csv'}\n{lines}",
            reason="all-cases-failed" if len(failed) == len(outcomes) else "some-cases-failed",
        )
    say(f"done: {len(outcomes)} case(s), summary in {out / 'summary.csv'}")
