"""Segment or classify new images with a bundle; needs no torch."""

import errno
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.commands.console import say
from medssl.imaging.errors import ConfigError, ImageError, MedsslError, in_words
from medssl.imaging.files import HOPELESS, csv_text, write_text
from medssl.imaging.problems import DAMAGED
from medssl.imaging.progress import Progress
from medssl.runtime.device import Device

if TYPE_CHECKING:
    from medssl.imaging.problems import Problem
    from medssl.imaging.volume import Volume
    from medssl.runtime.inputs import Case
    from medssl.runtime.predictor import Predictor

POSITIONAL = ("bundle", "inputs")
_LEAST_MEMORY_MB = 500
_SHOWN = 20
"""Damaged files shown of a longer list."""


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
    device: Device = "auto",
    memory_mb: int = 2000,
    endpoint: str = "",
) -> None:
    """Predict each input and write its results into OUT/CASE, one line a case into OUT/summary.csv.

    Not a medical device: for research only.

    Args:
        bundle: Bundle folder or .zip made by `medssl export`.
        inputs: NIfTI, NRRD, MHA or picture files, DICOM folders or files, zip files, or folders of these; channels
            of one case are joined by `;`. A bundle with rules for series takes whole studies: folders or zip files.
        out: Folder of the results.
        format: Comma-separated: nifti (seg.nii.gz), dicom-seg (seg.dcm), dicom-seg-labelmap, dicom-seg-fractional
            (probabilities of each voxel), rtstruct, dicom-sr (volumes, class probabilities, warnings), dicom-sc (the
            overlay as a DICOM picture), png (overlay.png), json (report.json).
        threads: Threads to compute with; 0 takes every processor this process may use.
        batch_size: Windows computed at once; more need more memory.
        resample_irregular: Resample DICOM series with uneven slices instead of refusing them.
        overwrite: Replace results of a case that are already there.
        device: What computes: `auto` takes CUDA, OpenVINO or the processor, what this build of ONNX Runtime offers;
            or cpu, cuda, tensorrt, openvino.
        memory_mb: What image, masks and scores may take; with less, many classes on wide images take longer.
        endpoint: URL of a Triton server with the bundle's repository (medssl triton) that computes instead of this
            machine; the golden case is computed there, too.

    Raises:
        ConfigError: Unknown formats, missing inputs.
        MedsslError: The bundle must not be used, some cases failed, or damaged files below the inputs are part of none.
    """
    formats = _formats(format)
    least = (("memory_mb", memory_mb, _LEAST_MEMORY_MB), ("batch_size", batch_size, 1), ("threads", threads, 0))
    if problems := [f"{name} must be {bound} or more, got {value}" for name, value, bound in least if value < bound]:
        raise ConfigError(problems)
    from medssl.runtime.inputs import check_present, find_cases
    from medssl.runtime.predictor import NOT_A_DEVICE, Predictor
    from medssl.runtime.results import MASK_FORMATS

    check_present(inputs)
    predictor = Predictor(bundle, threads, batch_size, device, memory_mb, endpoint)
    cases, left_out = find_cases(inputs, predictor.bundle.spec, resample_irregular=resample_irregular)
    _refuse_existing(out, cases, overwrite)
    if predictor.bundle.spec.task == "classification" and (masks := MASK_FORMATS & set(formats)):
        raise ConfigError([f"format {', '.join(sorted(masks))}: this bundle classifies and makes no mask"])
    out.mkdir(parents=True, exist_ok=True)  # where it cannot be made, it is told before the work
    say(f"{predictor.bundle.spec.name}: {len(cases)} case(s) into {out}. {NOT_A_DEVICE}")
    outcomes: list[Outcome] = []
    try:
        with Progress("predict", len(cases), "case") as progress:
            for case in cases:
                outcomes.append(_one(predictor, case, out, formats))
                progress.advance(note=case.name)
    finally:  # whatever ends the batch: what was finished is told
        _write_summary(out, outcomes, left_out)
    if left_out:
        counts = ", ".join(f"{n} {reason}" for reason, n in Counter(p.reason for p in left_out).most_common())
        say(
            f"left out: {len(left_out)} file(s) that are part of no case ({counts}); {out / 'summary.csv'} says which "
            "and why"
        )
    _report_failures(out, outcomes, left_out)


def _formats(text: str) -> tuple[str, ...]:
    from medssl.runtime.results import FORMATS

    formats = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ConfigError([f"format {', '.join(unknown) or 'empty'}: choose from {', '.join(FORMATS)}"])
    return formats


