"""What a label-fraction study trains: a network of an arm, with its options and its folder."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medssl.commands.app import Application, read_application
from medssl.commands.comparison import with_config
from medssl.commands.keys import key_of
from medssl.commands.parsing import resolve_folder
from medssl.evaluation.benchmark_plan import merged
from medssl.evaluation.study_plan import ArmPlan, StudyPlan
from medssl.imaging.files import known_sha256
from medssl.training.options import TrainOptions


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
        init: Encoder file: the arm's, or that of its pretraining for this seed.
        steps: Steps, where they differ from the options'.
        tested: Whether the test split is read; trials are judged on the validation cases.
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
        """Steps, learning rate and batch size, and other options of the training where they are given."""
        decided = {name: getattr(TrainOptions, name) for name in ("steps", "lr", "batch_size")}
        return {**decided, **self.options.get("train", {})}

    @cached_property
    def folder(self) -> Path:
        """Run folder; with other options it is another one."""
        key = key_of([self.options, self._start, cache_of(self.plan, self.out).name])
        return self.out / "runs" / self.arm.name.replace(" ", "_") / f"labels{self.labels}_seed{self.seed}-{key}"

    @property
    def _start(self) -> str:
        """What it starts from: a pretraining of the study by its folder, which has a key; a file by its content."""
        if self.init is None:
            return ""
        return known_sha256(self.init) if self.arm.init else self.init.parent.name

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
        score: The study's metric on the validation cases, of a trial; NaN where there are none.
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
    return merged(application_of(plan).stages.get("prepare", {}), plan.prepare.options)


def application_of(plan: StudyPlan) -> Application:
    """The study's application with the options of its profile.

    Raises:
        ConfigError: It cannot be read.
    """
    return read_application(resolve_folder("apps", Path(plan.app)), plan.profile)
