"""Compose a pretraining run: cache, crops, method, loop, encoder file."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from medssl.data.augment import Augmentation
from medssl.data.cache import Cache, CachedCase
from medssl.data.dataset import CropPlan, StepDataset
from medssl.data.views import MultiView
from medssl.imaging.errors import ConfigError
from medssl.imaging.files import sha256
from medssl.methods.base import Method
from medssl.models.component import Component
from medssl.models.weights import LoadReport, load_encoder, save_encoder
from medssl.training.checkpoints import require_space
from medssl.training.components import build_component, check_component, completed
from medssl.training.damaged_cases import DamagedCases
from medssl.training.health_check import HealthCheck
from medssl.training.loop import FitResult, Hooks, fit, parts_of
from medssl.training.options import RESUMABLE, TrainOptions
from medssl.training.preflight import measure
from medssl.training.pretrain_checks import Problems, contradictions, try_out
from medssl.training.pretrain_options import ViewOptions
from medssl.training.run_folder import RunFolder
from medssl.training.state import checkpoint_bytes

_OF_THE_RUN = ("seed", "steps", "batch_size")
"""Arguments of methods that the options of the run decide."""

_CHECKPOINTS = 3  # the old one, the new one while it is written, and the encoder


@dataclass(frozen=True)
class Settings:
    """What the user asked for.

    Args:
        method: Self-supervised method.
        encoder: Encoder that it trains.
        views: Crops.
        train: Length, optimiser, house-keeping.
        init: Encoder file to start from; None = random weights.
    """

    method: Component
    encoder: Component
    views: ViewOptions
    train: TrainOptions
    init: Path | None = None

    def check(self) -> None:
        """Refuse wrong class names and arguments before any data is read.

        Raises:
            ConfigError: All of them at once.
        """
        facts = ("spatial_dims", "in_channels", "image_size")
        problems = check_component("method", self.method, ("encoder", *_OF_THE_RUN))
        problems += check_component("encoder", self.encoder, facts)
        if problems:
            raise ConfigError(problems)

    def fitted_to(self, cache: Cache) -> "Settings":
        """The settings with the arguments that the data, the crops and the run decide.

        Raises:
            ConfigError: They contradict one another, all at once.
        """
        facts = {
            "spatial_dims": cache.spatial_dims,
            "in_channels": len(cache.channels),
            "image_size": list(self.views.size),
        }
        run = {name: getattr(self.train, name) for name in _OF_THE_RUN}
        problems = Problems()
        with problems.collected():
            encoder = completed("encoder", self.encoder, facts)
        with problems.collected():
            method = completed("method", self.method, run)
        problems.refuse()
        return Settings(method, encoder, self.views, self.train, self.init)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for run.json."""
        groups = {name: getattr(self, name).to_json() for name in ("method", "encoder", "views", "train")}
        return {**groups, "init": None if self.init is None else str(self.init.resolve())}


@dataclass(frozen=True)
class Pretraining:
    """The parts of a run, built."""

    settings: Settings
    cache: Cache
    cases: tuple[CachedCase, ...]
    fabric: Fabric
    method: Method
    source: StepDataset
    augment: Augmentation | MultiView
    report: LoadReport | None


def assemble(settings: Settings, cache: Cache, fabric: Fabric) -> Pretraining:
    """Build method and data source.

    Raises:
        ConfigError: Options that contradict the data, one another or the classes' own rules, all at once.
        CacheError: No case to learn from.
        CheckpointError: The encoder file to start from cannot be used.
    """
    train, views = settings.train, settings.views
    cases = tuple(case for case in cache.cases if case.split in views.splits)
    parts = parts_of(fabric, train)
    problems = Problems(contradictions(settings.method, views, train, cache, cases, parts))
    method = report = None
    with problems.collected():
        settings = settings.fitted_to(cache)
        torch.manual_seed(train.seed)
        encoder = build_component("encoder", settings.encoder)
        if settings.init is not None:  # before the method is built: teachers start as copies of the encoder
            report = load_encoder(nn.ModuleDict({"encoder": encoder}), settings.init, decoder=False)
        method = build_component("method", settings.method, encoder)
    if method is None:
        problems.refuse()
    plan = CropPlan(
        views.crop,
        train.batch_size,
        parts,
        train.seed,
        foreground=views.foreground,
        min_std=views.min_std,
        partners=views.partner == "patient",
    )
    spacing_mm = cases[0].spacing_mm if cases else (1.0,) * cache.spatial_dims
    augment: Augmentation | MultiView = (
        Augmentation(views.augment, spacing_mm, train.seed)
        if method.views == 1
        else MultiView(*views.groups(method.views), spacing_mm, train.seed)
    )
    if len(views.size) == cache.spatial_dims:
        with problems.collected():
            try_out(method, len(cache.channels), views.crop, augment)
    problems.refuse()
    return Pretraining(
        settings=settings,
        cache=cache,
        cases=cases,
        fabric=fabric,
        method=method,
        source=StepDataset(cache, cases, plan),
        augment=augment,
        report=report,
    )


