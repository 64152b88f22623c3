"""What a study found, written: results.json, results.csv, table.md and the report."""

import json
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from medssl.commands.console import say
from medssl.commands.curve_transfer import transferability
from medssl.commands.study_choices import hours_of, told_of
from medssl.commands.study_runs import Encoders, caches_of
from medssl.commands.study_tested import read_tested, validation_cases
from medssl.commands.study_tuned import Done, cache_of
from medssl.evaluation.run_records import read_record
from medssl.evaluation.study_plan import StudyPlan
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.imaging.files import records_text, write_json, write_text
from medssl.tasks.options import InferenceOptions

if TYPE_CHECKING:
    from medssl.data.cache import Cache


def write_study(
    study: StudyPlan,
    out: Path,
    finished: Sequence[Done],
    tried: Sequence[Done],
    encoders: Encoders,
    warnings: Sequence[str],
) -> None:
    """Compare the arms of a study and write OUT/results.json, OUT/results.csv, OUT/table.md and OUT/report.html.

    Args:
        study: The plan.
        out: Folder of the study.
        finished: Its runs, failed ones included.
        tried: The trials that options were chosen by.
        encoders: What the arms started from.
        warnings: What is known already.

    Raises:
        MedsslError: No network could be tested.
    """
    from medssl.data.cache import Cache
    from medssl.evaluation.report.page import write_report
    from medssl.evaluation.report.results import head
    from medssl.evaluation.report.study import study_sections
    from medssl.evaluation.report.study_markdown import study_markdown
    from medssl.evaluation.study_table import compare_arms
    from medssl.training.shares import labelled

    order = [arm.name for arm in study.arms]
    finished = sorted(
        finished, key=lambda d: (d.run.seed, study.labels.index(d.run.labels), order.index(d.run.arm.name))
    )
    rows = [read_tested(done.run, study.split) for done in finished if not done.failed]
    rows.sort(key=lambda row: (order.index(row.arm), row.labels, row.seed))
    if not rows:
        raise MedsslError(f"no network could be tested; the first failed: {finished[0].failed}", reason="no-result")
    cache = Cache.open(cache_of(study, out))
    compared = compare_arms(rows, study.reference, study.metric, study.pairs)
    files = encoders.files
    results: dict[str, Any] = {
        **head("curve", [path.parent for own in files.values() for path in own]),
        "app": study.app,
        "data_sha256": cache.data_sha256,
        "split": study.split,
        "cases": len(labelled(cache, study.task, (study.split,))),
        "unit": study.unit,
        "patients": len(set(rows[0].patients)),
        "validation": _validation(study, cache, finished),
        **compared,
        "transferability": None,
        "pretraining": {name: _pretraining(own) for name, own in files.items() if own},
        "pretraining_failed": dict(encoders.failed),
        "warnings": [*warnings, *_warnings(study, cache, set(rows[0].patients)), *_versions(finished, encoders)],
        "budgets": _budgets(finished),
        "trials": [_trial(done) for done in tried],
        "runs": [_run(done) for done in finished],
    }
    write_json(out / "results.json", results)  # before the features, which take time and memory
    if study.transferability:
        results["transferability"] = transferability(finished, list(files), cache, compared["points"])
        write_json(out / "results.json", results)
    write_text(out / "results.csv", records_text(_rows(results)))
    write_text(out / "table.md", study_markdown(results))
    sections = study_sections(
        results, _logs(finished), caches_of(study, [arm for arm in study.arms if arm.name in files], out)
    )
    about = "Does pretraining help here, and with how few labels?"
    write_report(out, sections, f"Few labels: {Path(study.app).name}", about, results["environment"])
    for sentence in (*sections[0].text, *sections[0].warnings):
        say(sentence)
    say(f"report: {out / 'report.html'}")


def _warnings(study: StudyPlan, cache: "Cache", patients: Collection[str]) -> list[str]:
    """That cases of the split have no answer, few patients were tested, or few of a class."""
    from medssl.evaluation.segmentation_cases import left_out
    from medssl.evaluation.subgroups import few_of_a_class, few_patients
    from medssl.training.shares import labelled

    of_classes = study.task == "classification"
    cases = labelled(cache, study.task, (study.split,))
    found = few_patients(study.split, patients)
    if study.split == "val" and study.trials:
        found.append("Options were chosen on the patients of split val, on which all is measured: it looks too good.")
    if of_classes:
        of_class: dict[str, set[str]] = {name: set() for name in cache.classes}
        for case in cases:
            of_class[case.class_name].add(case.patient)
        found += few_of_a_class(study.split, of_class)
    return found + left_out(cache, study.split, cases, "class" if of_classes else "label map")


