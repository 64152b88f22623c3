"""Compose a pretraining run: cache, crops, method, loop, encoder file."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from medssl.data.cache import Cache
from medssl.imaging.errors import ConfigError
from medssl.imaging.files import sha256
from medssl.models.component import Component, unlike_arguments
from medssl.models.encoder import MixedEncoder
from medssl.models.foreign_weights import is_foreign
from medssl.models.weights import LoadReport, load_encoder, read_encoder
from medssl.training.arithmetic import arithmetic
from medssl.training.checkpoints import require_space
from medssl.training.components import build_component
from medssl.training.damaged_cases import DamagedCases
from medssl.training.encoder_files import write_encoders
from medssl.training.health_check import HealthCheck
from medssl.training.loop import FitResult, Hooks, fit, parts_of
from medssl.training.options import RESUMABLE
from medssl.training.preflight import measure
from medssl.training.pretrain_checks import (
    Problems,
    contradictions,
    notes,
    split_teachers,
    too_few,
    try_encoder,
    try_out,
    unlike_helpers,
    unused_views,
)
from medssl.training.pretrain_job import Pretraining, Settings
from medssl.training.pretrain_sources import Source, make_sources
from medssl.training.run_folder import RunFolder, encoder_patients
from medssl.training.state import checkpoint_bytes

_CHECKPOINTS = 3  # the old one, the new one while it is written, and the encoder


def assemble(settings: Settings, cache: Cache, fabric: Fabric, other: Cache | None = None) -> Pretraining:
    """Build method and data source.

    Args:
        settings: What the user asked for.
        cache: Prepared cache.
        fabric: Devices.
        other: The second cache, where the settings ask for one.

    Raises:
        ConfigError: Options that contradict the data, one another or the classes' own rules, and files that cannot be
            used, all at once.
    """
    train = settings.train
    sources = make_sources(cache, settings.views, train, settings.also, other)
    problems = Problems(contradictions(settings.method, sources, train, parts_of(fabric, train)))
    encoder: Any = None
    method: Any = None
    report: LoadReport | None = None
    with problems.collected():
        settings = settings.fitted_to(sources)
        torch.manual_seed(train.seed)
        encoder = build_component("encoder", settings.encoder)
    if encoder is not None and settings.init is not None:
        with problems.collected():  # before the method is built: teachers start as copies of the encoder
            report = _start_from(settings.init, encoder, settings.encoder)
    if encoder is not None:
        with problems.collected():
            method = build_component("method", settings.method, encoder)
    sized = [source for source in sources if len(source.views.size) == source.spatial_dims]
    if method is None:
        for source in sized if encoder is not None else ():
            with problems.collected():
                try_encoder(encoder, settings.method, source)
        problems.refuse()
    problems.add(split_teachers(method, train))
    with problems.collected():
        too_few(method, sources, train)
    augments = {source.spatial_dims: source.augment(method.views, train.seed) for source in sources}
    for source in sources:
        problems.add(unlike_helpers(method, source))
        problems.add(unused_views(method, source.views, source.group))
    for source in sized:
        with problems.collected():
            try_out(method, source, augments[source.spatial_dims])
    problems.refuse()
    job = Pretraining(settings, sources, fabric, method, augments, report)
    job.batches()
    return job


def _start_from(init: Path, encoder: nn.Module, described: Component) -> LoadReport:
    """Load an encoder file; of a mixed encoder, into the part that is of the file's dimension.

    Raises:
        ConfigError: The weights would fit and compute something else.
        CheckpointError: The file cannot be used.
    """
    if not is_foreign(init):
        then = Component.from_json(read_encoder(init)[1]["encoder"])
        if unlike := list(unlike_arguments(then, described)):
            raise ConfigError([f"init {init} {difference}" for difference in unlike])
        if isinstance(encoder, MixedEncoder):
            encoder = encoder.plain(int(then.init_args["spatial_dims"]))
    elif isinstance(encoder, MixedEncoder) and init.is_file():
        theirs = f"init {init} has no {init.stem}.json beside it, so it is another library's"
        kind = type(encoder).__name__
        raise ConfigError([f"{theirs}: {kind} takes only encoder files of a pretraining run, with their .json"])
    return load_encoder(nn.ModuleDict({"encoder": encoder}), init, decoder=False)


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
    train = job.settings.train
    weights = sum(p.numel() for p in job.method.parameters()) / 1e6
    kept = sum(p.numel() for p in job.method.encoder.parameters()) / 1e6
    space = checkpoint_bytes(job.method, train) / 2**20
    limit = f", at most {train.time_limit_min:g} min" if train.time_limit_min else ""
    sys.stderr.write(
        f"pretrain: {type(job.method).__name__} with {type(job.method.encoder).__name__}, {weights:.2f} M weights, "
        f"of which {kept:.2f} M are kept\n"
        f"  start: {'random weights' if job.report is None else f'{job.settings.init}: {job.report}'}\n"
    )
    for note in [*(job.report.notes if job.report else ()), *notes(job.method, job.sources, train)]:
        sys.stderr.write(f"  note: {note}\n")
    for source in job.sources:
        axis = source.views.slice_axis
        size = "x".join(str(n) for n in source.views.size) + ("" if axis is None else f" of slices across axis {axis}")
        patients = len({case.patient for case in source.cases})
        each = source.steps * source.batch_size / len(source.cases)
        sys.stderr.write(
            f"  data: {len(source.cases)} cases of {patients} patients in {source.cache.path}, crops {size}\n"
            f"  work: {source.steps} steps of {source.batch_size} crops = {each:.1f} crops of each case, "
            f"{arithmetic(job.fabric.device, train)} on {job.fabric.world_size} x {job.fabric.device.type}{limit}\n"
        )
    sys.stderr.write(f"  out: {out}, checkpoints of {space:.0f} MiB every {train.checkpoint_every} steps\n")


def preflight(job: Pretraining) -> None:
    """Measure a few steps on a copy and say what the run will need; neither the run nor its folder is touched."""
    train = job.settings.train
    for source in job.sources:
        options = replace(train, batch_size=source.batch_size)
        draw = partial(source.dataset, parts_of(job.fabric, train), train.seed)
        estimate = measure(job.fabric, job.method, draw, options, Hooks(augment=job.augment))
        if job.fabric.is_global_zero:
            told = estimate.told(source.steps, job.fabric.world_size, job.fabric.device.type)
            sys.stderr.write(f"  needs{_of(job, source)}: {told}\n")


def _of(job: Pretraining, source: Source) -> str:
    return f" in {source.spatial_dims}D" if len(job.sources) > 1 else ""


def train(job: Pretraining, run: RunFolder, resume: bool) -> FitResult:
    """Train, and write encoder files when all steps are done or the time is up."""
    description = {
        "verb": "pretrain",
        "config": {**job.settings.to_json(), "data": str(job.sources[0].cache.path.resolve())},
        "seed": job.settings.train.seed,
        "arithmetic": arithmetic(job.fabric.device, job.settings.train),
        "data_sha256": "+".join(source.cache.data_sha256 for source in job.sources),
        "read_as": [source.cache.read_as for source in job.sources],
        "init": None if job.report is None else job.report.to_json(),
        "helpers": {helper.option: sha256(helper.file) for helper in job.method.helpers},
        "patients": {"pretraining": _patients(job)},
    }
    resumable = {"data", "also.data", "method.init_args.steps", *(f"train.{name}" for name in RESUMABLE)}
    run.start(description, resumable, resume)
    with run.session():
        damaged = DamagedCases(_case_names(job), job.settings.train.damaged_cases, run)
        health = _health(job, run, damaged)
        hooks = Hooks(damaged, job.augment, health=health)
        result = fit(job.fabric, job.method, job.batches(), job.settings.train, run, hooks=hooks, resume=resume)
        if run.writes:
            write_encoders(job, run, result)
            run.update(step=result.step)
    return result


def _patients(job: Pretraining) -> list[str] | None:
    """Those that the encoder has learned from when the run ends, be it from what another network knew of them.

    None where nobody knows whom another one knew.
    """
    files = [job.settings.init, *(helper.file for helper in job.method.helpers)]
    known = {case.patient for source in job.sources for case in source.cases}
    for earlier in map(encoder_patients, files):
        if earlier is None:
            return None
        known.update(earlier)
    return sorted(known)


def _health(job: Pretraining, run: RunFolder, damaged: DamagedCases) -> Callable[[nn.Module, int], dict[str, float]]:
    """The run's health check; of two sources, one each. Cases that it cannot read are told.

    Raises:
        CacheError: More of them than allowed, or all.
    """
    train, checks = job.settings.train, []
    for source in job.sources:
        # methods of one view are judged on crops as they are
        views = job.augments[source.spatial_dims] if job.method.views > 1 else None
        plan = source.dataset(parts_of(job.fabric, train), train.seed).plan
        suffix = f"_{source.spatial_dims}d" if len(job.sources) > 1 else ""
        checks.append(HealthCheck(source.cache, source.cases, plan, run, job.fabric.device, views, suffix))
        damaged.note(_named(job, source, checks[-1].damaged))
    damaged.tell(job.fabric)

    def look(module: nn.Module, step: int) -> dict[str, float]:
        return {name: value for check in checks for name, value in check(module, step).items()}

    return look


def _case_names(job: Pretraining) -> list[str]:
    """Names of the cases that are learned from, in the order in which batches count them, then of all in the caches."""
    learned = [(source, source.cases) for source in job.sources]
    cases = learned + [(source, source.cache.cases) for source in job.sources]
    return [name for source, some in cases for name in _named(job, source, [case.case for case in some])]


def _named(job: Pretraining, source: Source, cases: Sequence[str]) -> list[str]:
    """Names of a source's cases; of two sources with the cache in front, as names may be in both."""
    front = f"{source.cache.path.name}/" if len(job.sources) > 1 else ""
    return [f"{front}{case}" for case in cases]
