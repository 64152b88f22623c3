"""The parts of a fine-tuning: cases, network with its pretrained weights, crops."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from medssl.data.augment import Augmentation
from medssl.data.cache import Cache
from medssl.data.dataset import CropPlan, StepDataset
from medssl.imaging.errors import ConfigError
from medssl.imaging.files import sha256
from medssl.models.masked import has_batch_norm
from medssl.models.networks import Network, NetworkSpec, build_decoder, build_network
from medssl.models.weights import LoadReport, freeze, hold_statistics, load_encoder
from medssl.tasks.adaptation import adapt
from medssl.tasks.classification import ClassificationTask
from medssl.tasks.label_augmentation import AugmentedLabelsTask
from medssl.tasks.model_file import ModelSpec
from medssl.tasks.segmentation import SegmentationTask
from medssl.training.arithmetic import arithmetic
from medssl.training.finetune_settings import Settings, data_problems, network_spec, transfer_notes
from medssl.training.loop import parts_of
from medssl.training.optimizers import ParameterGroup, parameter_groups
from medssl.training.run_folder import encoder_patients
from medssl.training.shares import Share, make_shares, never_seen


@dataclass(frozen=True)
class Finetuning:
    """The parts of a run that its folds share."""

    settings: Settings
    cache: Cache
    fabric: Fabric
    spec: NetworkSpec
    shares: tuple[Share, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """The parts of one training, built."""

    share: Share
    network: Network
    module: nn.Module
    groups: list[ParameterGroup]
    source: StepDataset
    augment: Augmentation
    report: LoadReport | None
    merge: Callable[[], None]
    before: Callable[[int], None]


def assemble(settings: Settings, cache: Cache, fabric: Fabric) -> Finetuning:
    """Choose the cases and check everything that does not need an image.

    Raises:
        ConfigError: Options that contradict one another or the data.
    """
    parts = parts_of(fabric, settings.train)
    problems = list(settings.problems())
    sound = not problems
    problems += settings.augment.misfits(len(cache.channels), cache.preprocess.intensity)
    shares: list[Share] = []
    spec: NetworkSpec | None = None
    if settings.train.batch_size % parts:
        problems.append(
            f"train.batch_size {settings.train.batch_size} must divide by devices x nodes x accumulate = {parts}: "
            "every device computes the same share"
        )
    try:
        shares = make_shares(cache, settings.task, settings.subset)
    except ConfigError as error:
        problems += error.problems
    if not sound:
        problems += data_problems(settings, cache)
    else:
        try:
            spec = network_spec(settings, cache)
        except ConfigError as error:
            problems += error.problems
    if problems or spec is None:
        raise ConfigError(problems)
    return Finetuning(settings, cache, fabric, spec, tuple(shares), tuple(transfer_notes(settings, cache)))


def build_job(tuning: Finetuning, share: Share) -> Job:
    """Build the network of a share, with its pretrained weights, and its data source.

    Raises:
        CheckpointError: Weights of the encoder file found no place.
        CacheError: No case to learn from.
    """
    settings, cache = tuning.settings, tuning.cache
    train, crops = settings.train, settings.crops
    torch.manual_seed(train.seed)
    network = build_network(tuning.spec, trusted_only=settings.network.encoder is None)
    report = None
    if settings.init is not None:
        report = load_encoder(network, settings.init, decoder=settings.transfer.decoder)
    freeze(network.encoder, settings.transfer.encoder_lr == 0)
    merge = adapt(network.encoder, settings.transfer.adapt, settings.transfer.lora)
    segmentation = settings.task == "segmentation"
    module = _task_module(tuning, network)
    plan = CropPlan(
        crops.size,
        train.batch_size,
        parts_of(tuning.fabric, train),
        train.seed,
        labels=segmentation,
        classes=not segmentation,
        foreground=crops.foreground,
        evenly=crops.evenly,
    )
    groups = parameter_groups(
        module,
        train.layer_decay,
        "network.encoder.",
        settings.transfer.encoder_lr,
        settings.transfer.frozen_steps,
        settings.transfer.thaw_steps,
        train.undecayed_scale,
    )
    augment = Augmentation(settings.augment, train.seed)
    source = StepDataset(cache, share.train, plan)
    return Job(share, network, module, groups, source, augment, report, merge, partial(_settle, network, settings))


def _settle(network: Network, settings: Settings, step: int) -> None:
    """Batch norm of an encoder that does not move, or of which few weights do, uses the pretraining's statistics."""
    transfer = settings.transfer
    held = transfer.encoder_lr == 0 or transfer.adapt != "full" or step < transfer.frozen_steps
    hold_statistics(network.encoder, held)


