"""The runs of a label-fraction study: its cache, its pretrainings, its fine-tunings and their tests."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from medssl.commands.app import make_manifest, run_stage
from medssl.commands.comparison import with_config
from medssl.commands.console import say
from medssl.commands.finished import is_finished, refuse_unfinished
from medssl.commands.keys import files_named, key_of
from medssl.commands.parsing import run_verb
from medssl.commands.side_by_side import side_by_side
from medssl.commands.study_images import images_cache, prepare_images
from medssl.commands.study_jobs import keep_jobs, ran_at_a_time
from medssl.commands.study_tested import (
    evaluate_network,
    forget_evaluations,
    is_evaluated,
    validation_cases,
    validation_score,
)
from medssl.commands.study_tuned import Done, Tuned, application_of, cache_of, prepare_options
from medssl.evaluation.benchmark_plan import merged
from medssl.evaluation.study_plan import ArmPlan, StudyPlan
from medssl.imaging.errors import ConfigError, MedsslError, message_of
from medssl.imaging.files import write_text
from medssl.training.options import TrainOptions


@dataclass(frozen=True)
class Encoders:
    """What the arms of a study start from.

    Args:
        files: Arm to the encoder files that its seeds start from in turn; none from random weights.
        failed: Arm to why it has no pretraining, or none whose time it could spend.
    """

    files: Mapping[str, Sequence[Path]]
    failed: Mapping[str, str] = field(default_factory=dict)

    def of(self, arm: ArmPlan, seed: int) -> Path | None:
        """Encoder file of an arm's seed; None for random weights, and for an arm that failed."""
        own = self.files.get(arm.name, ())
        return own[seed % len(own)] if own else None


def caches_of(plan: StudyPlan, arms: Sequence[ArmPlan], out: Path) -> dict[str, Path]:
    """Which images to the folder of their cache: the study's, and sets that arms are pretrained on."""
    own, wanted = cache_of(plan, out), {arm.images for arm in arms}
    sets = [images for images in plan.image_sets if images.name in wanted]
    return {"the study": own} | {f"set {s.name}": images_cache(s, prepare_options(plan), own, out) for s in sets}


def prepare_study(plan: StudyPlan, data: Path, out: Path) -> None:
    """Make the manifest and the cache, as the application does, with the plan's changes."""
    cache = cache_of(plan, out)
    if (cache / "cache.json").is_file():
        return
    manifest, config = out / "manifest.csv", cache.with_suffix(".yaml")
    make_manifest(application_of(plan), data, manifest)
    write_text(config, yaml.safe_dump(prepare_options(plan)))
    run_stage("prepare", [str(manifest), "--config", str(config), "--out", str(cache)])


@dataclass(frozen=True)
class Pretraining:
    """A pretraining of the study.

    Args:
        arm: Name of the arm.
        options: Options of `medssl pretrain`.
        cache: What it learns from.
        folder: Its run folder, with a key of options and cache.
    """

    arm: str
    options: Mapping[str, Any]
    cache: Path
    folder: Path

    @property
    def encoder(self) -> Path:
        """Encoder file that it writes."""
        return self.folder / "encoder.safetensors"


def pretrain_arms(
    plan: StudyPlan, arms: Sequence[ArmPlan], data: Path, out: Path, number: int, jobs: int = 1
) -> Encoders:
    """Pretrain every arm that is pretrained; one that fails is told, and the others go on.

    Args:
        plan: The study.
        arms: Those that are asked for.
        data: Folder of the data.
        out: Folder of the study.
        number: Pretrainings of each arm.
        jobs: Pretrainings at a time.
    """
    whys = dict(_prepare_sets(plan, arms, data, out))
    wanted = [one for arm in arms if arm.name not in whys for one in _pretrainings(plan, arm, out, number)]
    missing = [one for one in wanted if not is_finished(one.encoder)]
    logs = [one.folder.with_name(f"{one.folder.name}.log") for one in missing]
    jobs = max(1, min(jobs, len(missing)))
    for done, (one, why) in enumerate(side_by_side(partial(_pretrain, jobs=jobs), missing, logs, jobs), start=1):
        ended = f"{one.arm}: its pretraining failed: {why}" if why else one.arm
        say(f"curve: pretraining {done} of {len(missing)}: {ended}")
        whys |= {one.arm: why} if why else {}
    files = {arm.name: _encoder_files(plan, arm, data, out, number) for arm in arms if arm.name not in whys}
    failed = {name: f"its pretraining failed: {why}" for name, why in whys.items()}
    for arm in arms:
        if arm.longer_as in whys:
            failed[arm.name] = (
                f"the pretraining of {arm.longer_as}, whose time it spends, failed: {whys[arm.longer_as]}"
            )
    return Encoders({name: own for name, own in files.items() if name not in failed}, failed)


def _prepare_sets(plan: StudyPlan, arms: Sequence[ArmPlan], data: Path, out: Path) -> Iterator[tuple[str, str]]:
    """Prepare the sets of images that arms are pretrained on; arms whose set cannot be, and why."""
    for arm in arms:
        if arm.images and arm.pretrain.options:
            images = next(images for images in plan.image_sets if images.name == arm.images)
            try:
                prepare_images(images, prepare_options(plan), cache_of(plan, out), data, out)
            except Exception as error:  # whatever it is, the other arms can still be compared
                yield arm.name, message_of(error)
                say(f"curve: {arm.name}: its images could not be prepared: {message_of(error)}")


