"""Label-fraction study: does pretraining help here, with how few labels, and is it worth its time?"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medssl.commands.comparison import with_config
from medssl.commands.console import say
from medssl.commands.curve_transfer import transferability
from medssl.commands.parsing import read_options, resolve_folder
from medssl.commands.study_runs import (
    Done,
    Tuned,
    cache_of,
    done_runs,
    prepare_study,
    pretrain_arm,
    read_tested,
    wrong_images,
)
from medssl.evaluation.study_plan import ArmPlan, StudyPlan
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.imaging.files import records_text, write_json, write_text

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
        ConfigError: Every mistake in the plan, before anything is run.
        MedsslError: No network could be tested.
    """
    study = read_options(StudyPlan, resolve_folder("configs", plan))
    chosen = _check(study, data, arms, seeds, jobs)
    prepare_study(study, data, out)
    files = {arm.name: pretrain_arm(study, arm, data, out) for arm in chosen}
    every = [
        Tuned(out, study, arm, labels, seed, init=files[arm.name])
        for seed in range(seeds or study.seeds)
        for labels in study.labels
        for arm in chosen
    ]
    tried = _try(study, chosen, files, out, jobs)
    best = {arm.name: _best(arm, tried) for arm in chosen}
    steps = {arm.name: _longer(arm, best[arm.name], files, tried, jobs) for arm in chosen}
    runs = [replace(run, trial=best[run.arm.name], steps=steps[run.arm.name]) for run in every]
    finished: list[Done] = []
    for number, done in enumerate(done_runs(runs, jobs), start=1):
        finished.append(done)
        say(f"curve: {number} of {len(runs)}: {done.run.about}{f': failed: {done.failed}' if done.failed else ''}")
    _write(study, out, finished, tried, files)