def check_space(job: Pretraining, out: Path) -> None:
    """Refuse to start where the checkpoints will not fit.

    Raises:
        MedsslError: Too little room.
    """
    require_space(out, _CHECKPOINTS * checkpoint_bytes(job.method, job.settings.train))


def announce(job: Pretraining, out: Path) -> None:
    """Say what will be done, on standard error."""
    if not job.fabric.is_global_zero:
        return
    train, views = job.settings.train, job.settings.views
    size = "x".join(str(n) for n in views.size)
    weights = sum(p.numel() for p in job.method.parameters()) / 1e6
    kept = sum(p.numel() for p in job.method.encoder.parameters()) / 1e6
    patients = len({case.patient for case in job.cases})
    space = checkpoint_bytes(job.method, train) / 2**20
    each = train.steps * train.batch_size / len(job.cases)
    limit = f", at most {train.time_limit_min:g} min" if train.time_limit_min else ""
    sys.stderr.write(
        f"pretrain: {type(job.method).__name__} with {type(job.method.encoder).__name__}, {weights:.2f} M weights, "
        f"of which {kept:.2f} M are kept\n"
        f"  start: {'random weights' if job.report is None else f'{job.settings.init}: {job.report}'}\n"
        f"  data: {len(job.cases)} cases of {patients} patients in {job.cache.path}, crops {size}\n"
        f"  work: {train.steps} steps of {train.batch_size} crops = {each:.1f} crops of each case, "
        f"{train.precision} on {job.fabric.world_size} x {job.fabric.device.type}{limit}\n"
        f"  out: {out}, checkpoints of {space:.0f} MiB every {train.checkpoint_every} steps\n"
    )


def preflight(job: Pretraining) -> None:
    """Measure a few steps on a copy and say what the run will need; neither the run nor its folder is touched."""
    train = job.settings.train

    def source_of(batch_size: int) -> StepDataset:
        return StepDataset(job.cache, job.cases, replace(job.source.plan, batch_size=batch_size))

    estimate = measure(job.fabric, job.method, source_of, train, Hooks(augment=job.augment))
    if job.fabric.is_global_zero:
        sys.stderr.write(f"  needs: {estimate.told(train, job.fabric.world_size, job.fabric.device.type)}\n")


def train(job: Pretraining, run: RunFolder, resume: bool) -> FitResult:
    """Train, and write `encoder.safetensors` and `encoder.json` when all steps are done or the time is up."""
    description = {
        "verb": "pretrain",
        "config": {**job.settings.to_json(), "data": str(job.cache.path.resolve())},
        "seed": job.settings.train.seed,
        "data_sha256": job.cache.data_sha256,
        "init": None if job.report is None else job.report.to_json(),
    }
    run.start(description, {"data", "method.init_args.steps", *(f"train.{name}" for name in RESUMABLE)}, resume)
    views = job.augment if job.method.views > 1 else None  # methods of one view are judged on crops as they are
    health = HealthCheck(job.cache, job.cases, job.source.plan, run, job.fabric.device, views)
    with run.session():
        damaged = DamagedCases([case.case for case in job.cases], job.settings.train.damaged_cases, run)
        hooks = Hooks(damaged, job.augment, health=health)
        result = fit(job.fabric, job.method, job.source, job.settings.train, run, hooks=hooks, resume=resume)
        if run.writes:
            write_encoder(job, run, result)
            run.update(step=result.step)
    return result


def write_encoder(job: Pretraining, run: RunFolder, result: FitResult) -> None:
    """Write the encoder, and the decoder where the method keeps one, as safetensors with a description beside it."""
    decoder = getattr(job.method, "decoder_state_dict", None)
    sessions = run.read()["sessions"]
    settings = job.settings
    meta = {
        "encoder": settings.encoder.to_json(),
        "method": settings.method.to_json(),
        "preprocess": job.cache.preprocess.to_json(),
        "channels": list(job.cache.channels),
        "provenance": {
            "manifest_sha256": job.cache.manifest_sha256,
            "data_sha256": job.cache.data_sha256,
            "init": None if settings.init is None else {"sha256": sha256(settings.init)},
            "cases": len(job.cases),
            "commit": sessions[-1]["commit"],
            "versions": sessions[-1]["versions"],
            "seed": settings.train.seed,
            "steps": result.step,
            "finished": result.finished,
            "crop": list(settings.views.size),
            "device": job.fabric.device.type,
            "device_hours": job.fabric.world_size * result.seconds / 3600,
        },
    }
    save_encoder(
        run.path / "encoder.safetensors", job.method.encoder_state_dict(), decoder() if decoder else None, meta
    )
