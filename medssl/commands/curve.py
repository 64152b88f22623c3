"""Label-fraction study: does pretraining help here, with how few labels, and is it worth its time?"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from medssl.commands.console import say
from medssl.commands.curve_transfer import transferability
from medssl.commands.keys import key_of
from medssl.commands.parsing import read_options, resolve_folder
from medssl.commands.study_checks import check_classes, check_inits, check_study, claim
from medssl.commands.study_runs import caches_of, done_runs, prepare_study, pretrain_arm
from medssl.commands.study_tested import read_tested, validation_cases
from medssl.commands.study_tuned import Done, Tuned, cache_of
from medssl.evaluation.study_plan import ArmPlan, StudyPlan
from medssl.imaging.errors import MedsslError
from medssl.imaging.files import records_text, write_json, write_text
from medssl.tasks.options import InferenceOptions

if TYPE_CHECKING:
    from medssl.data.cache import Cache

POSITIONAL: tuple[str, ...] = ("plan",)


def curve(plan: Path, data: Path, out: Path, arms: tuple[str, ...] = (), seeds: int = 0, jobs: int = 1) -> None:
    """Fine-tune every arm of a plan on few and on more labelled patients, test each network once, and compare.

    Arms are paired: for each seed and number of patients all learn from the same patients and are tested on the same
    cases. Each takes the best of equally many trials on the validation patients. OUT gets report.html, results.json and
    results.csv. Run it again to resume: what is finished is kept, what is changed in the plan is run anew. Runs that
    fail are told.

    Args:
        plan: YAML file of the study, or the name of a built-in one, for instance `few_labels_hippocampus`.
        data: Folder of the data that the plan's application is for.
        out: Folder of the study.
        arms: Only these, out of the plan, and its reference.
        seeds: Only so many; 0 = as the plan says.
        jobs: Fine-tunings at a time, each with its share of the processors.

    Raises:
        ConfigError: Every mistake in the plan, before anything is run; classes that are not those of the data.
        MedsslError: OUT was made from other data, a pretraining is not finished, or no network could be tested.
    """
    study = read_options(StudyPlan, resolve_folder("configs", plan))
    chosen = check_study(study, data, arms, seeds, jobs)
    claim(data, out)
    prepare_study(study, data, out)
    check_classes(study, out)
    unknown = check_inits(study, data, out, chosen)
    for sentence in unknown:
        say(f"curve: {sentence}")
    number = min(study.pretrainings, seeds or study.seeds)
    files = {arm.name: pretrain_arm(study, arm, data, out, number) for arm in chosen}
    tried = _try(study, chosen, files, out, jobs)
    choices = {arm.name: _choose(arm, tried, files) for arm in chosen}
    every = [
        (Tuned(out, study, arm, labels, seed, choice.trial, _init(files, arm, seed), choice.steps), choice.failed)
        for seed in range(seeds or study.seeds)
        for labels in study.labels
        for arm in chosen
        for choice in (choices[arm.name],)
    ]
    finished = [Done(run, math.nan, math.nan, why) for run, why in every if why]
    runs = [run for run, why in every if not why]
    for number, done in enumerate(done_runs(runs, jobs), start=1):
        finished.append(done)
        say(f"curve: {number} of {len(runs)}: {done.run.about}{f': failed: {done.failed}' if done.failed else ''}")
    _write(study, out, finished, tried, files, unknown)


Encoders = Mapping[str, Sequence[Path]]
"""Arm to the encoder files that its seeds start from in turn; none from random weights."""


def _init(files: Encoders, arm: ArmPlan, seed: int) -> Path | None:
    own = files[arm.name]
    return own[seed % len(own)] if own else None


def _try(study: StudyPlan, arms: Sequence[ArmPlan], files: Encoders, out: Path, jobs: int) -> list[Done]:
    """Every trial of every arm, judged on the validation patients; without a choice one of arms whose time is asked."""
    labels = study.trial_labels or min(study.labels)
    numbers: Sequence[int | None] = range(len(study.trials)) if study.trials else [None]
    trials = [
        Tuned(out, study, arm, labels, 0, number, _init(files, arm, 0), tested=False)
        for arm in arms
        if study.trials or arm.longer_as
        for number in numbers
    ]
    done: list[Done] = []
    for number, found in enumerate(done_runs(trials, jobs), start=1):
        done.append(found)
        score = f"validation {study.metric} {found.score:.3f}" if math.isfinite(found.score) else "not validated"
        say(f"curve: trial {number} of {len(trials)}: {found.run.about}: {found.failed or score}")
    return sorted(done, key=lambda d: (d.run.arm.name, d.run.trial or 0))


@dataclass(frozen=True)
class Choice:
    """How the runs of an arm are trained.

    Args:
        trial: Whose options they have; None where there were none to choose from.
        steps: Their steps, where they differ from the options'; else 0.
        failed: Why they are not trained at all; empty otherwise.
    """

    trial: int | None = None
    steps: int = 0
    failed: str = ""


def _choose(arm: ArmPlan, tried: Sequence[Done], files: Encoders) -> Choice:
    """The trial with the highest metric on the validation cases; the first where there are none.

    An arm whose trials all failed is not trained with options that nobody chose.
    """
    own = [done for done in tried if done.run.arm.name == arm.name]
    if not own:
        return Choice()
    sound = [done for done in own if not done.failed]
    if not sound:
        why = f"none of its {len(own)} trial(s) could be trained, the first: {own[0].failed}"
        say(f"curve: {arm.name}: {why}")
        return Choice(failed=why)
    known = [done for done in sound if math.isfinite(done.score)]
    best = max(known, key=lambda done: done.score) if known else sound[0]
    return Choice(best.run.trial, _longer(best, files[arm.longer_as]) if arm.longer_as else 0)


def _longer(done: Done, encoders: Sequence[Path]) -> int:
    """Steps of an arm that spends a pretraining's time as well, the mean of them where there are several.

    The time of a step is the fastest that its trial had, and counted as if a trial alone on all processors were as many
    times faster as trials ran side by side: the arm rather gets more than its due.
    """
    key = key_of([encoder.parent.name for encoder in encoders])
    record = done.run.folder.with_name(f"{done.run.folder.name}-longer-{key}.json")
    if not record.is_file():
        hours = fmean(float(_told(encoder)["provenance"]["device_hours"]) for encoder in encoders)
        steps = int(done.run.train["steps"]) + round(3600 * hours * done.jobs / done.seconds_a_step)
        about = {"steps": steps, "pretraining_hours": hours, "seconds_a_step": done.seconds_a_step, "jobs": done.jobs}
        write_json(record, about)
    return int(json.loads(record.read_text(encoding="utf-8"))["steps"])


def _write(
    study: StudyPlan, out: Path, finished: Sequence[Done], tried: Sequence[Done], files: Encoders, warnings: list[str]
) -> None:
    from medssl.data.cache import Cache
    from medssl.evaluation.report.page import write_report
    from medssl.evaluation.report.results import head
    from medssl.evaluation.report.study import study_sections
    from medssl.evaluation.study_table import compare_arms

    order = [arm.name for arm in study.arms]
    rows = [read_tested(done.run, study.split) for done in finished if not done.failed]
    rows.sort(key=lambda row: (order.index(row.arm), row.labels, row.seed))
    if not rows:
        raise MedsslError(f"no network could be tested; the first failed: {finished[0].failed}", reason="no-result")
    cache = Cache.open(cache_of(study, out))
    compared = compare_arms(rows, study.reference, study.metric, study.pairs)
    found = transferability(finished, list(files), cache, compared["points"]) if study.transferability else None
    results: dict[str, Any] = {
        **head("curve", [path.parent for own in files.values() for path in own]),
        "app": study.app,
        "data_sha256": cache.data_sha256,
        "split": study.split,
        "cases": len(rows[0].cases),
        "patients": len(set(rows[0].patients)),
        "validation": _validation(study, cache, finished),
        **compared,
        "transferability": found,
        "pretraining": {name: _pretraining(own) for name, own in files.items() if own},
        "warnings": warnings + _warnings(study, cache, set(rows[0].patients)),
        "budgets": _budgets(finished),
        "trials": [_trial(done) for done in tried],
        "runs": [_run(done) for done in finished],
    }
    write_json(out / "results.json", results)
    write_text(out / "results.csv", records_text(_rows(results)))
    sections = study_sections(
        results, _logs(finished), caches_of(study, [arm for arm in study.arms if arm.name in files], out)
    )
    about = "Does pretraining help here, and with how few labels?"
    write_report(out, sections, f"Few labels: {Path(study.app).name}", about, results["environment"])
    for sentence in (*sections[0].text, *sections[0].warnings):
        say(sentence)
    say(f"report: {out / 'report.html'}")


def _warnings(study: StudyPlan, cache: "Cache", patients: Collection[str]) -> list[str]:
    """That few patients were tested, or few of a class."""
    from medssl.evaluation.subgroups import few_of_a_class, few_patients
    from medssl.training.shares import labelled

    found = few_patients(study.split, patients)
    if study.metric != "dice":
        of_class: dict[str, set[str]] = {name: set() for name in cache.classes}
        for case in labelled(cache, "classification", (study.split,)):
            of_class[case.class_name].add(case.patient)
        found += few_of_a_class(study.split, of_class)
    return found


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
    told = _told(encoders[0])
    hours = [found for encoder in encoders if (found := _told(encoder)["provenance"].get("device_hours")) is not None]
    return {
        "method": told.get("method", {}).get("class_path", "").rpartition(".")[2],
        **{name: told["provenance"].get(name) for name in ("cases", "steps")},
        "device_hours": fmean(hours) if hours else None,
        "pretrainings": len(encoders),
    }


def _told(encoder: Path) -> dict[str, Any]:
    return {"provenance": {}, **json.loads(encoder.with_suffix(".json").read_text(encoding="utf-8"))}


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