def _task_module(tuning: Finetuning, network: Network) -> nn.Module:
    """The network with its loss."""
    settings = tuning.settings
    if settings.task == "segmentation":
        return SegmentationTask(network, settings.loss, tuning.cache.ignore_label)
    if settings.label_augment.count == 1:
        return ClassificationTask(network, settings.loss)
    outputs = tuning.spec.out_channels * settings.label_augment.count
    joint = build_decoder(tuning.spec.decoder, network.encoder, outputs)
    return AugmentedLabelsTask(network, joint, settings.label_augment)


def notes(tuning: Finetuning, network: Network, share: Share) -> list[str]:
    """What should be known before a training starts, though nothing forbids it."""
    found, settings = list(tuning.notes), tuning.settings
    if unseen := never_seen(tuning.cache, settings.task, share):
        found.append(
            f"no case to learn from has {', '.join(unseen)}: the network will never have seen it, and what it says of "
            "it means nothing; label such cases, take more labels or leave the class out"
        )
    train, parts = settings.train, parts_of(tuning.fabric, settings.train)
    compares = [
        *(["the Dice of the loss"] if "dice" in settings.loss and parts > 1 else []),
        *(["batch norm"] if train.accumulate > 1 and has_batch_norm(network) else []),
    ]
    if compares:
        found.append(
            f"a step is computed in {parts} parts of {train.batch_size // parts} crops (train.accumulate "
            f"{train.accumulate}, {tuning.fabric.world_size} device(s)); of one part alone, not of the whole batch: "
            f"{', '.join(compares)}; where memory allows take fewer parts"
        )
    return found


def identity(tuning: Finetuning) -> dict[str, Any]:
    """What run.json says of every training of a run alike, and by what its folds belong together."""
    return {
        "verb": "finetune",
        "config": {**tuning.settings.to_json(), "data": str(tuning.cache.path.resolve())},
        "seed": tuning.settings.train.seed,
        "arithmetic": arithmetic(tuning.fabric.device, tuning.settings.train),
        "data_sha256": tuning.cache.data_sha256,
        "read_as": [tuning.cache.read_as],
    }


def describe(tuning: Finetuning, job: Job) -> dict[str, Any]:
    """What run.json says of a training."""
    return {
        **identity(tuning),
        "network": tuning.spec.to_json(),
        "transfer": None if job.report is None else job.report.to_json(),
        "notes": notes(tuning, job.network, job.share),
        "patients": {
            "train": sorted({case.patient for case in job.share.train}),
            "validation": sorted({case.patient for case in job.share.validation}),
            "pretraining": encoder_patients(tuning.settings.init),
        },
    }


def model_spec(tuning: Finetuning, job: Job) -> ModelSpec:
    """What model.json says but for scores and steps."""
    settings, cache = tuning.settings, tuning.cache
    return ModelSpec(
        network=tuning.spec,
        preprocess=cache.preprocess,
        window=settings.crops.size,
        overlap=settings.inference.overlap,
        mirror_axes=settings.inference.mirror_axes,
        labels=cache.labels if settings.task == "segmentation" else (),
        classes=cache.classes if settings.task == "classification" else (),
        ignore_label=cache.ignore_label,
        channels=cache.channels,
        activation="sigmoid" if "bce" in settings.loss else "softmax",
        provenance={
            "manifest_sha256": cache.manifest_sha256,
            "data_sha256": cache.data_sha256,
            "fingerprint": cache.fingerprint,
            "init": None if settings.init is None else {"sha256": sha256(settings.init)},
            "patients": len({case.patient for case in job.share.train}),
            "cases": len(job.share.train),
            "seed": settings.train.seed,
        },
    )