def _check(study: StudyPlan, data: Path, arms: tuple[str, ...], seeds: int, jobs: int) -> list[ArmPlan]:
    problems = [f"data {data} does not exist"] if not data.is_dir() else []
    problems += [f"seeds must be 0 (as the plan says) or 2 and more, got {seeds}"] if seeds < 0 or seeds == 1 else []
    problems += [f"jobs must be 1 or more, got {jobs}"] if jobs < 1 else []
    names = [arm.name for arm in study.arms]
    problems += [f"arms {name!r} is not in the plan: {names}" for name in arms if name not in names]
    wanted = {*arms, study.reference} if arms else set(names)
    chosen = [arm for arm in study.arms if arm.name in wanted]
    problems += wrong_images(study, chosen, data)
    for arm in chosen:
        if arm.longer_as and arm.longer_as not in wanted:
            problems.append(f"arms {arm.name!r} needs {arm.longer_as!r} beside it")
        if arm.init and not (data / arm.init).is_file():
            problems.append(f"arms: {arm.name} init {data / arm.init} does not exist")
        for options in (study.options(arm, None), arm.pretrain.options):
            try:
                with_config(options)
            except ConfigError as error:
                problems += [f"arms: {arm.name}: {problem}" for problem in error.problems]
    try:
        resolve_folder("apps", Path(study.app))
    except ConfigError as error:
        problems += [f"app: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return chosen


def _try(study: StudyPlan, arms: Sequence[ArmPlan], files: dict[str, Path | None], out: Path, jobs: int) -> list[Done]:
    """Every trial of every arm, judged on the validation patients; without a choice one of arms whose time is asked."""
    labels = study.trial_labels or min(study.labels)
    numbers: Sequence[int | None] = range(len(study.trials)) if study.trials else [None]
    trials = [
        Tuned(out, study, arm, labels, 0, number, files[arm.name], tested=False)
        for arm in arms
        if study.trials or arm.longer_as
        for number in numbers
    ]
    done: list[Done] = []
    for number, found in enumerate(done_runs(trials, jobs), start=1):
        done.append(found)
        say(f"curve: trial {number} of {len(trials)}: {found.run.about}: {found.failed or f'{found.score:.3f}'}")
    return sorted(done, key=lambda d: (d.run.arm.name, d.run.trial or 0))


def _best(arm: ArmPlan, tried: Sequence[Done]) -> int | None:
    """The trial with the highest validation score; the first where there are no validation cases."""
    own = [done for done in tried if done.run.arm.name == arm.name and not done.failed]
    known = [done for done in own if math.isfinite(done.score)]
    return max(known, key=lambda done: done.score).run.trial if known else own[0].run.trial if own else None


def _longer(arm: ArmPlan, trial: int | None, files: dict[str, Path | None], tried: Sequence[Done], jobs: int) -> int:
    """Steps of an arm that spends a pretraining's time as well; 0 = as its options say.

    The time of a step is the fastest that a trial had, and counted as if a trial alone on all processors were as many
    times faster as trials ran side by side: the arm rather gets more than its due.
    """
    encoder = files[arm.longer_as] if arm.longer_as else None
    if encoder is None:
        return 0
    done = next((d for d in tried if d.run.arm.name == arm.name and d.run.trial == trial), None)
    if done is None or done.failed:
        why = done.failed if done else "it has no trial"
        raise MedsslError(f"{arm.name}: the time of a step is not known: {why}", reason="no-result")
    record = done.run.folder.with_name(f"{done.run.folder.name}-longer-{encoder.parent.name}.json")
    if not record.is_file():
        told = json.loads(encoder.with_suffix(".json").read_text(encoding="utf-8"))
        hours = float(told["provenance"]["device_hours"])
        steps = int(done.run.options["train"]["steps"]) + round(3600 * hours * jobs / done.seconds_a_step)
        about = {"steps": steps, "pretraining_hours": hours, "seconds_a_step": done.seconds_a_step, "jobs": jobs}
        write_json(record, about)
    return int(json.loads(record.read_text(encoding="utf-8"))["steps"])


def _write(
    study: StudyPlan, out: Path, finished: Sequence[Done], tried: Sequence[Done], files: dict[str, Path | None]
) -> None:
    from medssl.data.cache import Cache
    from medssl.evaluation.report.page import write_report
    from medssl.evaluation.report.results import head
    from medssl.evaluation.report.study import study_sections
    from medssl.evaluation.study_table import compare_arms

    order = [arm.name for arm in study.arms]
    rows = [read_tested(done.run) for done in finished if not done.failed]
    rows.sort(key=lambda row: (order.index(row.arm), row.labels, row.seed))
    if not rows:
        raise MedsslError(f"no network could be tested; the first failed: {finished[0].failed}", reason="no-result")
    cache = Cache.open(cache_of(study, out))
    compared = compare_arms(rows, study.reference, study.metric)
    found = transferability(finished, files, cache, compared["points"]) if study.transferability else None
    results: dict[str, Any] = {
        **head("curve", [path.parent for path in files.values() if path is not None]),
        "app": study.app,
        "data_sha256": cache.data_sha256,
        "split": study.split,
        "cases": len(rows[0].cases),
        "patients": len(set(rows[0].patients)),
        **compared,
        "transferability": found,
        "pretraining": {name: _pretraining(path) for name, path in files.items() if path is not None},
        "trials": [_trial(done) for done in tried],
        "runs": [_run(done) for done in finished],
    }
    write_json(out / "results.json", results)
    write_text(out / "results.csv", records_text(_rows(results)))
    sections = study_sections(results, _logs(finished))
    about = "Does pretraining help here, and with how few labels?"
    write_report(out, sections, f"Few labels: {Path(study.app).name}", about, results["environment"])
    for sentence in sections[0].text:
        say(sentence)
    say(f"report: {out / 'report.html'}")


def _logs(finished: Sequence[Done]) -> dict[int, dict[str, Path]]:
    """Number of labelled patients to arm to run folder, of the first seed that has one."""
    found: dict[int, dict[str, Path]] = {}
    for done in sorted(finished, key=lambda d: (d.run.labels, d.run.seed)):
        if not done.failed:
            found.setdefault(done.run.labels, {}).setdefault(done.run.arm.name, done.run.folder)
    return found


def _pretraining(encoder: Path) -> dict[str, Any]:
    told = json.loads(encoder.with_suffix(".json").read_text(encoding="utf-8"))
    provenance = told.get("provenance", {})
    return {
        "method": told.get("method", {}).get("class_path", "").rpartition(".")[2],
        **{name: provenance.get(name) for name in ("cases", "steps", "device_hours")},
    }


def _trial(done: Done) -> dict[str, Any]:
    run = done.run
    options = (run.arm.trials or run.plan.trials)[run.trial].options if run.trial is not None else {}
    score = done.score if math.isfinite(done.score) else None
    return {"arm": run.arm.name, "labels": run.labels, "options": options, "validation": score, "failed": done.failed}


def _run(done: Done) -> dict[str, Any]:
    run = done.run
    options = run.options.get("train", {})
    return {
        "arm": run.arm.name,
        "labels": run.labels,
        "seed": run.seed,
        "trial": run.trial,
        "steps": options.get("steps"),
        "lr": options.get("lr"),
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
