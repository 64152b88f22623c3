"""Label-fraction study: does pretraining help here, with how few labels, and is it worth its time?"""

import math
from collections.abc import Sequence
from pathlib import Path

from medssl.commands.console import say
from medssl.commands.parsing import read_options, resolve_folder
from medssl.commands.study_checks import check_classes, check_inits, check_study, claim
from medssl.commands.study_choices import choose, runs_of, trials_of
from medssl.commands.study_results import write_study
from medssl.commands.study_runs import done_runs, prepare_study, pretrain_arms
from medssl.commands.study_tuned import Done, Tuned
from medssl.evaluation.study_plan import StudyPlan

POSITIONAL: tuple[str, ...] = ("plan",)


def curve(plan: Path, data: Path, out: Path, arms: tuple[str, ...] = (), seeds: int = 0, jobs: int = 1) -> None:
    """Fine-tune every arm of a plan on few and on more labelled patients, test each network once, and compare.

    Arms are paired: for each seed and number of patients all learn from the same patients and are tested on the same
    cases. Each takes the best of equally many trials on the validation patients. OUT gets report.html, results.json and
    results.csv. Run it again to resume: what is finished is kept, what is changed in the plan is run anew. Runs and
    pretrainings that fail are told, and the others go on.

    Args:
        plan: YAML file of the study, or the name of a built-in one, for instance `few_labels_hippocampus`.
        data: Folder of the data that the plan's application is for.
        out: Folder of the study.
        arms: Only these, out of the plan, and its reference.
        seeds: Only so many; 0 = as the plan says.
        jobs: Fine-tunings at a time, each with its share of the processors.

    Raises:
        ConfigError: Every mistake in the plan, before anything is run; classes that are not those of the data.
        MedsslError: OUT was made from other data, or no network could be tested.
    """
    study = read_options(StudyPlan, resolve_folder("configs", plan))
    chosen = check_study(study, data, arms, seeds, jobs)
    claim(data, out)
    prepare_study(study, data, out)
    check_classes(study, out)
    unknown = check_inits(study, data, out, chosen)
    for sentence in unknown:
        say(f"curve: {sentence}")
    encoders = pretrain_arms(study, chosen, data, out, min(study.pretrainings, seeds or study.seeds))
    tried = _try(trials_of(study, chosen, encoders, out), jobs)
    choices = {arm.name: choose(arm, tried, encoders) for arm in chosen}
    every = runs_of(study, choices, encoders, seeds or study.seeds, out)
    finished = [Done(run, math.nan, math.nan, why) for run, why in every if why]
    runs = [run for run, why in every if not why]
    for number, done in enumerate(done_runs(runs, jobs), start=1):
        finished.append(done)
        say(f"curve: {number} of {len(runs)}: {done.run.about}{f': failed: {done.failed}' if done.failed else ''}")
    write_study(study, out, finished, tried, encoders, unknown)


def _try(trials: Sequence[Tuned], jobs: int) -> list[Done]:
    """Every trial, judged on the validation patients."""
    done: list[Done] = []
    for number, found in enumerate(done_runs(trials, jobs), start=1):
        done.append(found)
        score = (
            f"validation {found.run.plan.metric} {found.score:.3f}" if math.isfinite(found.score) else "not validated"
        )
        say(f"curve: trial {number} of {len(trials)}: {found.run.about}: {found.failed or score}")
    return sorted(done, key=lambda d: (d.run.arm.name, d.run.trial or 0))