def _refuse_existing(out: Path, cases: Sequence["Case"], overwrite: bool) -> None:
    """Results replace neither images, nor results where that was not asked for."""
    from medssl.imaging.naming import split_field

    there = [case.name for case in cases if (out / case.name).exists()]
    places = {split_field(part)[0].resolve() for case in cases for part in case.given.split(";")}
    images = [name for name in there if any((out / name).resolve() in (p, *p.parents) for p in places)]
    if images:
        raise ConfigError([f"results of {images[0]!r} would replace its images in {out}: choose another --out"])
    if there and not overwrite:
        raise ConfigError(
            [
                f"{out} already holds results of {len(there)} case(s), first {there[0]!r}: "
                "choose another --out, or --overwrite"
            ]
        )


def _read(case: "Case") -> "Volume":
    try:
        return case.read()
    except OSError as error:  # of this file, not of those beside it
        raise ImageError(f"{case.given} cannot be read ({in_words(error)})", reason="file") from error


def _one(predictor: "Predictor", case: "Case", out: Path, formats: Sequence[str]) -> Outcome:
    from medssl.runtime.results import FRACTIONAL, check_formats, forget_results, write_results

    began = time.perf_counter()
    try:
        forget_results(out / case.name)  # of an earlier call, whose case of this name may be another patient's
        volume = _read(case)
        check_formats(volume, formats)
        prediction = predictor.predict(volume, shares=FRACTIONAL in formats)
        write_results(out / case.name, predictor.bundle, prediction, volume, formats)
    except MedsslError as error:
        return Outcome(case.name, case.given, error)
    except Exception as error:  # of a library or a file, on one image: the others go on
        if isinstance(error, OSError) and error.errno in {*HOPELESS, errno.EACCES}:
            raise
        text = f"{case.given}: nothing was predicted ({in_words(error)})"
        return Outcome(case.name, case.given, ImageError(text, reason="unexpected"))
    return Outcome(case.name, case.given, None, prediction.report, time.perf_counter() - began)


def _write_summary(out: Path, outcomes: Sequence[Outcome], left_out: Sequence["Problem"]) -> None:
    """One line a case: what was found, how long it took, what failed; then one for each file that is part of none."""
    names = list(dict.fromkeys(key for outcome in outcomes for key in _numbers(outcome.report)))
    header = ("case", "input", "status", "seconds", *names, "flags", "warnings", "message")
    rows = [_row(outcome, names) for outcome in outcomes]
    blank = [""] * (len(names) + 3)
    rows += [["", problem.path, problem.reason, *blank, f"left out: {problem.message}"] for problem in left_out]
    write_text(out / "summary.csv", csv_text(header, rows))


def _row(outcome: Outcome, names: Sequence[str]) -> list[object]:
    numbers = _numbers(outcome.report)
    return [
        outcome.case,
        outcome.given,
        outcome.error.reason if outcome.error else "ok",
        f"{outcome.seconds:.2f}",
        *(numbers.get(name, "") for name in names),
        " ".join(flag["code"] for flag in outcome.report.get("flags", ())),
        " | ".join(outcome.report.get("warnings", ())),
        outcome.error.message if outcome.error else "",
    ]


def _numbers(report: dict[str, Any]) -> dict[str, float]:
    sizes: dict[str, float] = {}
    for label in report.get("labels", ()):
        named = {"volume_ml": "ml", "volume_ml_low": "ml_low", "volume_ml_high": "ml_high", "area_mm2": "mm2"}
        sizes |= {f"{label['name']}_{unit}": label[key] for key, unit in named.items() if key in label}
    return sizes | {f"p_{name}": p for name, p in report.get("probabilities", {}).items()}


def _report_failures(out: Path, outcomes: Sequence[Outcome], left_out: Sequence["Problem"]) -> None:
    """A damaged file may be the scan of a patient who is missing from the results: it counts as a failure."""
    failed = [outcome for outcome in outcomes if outcome.error]
    damaged = [problem for problem in left_out if problem.reason in DAMAGED]
    if failed or damaged:
        lines = [f"  - {o.case} ({o.error.reason}): {o.error.message}" for o in failed if o.error]
        lines += [f"  - {p.path} ({p.reason}): {p.message}" for p in damaged[:_SHOWN]]
        lines += [f"  - and {len(damaged) - _SHOWN} more damaged files"] if len(damaged) > _SHOWN else []
        also = f", and {len(damaged)} damaged file(s) are part of no case" if damaged else ""
        others = ", the others are finished" if 0 < len(failed) < len(outcomes) else ""
        raise MedsslError(
            f"{len(failed)} of {len(outcomes)} case(s) failed{also}{others}; see {out / 'summary.csv'}\n"
            + "\n".join(lines),
            reason="all-cases-failed" if len(failed) == len(outcomes) else "some-cases-failed",
        )
    say(f"done: {len(outcomes)} case(s), summary in {out / 'summary.csv'}")