def _versions(finished: Sequence[Done], encoders: Encoders) -> list[str]:
    """A sentence where runs of the study were made with different states of the package."""
    folders = [(done.run.arm.name, done.run.folder) for done in finished if not done.failed]
    folders += [(name, path.parent) for name, own in encoders.files.items() for path in own]
    made: dict[str, set[str]] = defaultdict(set)
    for arm, folder in folders:
        for session in read_record(folder).get("sessions", ()):
            made[f"{session['versions']['medssl']}, commit {session['commit'] or 'not known'}"].add(arm)
    if len(made) < 2:
        return []
    each = "; ".join(f"medssl {state}: {', '.join(sorted(arms))}" for state, arms in sorted(made.items()))
    return [f"Runs were made with different states of medssl, which may compute otherwise ({each})."]


def _logs(finished: Sequence[Done]) -> dict[int, dict[str, Path]]:
    """Number of labelled patients to arm to run folder, of the first seed that has one."""
    found: dict[int, dict[str, Path]] = {}
    for done in sorted(finished, key=lambda d: (d.run.labels, d.run.seed)):
        if not done.failed:
            found.setdefault(done.run.labels, {}).setdefault(done.run.arm.name, done.run.folder)
    return found


def _validation(study: StudyPlan, cache: "Cache", finished: Sequence[Done]) -> dict[str, Any]:
    """The labelled cases beside those that are learned from, and what is chosen on them."""
    cases = validation_cases(study, cache)
    kept = {done.run.options.get("inference", {}).get("choose", InferenceOptions.choose) for done in finished}
    chosen = {"options": bool(study.trials), "weights": "best" in kept}
    patients = len({case.patient for case in cases})
    return {"cases": len(cases), "patients": patients, "chosen": [what for what, so in chosen.items() if so and cases]}


def _budgets(finished: Sequence[Done]) -> dict[str, Any]:
    """What each arm spends on the labels."""
    return {
        done.run.arm.name: {
            **{name: done.run.train[name] for name in ("steps", "batch_size")},
            "longer_as": done.run.arm.longer_as,
        }
        for done in finished
        if not done.failed
    }


def _pretraining(encoders: Sequence[Path]) -> dict[str, Any]:
    told = told_of(encoders[0])
    hours = [found for encoder in encoders if (found := hours_of(encoder)) is not None]
    return {
        "method": told.get("method", {}).get("class_path", "").rpartition(".")[2],
        **{name: told["provenance"].get(name) for name in ("cases", "steps", "crop")},
        **_views(encoders[0], told),
        "device_hours": fmean(hours) if hours else None,
        "pretrainings": len(encoders),
    }


def _views(encoder: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    """What a pretraining saw of an image, and how many at a time, as far as the run beside the file tells."""
    from medssl.models.component import resolve

    record = encoder.with_name("run.json")
    config = json.loads(record.read_text(encoding="utf-8"))["config"] if record.is_file() else {}
    views = config.get("views", {})
    try:
        number = int(getattr(resolve(told.get("method", {}).get("class_path", ""), trusted_only=True), "views", 1))
    except ConfigError:
        number = None  # a method from elsewhere, whose class is not looked at
    return {
        "views": number,
        "local_views": views.get("local_views"),
        "source": views.get("source") or None,
        "batch_size": config.get("train", {}).get("batch_size"),
    }


def _trial(done: Done) -> dict[str, Any]:
    run = done.run
    options = (run.arm.trials or run.plan.trials)[run.trial].options if run.trial is not None else {}
    score = done.score if math.isfinite(done.score) else None
    return {
        "arm": run.arm.name,
        "labels": run.labels,
        "options": options,
        "validation": score,
        "jobs": done.jobs,
        "failed": done.failed,
    }


def _run(done: Done) -> dict[str, Any]:
    run = done.run
    return {
        "arm": run.arm.name,
        "labels": run.labels,
        "seed": run.seed,
        "trial": run.trial,
        "steps": run.train["steps"],
        "lr": run.train["lr"],
        "seconds_a_step": done.seconds_a_step if math.isfinite(done.seconds_a_step) else None,
        "folder": str(run.folder.relative_to(run.out)),
        "failed": done.failed,
    }


def _rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"labels": point["labels"], "arm": arm, "seed": seed, results["metric"]: value}
        for point in results["points"]
        for arm, found in point["arms"].items()
        for seed, value in found["seeds"].items()
    ]
