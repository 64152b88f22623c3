"""Run a fine-tuning: every fold of it, from what is said at first to the model file."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file

from medssl.data.cache import CachedCase
from medssl.imaging.errors import ConfigError
from medssl.tasks.model_file import save_model
from medssl.training.arithmetic import arithmetic
from medssl.training.batches import StepBatches
from medssl.training.checkpoints import require_space
from medssl.training.damaged_cases import DamagedCases
from medssl.training.finetune_job import Finetuning, Job, build_job, describe, identity, model_spec, notes
from medssl.training.loop import FitResult, Hooks, duration, fit, train_step
from medssl.training.options import RESUMABLE
from medssl.training.run_folder import RunFolder
from medssl.training.shares import Share, looked_at, tells_apart
from medssl.training.state import build, checkpoint_bytes
from medssl.training.validation import MONITOR, make_validation

_NO_CHOICE = {"classification": "are of one class", "segmentation": "hold no structure"}
_RESUMABLE = frozenset({"data", *(f"train.{name}" for name in RESUMABLE)})
_CHECKPOINTS = 5  # the old one, the new one while it is written, the best weights (at most four of them) and the model


def run_all(tuning: Finetuning, out: Path, *, resume: bool, dry_run: bool) -> None:
    """Train every share that is not finished, one after the other, or rehearse the first one.

    Raises:
        ConfigError: `out` holds a run already, or none to resume.
        MedsslError: No room on the disk, or a loss that is no number.
    """
    due = _due(tuning, out, resume)
    tuning.fabric.barrier()  # every process has looked before the first one writes
    for number, (share, run, resumes) in enumerate(due):
        job = build_job(tuning, share)
        if number == 0:
            each = checkpoint_bytes(job.module, tuning.settings.train)
            require_space(out, _CHECKPOINTS * each * len(due))
        announce(tuning, job, out)
        if dry_run:
            rehearse(tuning, job)
            return
        result = train(tuning, job, run, resumes)
        end = "done" if result.finished else "time is up, go on with --resume"
        _say(tuning, f"{end}: step {result.step}, {run.path / 'model.safetensors'}")
        waiting = [share.name for share, *_ in due[number + 1 :]]
        if waiting and not result.finished:  # train.time_limit_min would count anew for each of them
            _say(tuning, f"{', '.join(waiting)} not begun or not gone on with, go on with --resume")
            return


def _due(tuning: Finetuning, out: Path, resume: bool) -> list[tuple[Share, RunFolder, bool]]:
    """Shares to train, their folders, and whether each goes on with what is there; writes nothing."""
    runs = [(share, RunFolder(share.folder(out), tuning.fabric.is_global_zero)) for share in tuning.shares]
    if not tuning.settings.subset.folds:
        runs[0][1].check(resume)
        return [(*runs[0], resume)]
    if (out / "run.json").exists():
        raise ConfigError([f"out: {out} already holds a run without folds: choose another folder"])
    begun = {share.name: (run.path / "run.json").exists() for share, run in runs}
    if resume and not any(begun.values()):
        raise ConfigError([f"resume: {out} holds none of these folds: leave --resume out to start them"])
    for share, run in runs:
        run.check(resume and begun[share.name])
    _refuse_other_folds(tuning, out)
    due = [
        (share, run, resume and begun[share.name])
        for share, run in runs
        if not (begun[share.name] and _is_done(run, tuning.settings.train.steps))
    ]
    if not due:
        _say(tuning, f"nothing to do: {', '.join(begun)} in {out} have done all their steps")
    return due


def _say(tuning: Finetuning, text: str) -> None:
    if tuning.fabric.is_global_zero:
        sys.stderr.write(f"finetune: {text}\n")


def _is_done(run: RunFolder, steps: int) -> bool:
    told = run.read()
    return bool(told.get("finished")) and int(told.get("step", 0)) >= steps


def _refuse_other_folds(tuning: Finetuning, out: Path) -> None:
    """Refuse options unlike those of a fold that is there, be it asked for or not: another seed deals the patients out
    anew, so that one would be held out twice and another never.

    Raises:
        ConfigError: Every difference.
    """
    problems = [
        f"out: {file.parent} is no fold of this run: {change}; all folds in a folder need the same options and data, "
        "so use those, or another folder"
        for file in sorted(out.glob("fold_*/run.json"))
        for change in RunFolder(file.parent).changes(identity(tuning), _RESUMABLE)
    ]
    if problems:
        raise ConfigError(problems)


def announce(tuning: Finetuning, job: Job, out: Path) -> None:
    """Say what will be done, on standard error."""
    if not tuning.fabric.is_global_zero:
        return
    settings, share = tuning.settings, job.share
    train, network = settings.train, job.network
    size = "x".join(str(n) for n in settings.crops.size)
    weights = sum(p.numel() for p in network.parameters()) / 1e6
    limit = f", at most {train.time_limit_min:g} min" if train.time_limit_min else ""
    start = "random weights" if job.report is None else f"{settings.init}: {job.report}"
    rule = (
        f"the weights with the highest {MONITOR[settings.task]} of these, the earlier ones on a tie"
        if _chooses(tuning, share)
        else "the weights at the end"
    )
    if share.validation and settings.inference.choose == "best" and not _chooses(tuning, share):
        rule += f", because the validation cases {_NO_CHOICE[settings.task]}"
    work = f"{train.steps} steps of {train.batch_size} crops = {train.steps * train.batch_size / len(share.train):.1f}"
    where = f"{tuning.fabric.world_size} x {tuning.fabric.device.type}{limit}"
    lines = [
        f"finetune{' ' + share.name if share.name else ''}: {settings.task} with {type(network.encoder).__name__} and "
        f"{type(network.decoder).__name__}, {weights:.2f} M weights, {tuning.spec.out_channels} classes",
        f"  start: {start}",
        *(f"  note: {note}" for note in [*(job.report.notes if job.report else ()), *notes(tuning, network, share)]),
        f"  data: {_people(share.train)} to learn from in {tuning.cache.path}, crops {size}",
        f"  validation: {_people(share.validation)}; kept: {rule}",
        f"  work: {work} crops of each case, {arithmetic(tuning.fabric.device, train)} on {where}",
        f"  out: {share.folder(out)}, checkpoints of {checkpoint_bytes(job.module, train) / 2**20:.0f} MiB every "
        f"{train.checkpoint_every} steps",
    ]
    sys.stderr.write("\n".join(lines) + "\n")


def rehearse(tuning: Finetuning, job: Job) -> float:
    """Do a step twice and say how long the run would take; writes nothing. Returns seconds a step."""
    train = tuning.settings.train
    state = build(tuning.fabric, job.module, train, job.groups)
    batches = StepBatches(tuning.fabric, job.source, train, 0)
    seconds = loss = 0.0
    hooks = Hooks(augment=job.augment, before=job.before)
    for _ in range(min(2, train.steps)):
        began = time.monotonic()
        loss = float(train_step(state, batches.next_step(), train, hooks)["loss"])
        seconds = time.monotonic() - began
    if tuning.fabric.is_global_zero:
        total = seconds * train.steps * len(tuning.shares)
        sys.stderr.write(
            f"dry run: loss {loss:.4g}, {seconds:.3g} s a step, {duration(total)} for {len(tuning.shares)} x "
            f"{train.steps} steps without validation; nothing was written\n"
        )
    return seconds


def train(tuning: Finetuning, job: Job, run: RunFolder, resume: bool) -> FitResult:
    """Train one share and write its model, from the best or the last weights, also when the time is up."""
    settings, share = tuning.settings, job.share
    run.start(describe(tuning, job), _RESUMABLE, resume)
    spec = model_spec(tuning, job)
    batch_size, monitor = settings.inference.batch_size, MONITOR[settings.task]
    few = looked_at(share.validation, settings.inference.cases)
    validate = make_validation(tuning.cache, few, spec, tuning.fabric, batch_size) if few else None
    damaged = DamagedCases([case.case for case in job.share.train], settings.train.damaged_cases, run)
    chosen_by = monitor if _chooses(tuning, share) else ""
    hooks = Hooks(damaged, job.augment, validate, chosen_by, before=job.before)
    with run.session():
        result = fit(
            tuning.fabric, job.module, job.source, settings.train, run, hooks=hooks, groups=job.groups, resume=resume
        )
        if hooks.monitor and result.best_step:
            job.module.load_state_dict(load_file(run.best(result.best_step)))
        job.module.eval()
        job.merge()  # what is scored is what is saved
        scores: dict[str, float] = {}
        if share.validation:  # all cases, in the arithmetic of the clinic
            if run.writes:
                sys.stderr.write(f"finetune: scoring the kept weights on {_people(share.validation)}\n")
            whole = make_validation(tuning.cache, share.validation, spec, tuning.fabric, batch_size)
            scores = whole(job.module, result.step)
        kept = result.best_step if hooks.monitor and result.best_step else result.step
        if run.writes:
            ended = {"steps": result.step, "planned_steps": settings.train.steps, "finished": result.finished}
            provenance = {**spec.provenance, "step": kept, **ended}
            final = replace(spec, validation=scores, provenance=provenance)
            save_model(run.path, job.network.state_dict(), final)
            run.update(step=result.step, finished=result.finished, kept_step=kept, validation=scores)
    return result


def _chooses(tuning: Finetuning, share: Share) -> bool:
    options = tuning.settings.inference
    few = looked_at(share.validation, options.cases)
    return options.choose == "best" and bool(few) and tells_apart(tuning.cache, tuning.settings.task, few)


def _people(cases: Sequence[CachedCase]) -> str:
    return f"{len(cases)} case(s) of {len({case.patient for case in cases})} patient(s)"
