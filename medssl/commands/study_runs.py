"""The runs of a label-fraction study: its cache, its pretrainings, its fine-tunings and their tests."""

import csv
import json
import math
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medssl.commands.app import make_manifest, read_application, run_stage
from medssl.commands.comparison import with_config
from medssl.commands.keys import key_of
from medssl.commands.parsing import resolve_folder, run_verb
from medssl.commands.side_by_side import side_by_side
from medssl.commands.study_images import images_cache, prepare_images
from medssl.evaluation.benchmark_plan import merged
from medssl.evaluation.study_plan import ArmPlan, StudyPlan
from medssl.imaging.errors import CheckpointError, MedsslError
from medssl.imaging.files import write_json, write_text
from medssl.training.options import TrainOptions

if TYPE_CHECKING:
    from medssl.evaluation.study_table import NetworkScores


@dataclass(frozen=True)
class Tuned:
    """A fine-tuning of the study, or a trial of one.

    Args:
        out: Folder of the study.
        plan: The study.
        arm: How the network is got.
        labels: Labelled patients.
        seed: Seed of patients, weights and crops.
        trial: Which of the options; None where there are none to choose from.
        init: Encoder file.
        steps: Steps, where they differ from the options'.
        tested: Whether the test split is read; trials are judged by their validation score.
    """

    out: Path
    plan: StudyPlan
    arm: ArmPlan
    labels: int
    seed: int
    trial: int | None = None
    init: Path | None = None
    steps: int = 0
    tested: bool = True

    @cached_property
    def options(self) -> dict[str, Any]:
        """Options of `medssl finetune`."""
        options = with_config(self.plan.options(self.arm, self.trial))
        if self.steps:
            options["train"] = {**options.get("train", {}), "steps": self.steps}
        return options

    @property
    def train(self) -> dict[str, Any]:
        """Steps and learning rate, and other options of the training where they are given."""
        return {"steps": TrainOptions.steps, "lr": TrainOptions.lr, **self.options.get("train", {})}

    @cached_property
    def folder(self) -> Path:
        """Run folder; with other options it is another one."""
        init = self.arm.init or ("" if self.init is None else self.init.parent.name)
        key = key_of([self.options, init, cache_of(self.plan, self.out).name])
        return self.out / "runs" / self.arm.name.replace(" ", "_") / f"labels{self.labels}_seed{self.seed}-{key}"

    @property
    def about(self) -> str:
        """What it is, in words."""
        trial = "" if self.tested else f", trial {(self.trial or 0) + 1}"
        return f"{self.arm.name}, {self.labels} labelled patients, seed {self.seed}{trial}"


@dataclass(frozen=True)
class Done:
    """How a fine-tuning ended.

    Args:
        run: Which.
        score: Its validation score; NaN where there are no validation cases.
        seconds_a_step: Time of a step at its fastest, with the processors that it had.
        failed: Why there is no result; empty otherwise.
        jobs: Fine-tunings at a time when it ran.
    """

    run: Tuned
    score: float
    seconds_a_step: float
    failed: str = ""
    jobs: int = 1


def cache_of(plan: StudyPlan, out: Path) -> Path:
    """Folder of the study's cache."""
    return out / f"cache-{key_of([plan.app, prepare_options(plan)])}"


def prepare_options(plan: StudyPlan) -> dict[str, Any]:
    """Options of the study's `medssl prepare`.

    Raises:
        ConfigError: The application cannot be read.
    """
    application = read_application(resolve_folder("apps", Path(plan.app)), "")
    return merged(application.stages.get("prepare", {}), plan.prepare.options)


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
    make_manifest(read_application(resolve_folder("apps", Path(plan.app)), ""), data, manifest)
    write_text(config, yaml.safe_dump(prepare_options(plan)))
    run_stage("prepare", [str(manifest), "--config", str(config), "--out", str(cache)])


def pretrain_arm(plan: StudyPlan, arm: ArmPlan, data: Path, out: Path) -> Path | None:
    """Encoder file that an arm starts from, made if it is not there.

    Raises:
        MedsslError: Its time was up before its last step.
    """
    if arm.init:
        return data / arm.init  # an absolute path stays what it is
    if not arm.pretrain.options:
        return None
    options = with_config(arm.pretrain.options)
    cache = cache_of(plan, out)
    if arm.images:
        images = next(images for images in plan.image_sets if images.name == arm.images)
        cache = prepare_images(images, prepare_options(plan), cache, data, out)
    folder = out / "pretrain" / f"{arm.name.replace(' ', '_')}-{key_of([options, str(cache.relative_to(out))])}"
    encoder = folder / "encoder.safetensors"
    if not _is_finished(encoder):
        config = folder.with_name(f"{folder.name}.yaml")
        write_text(config, yaml.safe_dump(options))
        resume = ["--resume"] if (folder / "run.json").is_file() else []
        run_verb("pretrain", ["--config", str(config), "--data", str(cache), "--out", str(folder), *resume])
        _refuse_unfinished(encoder, f"pretraining of {arm.name}")
    return encoder


