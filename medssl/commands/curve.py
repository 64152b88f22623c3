"""Label-fraction study: does pretraining help here, with how few labels, and is it worth its time?"""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from medssl.commands.console import say
from medssl.commands.parsing import read_options, resolve_folder
from medssl.commands.study_checks import check_cases, check_seen, check_study, claim, given_encoders
from medssl.commands.study_choices import choose, fewer_trials, not_here, runs_of, trials_of
from medssl.commands.study_data import refuse_other_data
from medssl.commands.study_results import write_study
from medssl.commands.study_runs import Encoders, done_runs, is_done, left_encoders, prepare_study, pretrain_arms
from medssl.commands.study_tuned import Done, Tuned
from medssl.evaluation.study_plan import StudyPlan

POSITIONAL: tuple[str, ...] = ("plan",)


def curve(plan: Path, data: Path, out: Path, arms: tuple[str, ...] = (), seeds: int = 0, jobs: int = 1) -> None:
    """Fine-tune every arm of a plan on few and on more labelled patients, test each network once, and compare.

    Arms are paired: for each seed and number of patients all learn from the same patients and are tested on the same
    cases. Each takes the best of equally many trials on the validation patients. OUT gets report.html, results.json,
    results.csv and table.md. Run it again to resume: what is finished is kept, what is changed in the plan is run anew.
    Runs and pretrainings that fail are told, and the others go on.

    Args:
        plan: YAML file of the study, or the name of a built-in one, for instance `few_labels_hippocampus`.
        data: Folder of the data that the plan's application is for.
        out: Folder of the study.
        arms: Only these, out of the plan, and its reference; what earlier calls did of the others stays in the results.
        seeds: Only so many; 0 = as the plan says.
        jobs: Pretrainings, and then fine-tunings, at a time, each with its share of the processors.

    Raises:
        ConfigError: Every mistake in the plan, before anything is run, and in how it fits the data, before anything is
            pretrained.
        MedsslError: OUT was made from other data, or from these before they changed, or no network could be tested.
    """
    study = read_options(StudyPlan, resolve_folder("configs", plan))
    chosen = check_study(study, data, arms, seeds, jobs)
    claim(data, out)
    refuse_other_data(study, data, out)
    prepare_study(study, data, out)
    check_cases(study, out, seeds or study.seeds)
    asked, number = {arm.name for arm in chosen}, min(study.pretrainings, seeds or study.seeds)
    left = left_encoders(study, [arm for arm in study.arms if arm.name not in asked], data, out, number)
    given = given_encoders([arm for arm in study.arms if arm.name in asked or arm.name in left], data)
    for sentence in check_seen(study, out, given):
        say(f"curve: {sentence}")
    encoders = _with_left(study, pretrain_arms(study, chosen, data, out, number, jobs), left)
    unknown = check_seen(study, out, encoders.files)  # by data of their own, too, such as those of `also`
    here = [arm for arm in study.arms if arm.name in asked or arm.name in encoders.files]
    tried = _done(trials_of(study, here, encoders, out), asked, jobs, "trial ")
    tried.sort(key=lambda done: (done.run.arm.name, done.run.trial or 0))
    choices = {arm.name: choose(arm, tried, encoders) for arm in here}
    every = runs_of(study, choices, encoders, seeds or study.seeds, out)
    finished = [Done(run, math.nan, math.nan, why) for run, why in every if why and run.arm.name in asked]
    finished += _done([run for run, why in every if not why], asked, jobs)
    missing = not_here(study, asked, finished, seeds or study.seeds)
    there = {done.run.arm.name for done in finished if not done.failed}
    missing += fewer_trials(study, tried, [arm.name for arm in study.arms if arm.name in there])
    write_study(study, out, finished, tried, encoders, [*unknown, *missing])


def _with_left(study: StudyPlan, made: Encoders, left: Mapping[str, Sequence[Path]]) -> Encoders:
    """What was made now and what earlier calls left, in the order of the plan; without arms whose time is not known."""
    files = {**left, **made.files}
    here = [arm for arm in study.arms if arm.name in files and (not arm.longer_as or arm.longer_as in files)]
    return Encoders({arm.name: files[arm.name] for arm in here}, made.failed)


def _done(runs: Sequence[Tuned], asked: Collection[str], jobs: int, kind: str = "") -> list[Done]:
    """Runs of the arms that are asked for, done one by one, and those of others that earlier calls have done."""
    found = list(done_runs([run for run in runs if run.arm.name not in asked and is_done(run)], 1))
    new = [run for run in runs if run.arm.name in asked]
    for number, done in enumerate(done_runs(new, jobs), start=1):
        found.append(done)
        say(f"curve: {kind}{number} of {len(new)}: {done.run.about}{_outcome(done)}")
    return found


def _outcome(done: Done) -> str:
    if done.failed:
        return f": failed: {done.failed}"
    if done.run.tested:
        return ""
    known = math.isfinite(done.score)
    return f": validation {done.run.plan.metric} {done.score:.3f}" if known else ": not validated"
