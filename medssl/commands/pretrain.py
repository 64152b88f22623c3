"""Pretrain an encoder on images without labels."""

import sys
from pathlib import Path

from medssl.models.component import Component
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import SecondData, ViewOptions

POSITIONAL: tuple[str, ...] = ()

_WORTH_MEASURING = 200  # steps; a shorter run is over before anyone has read what it would need

_VIEWS, _TRAIN, _ALSO = ViewOptions(), TrainOptions(), SecondData()


def pretrain(
    data: Path,
    out: Path,
    method: Component,
    encoder: Component,
    views: ViewOptions = _VIEWS,
    train: TrainOptions = _TRAIN,
    init: Path | None = None,
    also: SecondData = _ALSO,
    resume: bool = False,
    dry_run: bool = False,
) -> None:
    """Pretrain an encoder on images without labels; writes OUT/encoder.safetensors and OUT/encoder.json.

    Methods that learn from 2D and 3D images in one run take a second cache with --also.data, and write an encoder for
    each: OUT/encoder_2d.safetensors and OUT/encoder_3d.safetensors. Of methods with a student and a teacher
    encoder.safetensors is the one that the method's page names, and OUT/encoder_teacher.safetensors or
    OUT/encoder_student.safetensors the other.

    OUT also gets run.json, metrics.jsonl, TensorBoard logs in tb/, checkpoints/, and a picture of reconstructions in
    health/ at each look at the run's health. Ctrl-C, SIGTERM and SLURM's SIGUSR1 stop the run with a checkpoint.

    Args:
        data: Prepared cache, made by `medssl prepare`.
        out: Folder of the run; must be empty or new unless resumed.
        method: Self-supervised method and its arguments.
        encoder: Encoder and its arguments; spatial dimensions, channels and image size come from data and crops.
        views: Which crops are drawn and how they are varied.
        train: Length, optimiser, precision and house-keeping.
        init: `encoder.safetensors` of an earlier run with the same encoder, to go on from: larger crops, other images,
            another method; everything else starts anew. Or a checkpoint of MONAI, timm or nnU-Net (nnssl) for it.
            Random weights without it.
        also: A second cache, of the other dimension, and what is drawn from it.
        resume: Go on with the run in OUT. Only its length, time limit, workers and intervals may differ.
        dry_run: Check everything, measure a few steps, say what the run would need, write nothing.

    Raises:
        ConfigError: Every mistake in the options, an encoder to start from that cannot be used among them.
        CacheError: The cache cannot be used.
        CheckpointError: The checkpoint to resume from cannot be used.
        MedsslError: No room on the disk, or a loss that is no number.
    """
    from medssl.data.cache import Cache
    from medssl.training import pretraining
    from medssl.training.encoder_files import encoder_names
    from medssl.training.loop import launch
    from medssl.training.pretrain_job import Settings
    from medssl.training.run_folder import RunFolder

    settings = Settings(method, encoder, views, train, init, also)
    settings.check()
    cache = Cache.open(data)
    other = None if also.data is None else Cache.open(also.data)
    fabric = launch(train)
    job = pretraining.assemble(settings, cache, fabric, other)
    run = RunFolder(out, fabric.is_global_zero)
    run.check(resume)
    pretraining.check_space(job, out)
    pretraining.announce(job, out)
    if dry_run or (train.steps >= _WORTH_MEASURING and not resume):
        pretraining.preflight(job)
    if dry_run:
        if fabric.is_global_zero:
            sys.stderr.write("dry run: nothing was written\n")
        return
    result = pretraining.train(job, run, resume)
    if fabric.is_global_zero:
        end = "done" if result.finished else "time is up, go on with --resume"
        files = ", ".join(str(out / name) for name in encoder_names(job).values())
        sys.stderr.write(f"pretrain: {end}: step {result.step}, {files}\n")
