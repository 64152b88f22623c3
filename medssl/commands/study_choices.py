"""Trials of a study's arms, what is chosen by them, and the runs that follow."""

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from medssl.commands.console import say
from medssl.commands.keys import key_of
from medssl.commands.study_jobs import ran_at_a_time
from medssl.commands.study_runs import Encoders
from medssl.commands.study_tuned import Done, Tuned
from medssl.evaluation.study_plan import ArmPlan, StudyPlan
from medssl.imaging.files import write_json


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


def trials_of(study: StudyPlan, arms: Sequence[ArmPlan], encoders: Encoders, out: Path) -> list[Tuned]:
    """Every trial of every arm; without a choice one of arms whose time is asked, and none of arms that failed."""
    labels = study.trial_labels or min(study.labels)
    numbers: Sequence[int | None] = range(len(study.trials)) if study.trials else [None]
    return [
        Tuned(out, study, arm, labels, 0, number, encoders.of(arm, 0), tested=False)
        for arm in arms
        if (study.trials or arm.longer_as) and arm.name not in encoders.failed
        for number in numbers
    ]


def choose(arm: ArmPlan, tried: Sequence[Done], encoders: Encoders) -> Choice:
    """The trial with the highest metric on the validation cases; the first where there are none.

    An arm whose trials all failed is not trained with options that nobody chose, nor one without its pretraining.
    """
    if arm.name in encoders.failed:
        return Choice(failed=encoders.failed[arm.name])
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
    return Choice(best.run.trial, _longer(best, encoders.files[arm.longer_as]) if arm.longer_as else 0)


def runs_of(
    study: StudyPlan, choices: Mapping[str, Choice], encoders: Encoders, seeds: int, out: Path
) -> list[tuple[Tuned, str]]:
    """Every run of the arms that have a choice, seed by seed, and why it is not trained; empty where it is."""
    return [
        (Tuned(out, study, arm, labels, seed, choice.trial, encoders.of(arm, seed), choice.steps), choice.failed)
        for seed in range(seeds)
        for labels in study.labels
        for arm in study.arms
        if (choice := choices.get(arm.name)) is not None
    ]


def not_here(study: StudyPlan, asked: Collection[str], finished: Sequence[Done], seeds: int) -> list[str]:
    """The warning that arms of the plan are not in the results, or not all of their runs; nothing where all are.

    Args:
        study: The plan.
        asked: Arms that were asked for.
        finished: All runs that are in the results.
        seeds: That are asked for.
    """
    there = Counter(done.run.arm.name for done in finished if not done.failed)
    whole = seeds * len(study.labels)
    lacking = [arm.name for arm in study.arms if arm.name not in asked and there[arm.name] < whole]
    if not lacking:
        return []
    told = ", ".join(f"{name} ({there[name]} of {whole} runs)" for name in lacking)
    return [
        f"Arms of the plan that were not asked for and are not here, or not whole: {told}. p-values are corrected for "
        "the comparisons that are here alone: with all arms they may be larger."
    ]


def told_of(encoder: Path) -> dict[str, Any]:
    """What the description beside an encoder file says; files of other libraries have none."""
    path = encoder.with_suffix(".json")
    return {"provenance": {}, **(json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {})}


def hours_of(encoder: Path) -> float | None:
    """Device-hours of a pretraining, counted as if alone on all processors it were as many times faster as ran beside.

    None where the description does not tell.
    """
    hours = told_of(encoder)["provenance"].get("device_hours")
    return None if hours is None else float(hours) / (ran_at_a_time(encoder.parent) or 1)


def fewer_trials(study: StudyPlan, tried: Sequence[Done], arms: Collection[str]) -> list[str]:
    """The warning that arms were chosen from fewer trials than the plan has now; nothing where none was."""
    counts = Counter(done.run.arm.name for done in tried)
    fewer = [f"{name} ({counts[name]} of {len(study.trials)})" for name in arms if counts[name] < len(study.trials)]
    if not fewer:
        return []
    return [
        f"Arms that were chosen from fewer trials than the plan has: {', '.join(fewer)}. Compared with the others they "
        "are at a disadvantage; ask for them as well."
    ]


def _longer(done: Done, encoders: Sequence[Path]) -> int:
    """Steps of an arm that spends a pretraining's time as well, the mean of them where there are several.

    The time of a step is the fastest that its trial had, and counted as if a trial alone on all processors were as many
    times faster as trials ran side by side, as the pretraining's is: the arm rather gets more than its due.
    """
    key = key_of([encoder.parent.name for encoder in encoders])
    record = done.run.folder.with_name(f"{done.run.folder.name}-longer-{key}.json")
    if not record.is_file():
        hours = fmean(hours for encoder in encoders if (hours := hours_of(encoder)) is not None)
        steps = int(done.run.train["steps"]) + round(3600 * hours * done.jobs / done.seconds_a_step)
        about = {"steps": steps, "pretraining_hours": hours, "seconds_a_step": done.seconds_a_step, "jobs": done.jobs}
        write_json(record, about)
    return int(json.loads(record.read_text(encoding="utf-8"))["steps"])