def done_runs(runs: Sequence[Tuned], jobs: int) -> Iterator[Done]:
    """Fine-tune and test, as they come; what is finished is kept."""
    logs = [run.folder.with_name(f"{run.folder.name}.log") for run in runs]
    for _, done in side_by_side(partial(_do, jobs=jobs), runs, logs, jobs):
        yield done


def read_tested(run: Tuned) -> "NetworkScores":
    """What a tested network said of every case.

    Raises:
        CheckpointError: Its results are missing or damaged.
    """
    import numpy as np

    from medssl.evaluation.study_table import NetworkScores

    path = run.folder / "evaluation" / "cases.csv"
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = sorted(csv.DictReader(stream), key=lambda row: row["case"])
    except (OSError, KeyError) as error:
        raise CheckpointError(
            f"{path} is missing or damaged ({error}): remove its folder", reason="no-result"
        ) from error
    if run.plan.metric == "dice":
        by_case: dict[tuple[str, str], list[float]] = defaultdict(list)
        for row in rows:
            by_case[row["case"], row["patient"]] += [float(row["dice"])] if row["dice"] else []
        values = [sum(found) / len(found) if found else math.nan for found in by_case.values()]
        cases, patients = zip(*by_case, strict=True)
        return NetworkScores(run.arm.name, run.labels, run.seed, cases, patients, np.array(values))
    columns = [name for name in rows[0] if name.startswith("probability_")]
    names = [name.removeprefix("probability_") for name in columns]
    if run.plan.class_order:
        columns = [f"probability_{name}" for name in run.plan.class_order]
        names = list(run.plan.class_order)
    return NetworkScores(
        run.arm.name,
        run.labels,
        run.seed,
        tuple(row["case"] for row in rows),
        tuple(row["patient"] for row in rows),
        np.array([[float(row[column]) for column in columns] for row in rows]),
        np.array([names.index(row["class"]) for row in rows]),
    )


def _do(run: Tuned, jobs: int) -> Done:
    try:
        beside = _finetune(run, jobs)
        if run.tested:
            _test(run)
    except MedsslError as error:
        return Done(run, math.nan, math.nan, error.message, jobs)
    scores = json.loads((run.folder / "run.json").read_text(encoding="utf-8")).get("validation", {})
    score = float(scores.get("dice", scores.get("auroc", math.nan)))
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rates = [float(row["steps_per_s"]) for row in map(json.loads, lines) if "steps_per_s" in row]
    return Done(run, score, 1 / max(rates) if rates else math.nan, jobs=beside)


def _finetune(run: Tuned, jobs: int) -> int:
    """Fine-tune, or go on with it; returns how many ran at a time, at most, while it did."""
    record = run.folder.with_name(f"{run.folder.name}-jobs.json")
    before = int(json.loads(record.read_text(encoding="utf-8"))["jobs"]) if record.is_file() else 0
    model = run.folder / "model.safetensors"
    if _is_finished(model):
        return before or jobs
    write_json(record, {"jobs": max(before, jobs)})
    shutil.rmtree(run.folder / "evaluation", ignore_errors=True)  # of weights from before the last step
    config = run.folder.with_name(f"{run.folder.name}.yaml")
    write_text(config, yaml.safe_dump(run.options))
    arguments = ["--config", str(config), "--data", str(cache_of(run.plan, run.out)), "--out", str(run.folder)]
    arguments += ["--labels", str(run.labels), "--seed", str(run.seed)]
    arguments += ["--init", str(run.init)] if run.init else []
    arguments += ["--resume"] if (run.folder / "run.json").is_file() else []
    run_verb("finetune", arguments)
    _refuse_unfinished(model, run.about)
    return max(before, jobs)


def _is_finished(weights: Path) -> bool:
    """Whether a training has done all its steps; weights are written also when its time was up before."""
    told = weights.with_suffix(".json")
    if not (weights.is_file() and told.is_file()):
        return False
    return bool(json.loads(told.read_text(encoding="utf-8"))["provenance"]["finished"])


def _refuse_unfinished(weights: Path, what: str) -> None:
    if not _is_finished(weights):
        raise MedsslError(
            f"{what}: train.time_limit_min was over before its last step: run the same again to go on with it",
            reason="unfinished",
        )


def _test(run: Tuned) -> None:
    """Evaluate the network, once; one that has no answer to some of the cases is not compared with others."""
    results = run.folder / "evaluation" / "results.json"
    if not results.is_file():
        arguments = [
            "--data",
            str(cache_of(run.plan, run.out)),
            "--split",
            run.plan.split,
            "--out",
            str(results.parent),
        ]
        arguments += ["--measure.resamples", "100"]  # intervals of single networks are not what is asked
        run_stage("evaluate", [str(run.folder), *arguments])
    failures = json.loads(results.read_text(encoding="utf-8")).get("failures", [])
    if failures:
        told = "; ".join(f"{failure['case']}: {failure['message']} ({failure['reason']})" for failure in failures)
        raise MedsslError(f"{len(failures)} case(s) could not be evaluated: {told}", reason="cases-failed")
