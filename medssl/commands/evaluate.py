"""Measure how well a fine-tuned run does on the cases of a split."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.commands.console import say
from medssl.commands.evaluate_dense import evaluate_dense
from medssl.commands.evaluate_frozen import encoder_file, evaluate_encoders
from medssl.commands.evaluate_idle import idle, refuse
from medssl.evaluation.options import FrozenOptions, LesionOptions, MeasureOptions, PredictOptions
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.imaging.files import atomic_folder, records_text, write_text

if TYPE_CHECKING:
    from medssl.data.cache import Cache, CachedCase
    from medssl.evaluation.classification_cases import ClassPrediction
    from medssl.evaluation.loaded_run import LoadedRun
    from medssl.evaluation.segmentation_cases import Outcome

POSITIONAL = ("run",)
THRESHOLD_RULE = "threshold rule"

_PREDICT, _MEASURE, _LESIONS, _FROZEN = PredictOptions(), MeasureOptions(), LesionOptions(), FrozenOptions()


def evaluate(
    run: Path,
    data: Path,
    out: Path,
    split: str = "test",
    baseline: Path | None = None,
    threshold_rule: bool = False,
    predict: PredictOptions = _PREDICT,
    measure: MeasureOptions = _MEASURE,
    lesions: LesionOptions = _LESIONS,
    frozen: FrozenOptions = _FROZEN,
    feature_map: Path | None = None,
) -> None:
    """Predict the labelled cases of a split and compare with their labels; writes OUT/report.html and OUT/results.json.

    Segmentation: Dice, 95 % Hausdorff distance, surface Dice and volumes of every case and class on the grid of the
    original image (OUT/cases.csv), pictures of the best, the median and the worst case; `lesions.labels` counts single
    lesions as well. Classification: AUROC, average precision, balanced accuracy. Means come with 95 % intervals over
    patients (OUT/results.csv). A run with folds is measured as an ensemble. An encoder is judged as it is, by probes of
    its frozen features beside the same architecture with random weights (`frozen`), by where it finds landmarks, or by
    what it segments from one patch (`frozen.target`).

    Args:
        run: Folder of a fine-tuning run, or of a pretraining, or an encoder file.
        data: Prepared cache, made by `medssl prepare`.
        out: Folder of the results; must not exist.
        split: Split of the cases; an encoder is judged on split test always.
        baseline: Another run (or encoder) to compare with on the same cases, for instance one from random weights.
        threshold_rule: Compare with a rule that gives each voxel the class of the nearest typical intensity as well.
        predict: How the cases are predicted; of an encoder, `predict.device` alone.
        measure: What is measured.
        lesions: Whether single lesions are counted: average precision, FROC, and whether a case has one.
        frozen: How an encoder is probed; it uses all splits.
        feature_map: A map of the features as PNG, to be shown in the report.

    Raises:
        ConfigError: Every mistake in the options, or data that does not fit the model.
        CacheError: No such split, or no labelled case in it.
        CheckpointError: The run has no finished model.
        MedsslError: Some cases could not be evaluated; the results of the others are written.
    """
    from medssl.data.cache import Cache
    from medssl.evaluation.classification_cases import check_order
    from medssl.evaluation.device import chosen_device
    from medssl.evaluation.loaded_run import check_fits, load_run

    if out.exists():
        raise ConfigError([f"out: {out} exists already: choose another folder; nothing is overwritten"])
    maps = _feature_maps(feature_map)
    cache = Cache.open(data)
    dims = 2 if frozen.bags == "slices" else cache.spatial_dims
    encoders = [encoder_file(folder, dims) for folder in (run, baseline) if folder is not None]
    files = [path for path in encoders if path is not None]
    if files:
        dense = frozen.target in ("landmarks", "prompt")
        refused = {
            **idle("encoder", predict, measure, lesions, frozen),
            "compare it with another one, and without threshold_rule": len(files) < len(encoders) or threshold_rule,
            f"it is judged on split test, options are chosen on val: leave split {split} out": split != "test",
            f"a report of {frozen.target} shows no feature_map: leave it out": dense and bool(maps),
        }
        refuse(f"{files[0]} is an encoder", refused)
        device = chosen_device(predict.device, "predict.device")
        head = _head(frozen.target if dense else "frozen", "test", cache, [path.parent for path in files])
        if dense:
            evaluate_dense(files, cache, head, out, frozen, measure.resamples, device)
        else:
            evaluate_encoders(files, cache, head, out, frozen, measure, device, maps)
        return
    folders = [folder for folder in (run, baseline) if folder is not None]
    runs = [load_run(folder, predict) for folder in folders]
    for loaded in runs:
        check_fits(loaded.spec, cache)
    if len({loaded.spec.task for loaded in runs}) > 1:
        raise ConfigError([f"baseline {baseline} has another task than {run}, so they cannot be compared"])
    useless = idle(runs[0].spec.task, predict, measure, lesions, frozen)
    if runs[0].spec.task == "classification":
        refuse(f"{run} is a classifier", {**useless, "threshold_rule is for a segmentation": threshold_rule})
        if any(set(loaded.spec.classes) != set(runs[0].spec.classes) for loaded in runs):
            told = " and ".join(str(list(loaded.spec.classes)) for loaded in runs)
            raise ConfigError(
                [f"baseline {baseline} and {run} tell other classes apart, so they cannot be compared: {told}"]
            )
        check_order(runs[0].spec.classes, measure.class_order)
        head = _head("classification", split, cache, folders)
        _classification(folders, runs, cache, head, out, (measure, maps))
    else:
        refuse(f"{run} is a segmentation", useless)
        head = _head("segmentation", split, cache, folders)
        _segmentation(folders, runs, cache, head, out, (predict, measure, lesions, threshold_rule, maps))


def _feature_maps(path: Path | None) -> list[tuple[Path, str]]:
    """The picture that was given, with its caption.

    Raises:
        ConfigError: It cannot be read.
        ImageError: It is no PNG file.
    """
    from medssl.evaluation.report.page import file_picture

    if path is None:
        return []
    if not path.is_file():
        raise ConfigError([f"feature_map {path} does not exist"])
    caption = f"Map of the features, given as {path.name}."
    file_picture(path, caption)
    return [(path, caption)]


def _segmentation(
    folders: Sequence[Path],
    runs: "Sequence[LoadedRun]",
    cache: "Cache",
    head: dict[str, Any],
    out: Path,
    options: tuple[PredictOptions, MeasureOptions, LesionOptions, bool, list[tuple[Path, str]]],
) -> None:
    from medssl.evaluation.report.evaluation import segmentation_page, training_logs
    from medssl.evaluation.report.page import write_report
    from medssl.evaluation.report.results import write_results
    from medssl.evaluation.segmentation_cases import evaluate_cases, labelled_cases, left_out, lesion_labels
    from medssl.evaluation.subgroups import few_patients, unread_ages

    predict, measure, lesions, with_rule, maps = options
    split = head["split"]
    cases, counted = labelled_cases(cache, split), lesion_labels(cache, lesions) is not None
    names = _names(runs)
    arms = {name: _arm(loaded, predict.batch_size) for name, loaded in zip(names, runs, strict=True)}
    if with_rule:
        from medssl.evaluation.threshold_rule import fit_thresholds

        arms[THRESHOLD_RULE] = fit_thresholds(cache, cache.select("train", labelled=True))
    _announce(cache, cases, split, runs, list(arms), out)
    scored = {name: _scored_arm(loaded, predict.batch_size) for name, loaded in zip(names, runs, strict=True)}
    outcome = evaluate_cases(cache, cases, {**arms, **scored} if counted else arms, measure.tolerance_mm, lesions)
    if not outcome.results[names[0]]:
        first = outcome.failures[0]
        raise MedsslError(
            f"none of the {len(cases)} cases could be evaluated; the first, {first.case!r}: {first.message}",
            reason=first.reason,
        )
    with atomic_folder(out) as temporary:
        pictures, missing = _overlays(cache, cases, outcome.results[names[0]], arms[names[0]], temporary)
        warnings = [
            *_seen(runs, cases, split),
            *_warnings(outcome),
            *few_patients(split, {result.patient for result in outcome.results[names[0]]}),
            *left_out(cache, split, cases, "label map"),
            *unread_ages(cases),
            *missing,
        ]
        results = {**head, **_results(outcome, names[0], measure, warnings)}
        results |= _of_runs(names, runs)
        results["lesions"] = vars(lesions) if counted else None
        results["pictures"] = [{"file": str(p.relative_to(temporary)), "caption": text} for p, text in pictures]
        rows = [row for name, found in outcome.results.items() for result in found for row in result.rows(name)]
        write_text(temporary / "cases.csv", records_text(rows))
        write_results(temporary, results)
        sections = segmentation_page(
            results, rows, pictures, training_logs(dict(zip(names, folders, strict=True))), maps
        )
        about = "Segmentation, compared with reference labels."
        write_report(temporary, sections, f"Evaluation of {names[0]}", about, results["environment"])
    _tell(out, results, names[0])
    _report_failures(out, outcome, len(cases))


def _classification(
    folders: Sequence[Path],
    runs: "Sequence[LoadedRun]",
    cache: "Cache",
    head: dict[str, Any],
    out: Path,
    options: tuple[MeasureOptions, list[tuple[Path, str]]],
) -> None:
    from medssl.evaluation.classification_cases import CONVENTIONS, class_warnings, compare_classes, summarise_classes
    from medssl.evaluation.report.evaluation import classification_page, training_logs
    from medssl.evaluation.report.page import write_report
    from medssl.evaluation.report.results import interval_text, p_text, write_results
    from medssl.evaluation.segmentation_cases import classified_cases, left_out
    from medssl.evaluation.subgroups import unread_ages

    measure, maps = options
    split = head["split"]
    cases, names, classes = classified_cases(cache, split), _names(runs), runs[0].spec.classes
    _announce(cache, cases, split, runs, names, out)
    found = {name: _classified(loaded, cache, cases, classes) for name, loaded in zip(names, runs, strict=True)}
    own, others = found[names[0]], {name: found[name] for name in names[1:]}
    results = {
        **head,
        "arm": names[0],
        **_of_runs(names, runs),
        **summarise_classes(own, classes, measure.resamples, measure.class_order),
        **compare_classes(own, others, classes, measure.resamples, measure.class_order),
        "conventions": list(CONVENTIONS),
        "warnings": [
            *_seen(runs, cases, split),
            *class_warnings(own, classes, split),
            *left_out(cache, split, cases, "class"),
            *unread_ages(cases),
        ],
    }
    rows = [row for name, predictions in found.items() for p in predictions for row in [p.row(name, classes)]]
    with atomic_folder(out) as temporary:
        write_text(temporary / "cases.csv", records_text(rows))
        write_results(temporary, results)
        sections = classification_page(results, rows, training_logs(dict(zip(names, folders, strict=True))), maps)
        about = "Classes of whole images, compared with the reference."
        write_report(temporary, sections, f"Evaluation of {names[0]}", about, results["environment"])
    for name, differences in results["differences"].items():
        shown, test = interval_text(differences["auroc"], signed=True), results["tests"][name]["auroc"]
        say(f"{names[0]} - {name}: AUROC {shown}, p {p_text(test['p_value'])}: {test['verdict']}")
    say(f"AUROC {interval_text(results['metrics']['auroc'])}, report: {out / 'report.html'}")


def _classified(
    loaded: "LoadedRun", cache: "Cache", cases: "Sequence[CachedCase]", classes: Sequence[str]
) -> "list[ClassPrediction]":
    """Probabilities of every case, in the order of the classes."""
    from medssl.evaluation.classification_cases import predict_classes
    from medssl.tasks.inference import classify_image

    columns = [loaded.spec.classes.index(name) for name in classes]
    return predict_classes(
        cache, cases, classes, lambda image: classify_image(loaded.networks, loaded.spec, image)[columns]
    )


def _arm(loaded: "LoadedRun", batch_size: int) -> Callable[[Any], Any]:
    from medssl.tasks.inference import segment_image

    return lambda image: segment_image(loaded.networks, loaded.spec, image, batch_size)


def _scored_arm(loaded: "LoadedRun", batch_size: int) -> Callable[[Any], Any]:
    from medssl.tasks.inference import segment_scores

    return lambda image: segment_scores(loaded.networks, loaded.spec, image, batch_size)


def _of_runs(names: Sequence[str], runs: "Sequence[LoadedRun]") -> dict[str, Any]:
    """What answered under each name."""
    named = dict(zip(names, runs, strict=True))
    return {
        "networks": {name: len(loaded.networks) for name, loaded in named.items()},
        "weights": {name: list(loaded.weights) for name, loaded in named.items()},
        "mirror_axes": {name: list(loaded.spec.mirror_axes) for name, loaded in named.items()},
    }


def _names(runs: "Sequence[LoadedRun]") -> list[str]:
    names = [loaded.name for loaded in runs]
    return names if len(set(names)) == len(names) else [f"{name} {n + 1}" for n, name in enumerate(names)]


def _announce(
    cache: "Cache",
    cases: "Sequence[CachedCase]",
    split: str,
    runs: "Sequence[LoadedRun]",
    arms: Sequence[str],
    out: Path,
) -> None:
    patients = len({case.patient for case in cases})
    folds = f", an ensemble of {len(runs[0].networks)} folds" if len(runs[0].networks) > 1 else ""
    mirrored = f", mirrored along axes {list(runs[0].spec.mirror_axes)}" if runs[0].spec.mirror_axes else ""
    say(
        f"evaluate: {len(cases)} cases of {patients} patients, split {split} of {cache.path}; "
        f"{runs[0].spec.task} by {', '.join(arms)}{folds}{mirrored} on {runs[0].device}; results: {out}; "
        f"about {_estimate_s(runs, cases) / 60:.1f} min\n"
        "Not a medical device: for research only."
    )


def _estimate_s(runs: "Sequence[LoadedRun]", cases: "Sequence[CachedCase]") -> float:
    """Time of one window of each run, times the windows of all cases."""
    import numpy as np

    from medssl.tasks.inference import Ensemble, window_function

    total = 0.0
    for loaded in runs:
        spec = loaded.spec
        blank = np.zeros((1, spec.network.in_channels, *spec.window), np.float32)
        function = window_function(Ensemble(loaded.networks))
        function(blank)
        began = time.perf_counter()
        function(blank)
        each = (time.perf_counter() - began) * 2 ** len(spec.mirror_axes)
        total += each * sum(_windows(case.shape, spec.window, spec.overlap, spec.task) for case in cases)
    return total


def _windows(shape: Sequence[int], window: Sequence[int], overlap: float, task: str) -> int:
    overlap = 0 if task == "classification" else overlap
    steps = [max(math.ceil((n - w) / max(w * (1 - overlap), 1)), 0) + 1 for n, w in zip(shape, window, strict=True)]
    return math.prod(steps)


def _head(task: str, split: str, cache: "Cache", folders: Sequence[Path]) -> dict[str, Any]:
    from medssl.evaluation.report.results import head

    return {
        **head(task, folders),
        "split": split,
        "data_sha256": cache.data_sha256,
        "manifest_sha256": cache.manifest_sha256,
    }


def _results(outcome: "Outcome", arm: str, measure: MeasureOptions, warnings: list[str]) -> dict[str, Any]:
    from medssl.evaluation.summaries import CONVENTIONS, differences, summarise

    compared = {
        name: differences(outcome.results[arm], found) for name, found in outcome.results.items() if name != arm
    }
    return {
        "arm": arm,
        "tolerance_mm": measure.tolerance_mm,
        "calibrated": outcome.calibrated,
        "arms": {name: summarise(found, measure.resamples) for name, found in outcome.results.items()},
        "differences": {name: found for name, (found, _) in compared.items()},
        "tests": {name: tests for name, (_, tests) in compared.items()},
        "conventions": list(CONVENTIONS),
        "warnings": warnings,
        "failures": [vars(failure) for failure in outcome.failures],
    }


def _warnings(outcome: "Outcome") -> list[str]:
    found = []
    without = outcome.uncalibrated
    if without and not outcome.calibrated:
        found.append("The images do not say how large a pixel is: lengths and the tolerance are in pixels, not in mm.")
    elif without:
        named = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
        found.append(
            f"{len(without)} of {outcome.cases} images do not say how large a pixel is ({named}): their distances, "
            "surface Dice and sizes are in no number, because pixels and mm have no mean; their Dice is. Evaluate them "
            "on their own for numbers in pixels."
        )
    if outcome.failures:
        found.append(
            f"{len(outcome.failures)} case(s) could not be evaluated and are not in the numbers: "
            + "; ".join(f"{failure.case} ({failure.reason})" for failure in outcome.failures)
        )
    return found


def _seen(runs: "Sequence[LoadedRun]", cases: "Sequence[CachedCase]", split: str) -> list[str]:
    """What may make the numbers too good, also said on the console."""
    patients = {case.patient for case in cases}
    found = [sentence for loaded in runs for sentence in loaded.warnings(patients, split)]
    for sentence in found:
        say(f"WARNING: {sentence}")
    return found


def _overlays(
    cache: "Cache", cases: "Sequence[CachedCase]", results: Sequence[Any], arm: Callable[[Any], Any], folder: Path
) -> tuple[list[tuple[Path, str]], list[str]]:
    """Prediction and reference of the best, median and worst case, through the same planes, and why one is missing."""
    from medssl.evaluation.segmentation_cases import native_image, native_reference
    from medssl.evaluation.summaries import best_median_worst
    from medssl.imaging.preprocess import restore_label
    from medssl.imaging.writers.overlay import write_overlay

    by_name = {case.case: case for case in cases}
    pictures: list[tuple[Path, str]] = []
    missing = []
    for rank, result in best_median_worst(results).items():
        case = by_name[result.case]
        try:
            image, reference = native_image(cache, case), native_reference(cache, case)
        except (MedsslError, OSError) as error:
            missing.append(f"No picture of case {case.case}: {error}")
            continue
        masks = {"reference": reference, "prediction": restore_label(arm(cache.image(case)), case.record)}
        for kind, mask in masks.items():
            path = folder / "overlays" / f"{rank}_{kind}.png"
            write_overlay(image, mask, cache.labels, path, centre_by=reference)
            pictures.append((path, f"{rank.capitalize()} case, {result.case}, Dice {result.mean_dice:.3f}: {kind}."))
    return pictures, missing


def _tell(out: Path, results: Mapping[str, Any], arm: str) -> None:
    from medssl.evaluation.report.results import interval_text, p_text

    for name, content in results["arms"].items():
        say(f"{name}: mean Dice {interval_text(content['mean_dice'])}")
    for name, found in results["differences"].items():
        shown, test = interval_text(found["mean_dice"], signed=True), results["tests"][name]["mean_dice"]
        say(f"{arm} - {name}: {shown}, p {p_text(test['p_value'])}: {test['verdict']}")
    say(f"report: {out / 'report.html'}")


def _report_failures(out: Path, outcome: "Outcome", total: int) -> None:
    if outcome.failures:
        lines = "\n".join(f"  - {f.case}: {f.message} ({f.reason})" for f in outcome.failures)
        raise MedsslError(
            f"{len(outcome.failures)} of {total} cases could not be evaluated; the others are in {out}\n{lines}",
            reason="cases-failed",
        )
