"""What is wrong with a label-fraction study, told before anything is run, and with the folder and data it is given."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.commands.comparison import with_config
from medssl.commands.parsing import parse_options
from medssl.commands.study_images import image_problems
from medssl.commands.study_tuned import cache_of, prepare_options
from medssl.evaluation.study_plan import ArmPlan, StudyPlan
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.imaging.files import write_json

if TYPE_CHECKING:
    from medssl.data.cache import Cache, CachedCase

_DECIDED = {
    "finetune": ("data", "out", "init", "labels", "folds", "fold", "seed", "resume", "dry_run"),
    "pretrain": ("data", "out", "resume", "dry_run"),
}
"""Options of a verb that the study gives it."""


def check_study(study: StudyPlan, data: Path, arms: Sequence[str], seeds: int, jobs: int) -> list[ArmPlan]:
    """The arms that are asked for.

    Raises:
        ConfigError: Every mistake in the plan and in how it is run.
    """
    problems = [f"data {data} does not exist"] if not data.is_dir() else []
    problems += [f"seeds must be 0 (as the plan says) or 2 and more, got {seeds}"] if seeds < 0 or seeds == 1 else []
    problems += [f"jobs must be 1 or more, got {jobs}"] if jobs < 1 else []
    names = [arm.name for arm in study.arms]
    problems += [f"arms {name!r} is not in the plan: {names}" for name in arms if name not in names]
    wanted = {*arms, study.reference} if arms else set(names)
    chosen = [arm for arm in study.arms if arm.name in wanted]
    try:
        options = prepare_options(study)
        parse_options("prepare", ["manifest.csv", "--out", "out"], options)
        sets = {arm.images for arm in chosen}
        problems += [
            p for images in study.image_sets if images.name in sets for p in image_problems(images, options, data)
        ]
    except ConfigError as error:
        problems += [f"app: {problem}" for problem in error.problems]
    for arm in chosen:
        if arm.longer_as and arm.longer_as not in wanted:
            problems.append(f"arms {arm.name!r} needs {arm.longer_as!r} beside it")
        if arm.init and not (data / arm.init).is_file():
            problems.append(f"arms: {arm.name} init {data / arm.init} does not exist")
        problems += [f"arms: {arm.name}: {problem}" for problem in _wrong_options(study, arm)]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return chosen


def claim(data: Path, out: Path) -> None:
    """Take the study's folder for these data.

    Raises:
        MedsslError: It was made from others, or does not say from which.
    """
    record, own = out / "study.json", str(data.resolve())
    try:
        before = json.loads(record.read_text(encoding="utf-8"))["data"] if record.is_file() else own
    except (ValueError, KeyError, TypeError) as error:
        raise MedsslError(
            f"{record} does not say which data {out} was made from: choose another --out, or delete that file if it "
            "was these",
            reason="run-exists",
        ) from error
    if before != own and any(out.glob("cache-*/cache.json")):
        raise MedsslError(
            f"{out} was made from the data in {before}, not from {own}: choose another --out", reason="run-exists"
        )
    write_json(record, {"data": own})


def check_cases(study: StudyPlan, out: Path, seeds: int) -> None:
    """Compare the plan with the prepared cases: classes, patients to learn from, answers to test and to choose by.

    Args:
        study: The plan.
        out: The study's folder.
        seeds: How many of its seeds are run.

    Raises:
        ConfigError: Other classes than the plan's, more labelled patients asked for than there are, a split without
            an answer, or with one class only.
    """
    from medssl.data.cache import Cache
    from medssl.tasks.options import SubsetOptions
    from medssl.training.shares import make_shares

    cache = Cache.open(cache_of(study, out))
    problems = []
    if study.class_order and sorted(study.class_order) != sorted(cache.classes):
        named = ", ".join(cache.classes)
        problems.append(f"class_order {list(study.class_order)} must name each class once: {named}")
    chosen_by = [study.trial_labels] if study.trials and study.trial_labels else []
    for labels in dict.fromkeys([*study.labels, *chosen_by]):
        try:
            for seed in range(seeds):
                make_shares(cache, study.task, SubsetOptions(labels=labels, seed=seed))
        except ConfigError as error:
            problems += [f"{labels} labelled patients, seed {seed}: {problem}" for problem in error.problems]
    problems += _without_answers(study, cache)
    if problems:
        raise ConfigError(problems)


def _without_answers(study: StudyPlan, cache: "Cache") -> Iterator[str]:
    """Splits on which nothing can be measured or chosen."""
    from medssl.training.shares import labelled

    tested, validated = (labelled(cache, study.task, (split,)) for split in (study.split, "val"))
    if not tested:
        yield f"split {study.split} has no labelled case: prepare with another split or seed"
    asked = [(study.split, tested, "nothing can be measured")]
    asked += [("val", validated, "no trial can be chosen")] if study.trials else []
    for split, cases, so in asked:
        classes = {case.class_name for case in cases}
        if study.task == "classification" and len(classes) == 1:
            yield f"split {split} has cases of {classes.pop()} alone, so {so} there: prepare with another"
        if study.unit == "patients" and (torn := _of_several_classes(cases)):
            yield f"unit patients: cases of {', '.join(torn)} (split {split}) are of several classes: count cases"


def _of_several_classes(cases: "Sequence[CachedCase]") -> list[str]:
    """Patients whose cases are not of one class."""
    of_patient: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        of_patient[case.patient].add(case.class_name)
    return [patient for patient, classes in of_patient.items() if len(classes) > 1]


def _wrong_options(study: StudyPlan, arm: ArmPlan) -> Iterator[str]:
    numbers: Sequence[int | None] = range(len(study.trials)) if study.trials else [None]
    asked = [("finetune", study.options(arm, number)) for number in numbers]
    asked += [("pretrain", arm.pretrain.options)] if arm.pretrain.options else []
    trials: list[dict[str, Any]] = []
    for verb, given in asked:
        try:
            options = with_config(given)
            yield from (
                f"{verb}: {name} is decided by the study: leave it out" for name in _DECIDED[verb] if name in options
            )
            values = parse_options(verb, ["--data", "cache", "--out", "out"], options)
            yield from (f"{verb}: {problem}" for problem in _unfit(study, arm, verb, values))
            trials += [values] if verb == "finetune" else []
        except ConfigError as error:
            yield from (f"{verb}: {problem}" for problem in error.problems)
    if any(trials[n] in trials[:n] for n in range(len(trials))):
        yield "two of its trials come to the same options: each needs its own"


def _unfit(study: StudyPlan, arm: ArmPlan, verb: str, values: dict[str, Any]) -> Iterator[str]:
    """What is wrong with options that are right one by one."""
    from medssl.tasks.options import SubsetOptions
    from medssl.training import finetune_settings, pretrain_job

    if verb == "pretrain":
        given = {name: values[name] for name in ("method", "encoder", "views", "train", "init", "also")}
        pretrain_job.Settings(**given).check()
        if held := [split for split in values["views"].splits if split in ("val", "test")]:
            so = "by whose patients the study chooses or measures: leave it out"
            yield f"views.splits has {' and '.join(held)}, {so}"
        return
    names = ("task", "loss", "network", "crops", "transfer", "augment", "inference", "train", "label_augment")
    init = Path("encoder.safetensors") if arm.pretrained else None
    settings = finetune_settings.Settings(**{name: values[name] for name in names}, subset=SubsetOptions(), init=init)
    yield from settings.option_problems()
    if settings.task != study.task:
        yield f"task {settings.task} is not what metric {study.metric} measures: that is for a {study.task}"


def given_encoders(arms: Sequence[ArmPlan], data: Path) -> dict[str, list[Path]]:
    """Arm to the encoder file from elsewhere that it starts from, itself or its pretraining."""
    given = {arm.name: data / arm.init if arm.init else _init_of_pretraining(arm) for arm in arms}
    return {name: [file] for name, file in given.items() if file}


def _init_of_pretraining(arm: ArmPlan) -> Path | None:
    init = with_config(arm.pretrain.options).get("init") if arm.pretrain.options else None
    return Path(init) if init else None


def check_seen(study: StudyPlan, out: Path, files: Mapping[str, Sequence[Path]]) -> list[str]:
    """Refuse encoders that have seen patients of the study's splits val and test.

    Args:
        study: The plan; its cases are prepared.
        out: The study's folder.
        files: Arm to its encoder files.

    Returns:
        What to warn of encoders of which nobody knows whom they saw.

    Raises:
        ConfigError: Every such encoder, and how many patients it knows.
    """
    from medssl.data.cache import Cache
    from medssl.evaluation.seen_patients import seen_in_pretraining
    from medssl.training.run_folder import encoder_patients

    problems, unknown = [], []
    asked_of: dict[str, set[str]] = {"val": set(), "test": set()}
    for case in Cache.open(cache_of(study, out)).cases:
        asked_of.setdefault(case.split, set()).add(case.patient)
    for name, file in [(name, file) for name, own in files.items() for file in own]:
        seen = encoder_patients(file)
        if seen is None:
            unknown += seen_in_pretraining(name, None, asked_of.get(study.split, set()), study.split)
            continue
        for split in ("val", "test"):
            asked = asked_of[split]
            if known := asked.intersection(seen):
                problems.append(
                    f"arms: {name}: {len(known)} of {len(asked)} {split} patients were in the pretraining of "
                    f"{file}: leave them out of it, or give an encoder that has not seen them. Patients are "
                    "told apart by their names in the manifests; where others are only called alike, rename them"
                )
    if problems:
        raise ConfigError(problems)
    return list(dict.fromkeys(unknown))