def left_encoders(
    plan: StudyPlan, arms: Sequence[ArmPlan], data: Path, out: Path, number: int
) -> dict[str, tuple[Path, ...]]:
    """Encoder files that the seeds of arms start from in turn, of arms that earlier calls have pretrained."""
    found = {}
    for arm in arms:
        with suppress(ConfigError):  # options that cannot be read have left nothing, and are not asked for
            files = _encoder_files(plan, arm, data, out, number)
            if all(file.is_file() if arm.init else is_finished(file) for file in files):
                found[arm.name] = files
    return found


def _encoder_files(plan: StudyPlan, arm: ArmPlan, data: Path, out: Path, number: int) -> tuple[Path, ...]:
    """Files that an arm's seeds start from in turn; one with `init`, none from random weights."""
    if arm.init:
        return (data / arm.init,)  # an absolute path stays what it is
    return tuple(one.encoder for one in _pretrainings(plan, arm, out, number))


def _pretrainings(plan: StudyPlan, arm: ArmPlan, out: Path, number: int) -> list[Pretraining]:
    """Each pretraining of an arm."""
    if not arm.pretrain.options:
        return []
    options, cache = with_config(arm.pretrain.options), cache_of(plan, out)
    if arm.images:
        images = next(images for images in plan.image_sets if images.name == arm.images)
        cache = images_cache(images, prepare_options(plan), cache, out)
    first = options.get("train", {}).get("seed", TrainOptions.seed)
    more = [merged(options, {"train": {"seed": first + one}}) for one in range(1, number)]
    name, place = arm.name.replace(" ", "_"), str(cache.relative_to(out))
    every = [options, *more]  # the first has the key it has alone
    about = [place, *files_named(options)]
    return [Pretraining(arm.name, own, cache, out / "pretrain" / f"{name}-{key_of([own, *about])}") for own in every]


def _pretrain(one: Pretraining, jobs: int) -> str:
    """Pretrain, or go on with it; returns why that failed, nothing where it did not."""
    config = one.folder.with_name(f"{one.folder.name}.yaml")
    try:
        _refuse_diverged(one.folder)
        keep_jobs(one.folder, jobs)
        write_text(config, yaml.safe_dump(dict(one.options)))
        resume = ["--resume"] if (one.folder / "run.json").is_file() else []
        run_verb("pretrain", ["--config", str(config), "--data", str(one.cache), "--out", str(one.folder), *resume])
        refuse_unfinished(one.encoder, f"pretraining of {one.arm}")
    except Exception as error:  # whatever it is, the other arms can still be compared
        return message_of(error)
    return ""


def done_runs(runs: Sequence[Tuned], jobs: int) -> Iterator[Done]:
    """Fine-tune and test, as they come; what is finished is kept."""
    logs = [run.folder.with_name(f"{run.folder.name}.log") for run in runs]
    for _, done in side_by_side(partial(_do, jobs=jobs), runs, logs, jobs):
        yield done


def is_done(run: Tuned) -> bool:
    """Whether a run or a trial is trained and evaluated already, so that to do it is to read it."""
    from medssl.data.cache import Cache

    if not is_finished(run.folder / "model.safetensors"):
        return False
    if run.tested:
        return is_evaluated(run, run.plan.split)
    if run.trial is None:  # it only tells how long a step takes
        return True
    return is_evaluated(run, "val") or not validation_cases(run.plan, Cache.open(cache_of(run.plan, run.out)))


def _do(run: Tuned, jobs: int) -> Done:
    try:
        beside = _finetune(run, jobs)
        score = validation_score(run) if run.trial is not None and not run.tested else math.nan
        if run.tested:
            evaluate_network(run, run.plan.split)
        lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rates = [float(row["steps_per_s"]) for row in map(json.loads, lines) if "steps_per_s" in row]
    except Exception as error:  # of memory, of the disk: whatever it is, the other networks can still be compared
        return Done(run, math.nan, math.nan, message_of(error), jobs)
    return Done(run, score, 1 / max(rates) if rates else math.nan, jobs=beside)


def _finetune(run: Tuned, jobs: int) -> int:
    """Fine-tune, or go on with it; returns how many ran at a time, at most, while it did."""
    model = run.folder / "model.safetensors"
    if is_finished(model):
        return ran_at_a_time(run.folder) or jobs
    _refuse_diverged(run.folder)
    most = keep_jobs(run.folder, jobs)
    forget_evaluations(run)  # of weights from before the last step
    config = run.folder.with_name(f"{run.folder.name}.yaml")
    write_text(config, yaml.safe_dump(run.options))
    arguments = ["--config", str(config), "--data", str(cache_of(run.plan, run.out)), "--out", str(run.folder)]
    arguments += ["--labels", str(run.labels), "--seed", str(run.seed)]
    arguments += ["--init", str(run.init)] if run.init else []
    arguments += ["--resume"] if (run.folder / "run.json").is_file() else []
    run_verb("finetune", arguments)
    refuse_unfinished(model, run.about)
    return most


def _refuse_diverged(folder: Path) -> None:
    """Do not try a training again that diverged: from its checkpoint, with the same options, the same would come of it.

    Raises:
        MedsslError: It did.
    """
    from medssl.training.divergence import DivergedError

    record = folder / "run.json"
    told = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    kind, _, message = told.get("error", "").partition(": ")
    if told.get("status") == "failed" and kind == DivergedError.__name__:
        raise MedsslError(
            f"{message}. It is not tried again: change its options, or remove {folder}", reason="diverged"
        )
