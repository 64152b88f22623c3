"""Fine-tune a network on labelled cases, from pretrained or random weights."""

import dataclasses
from pathlib import Path
from typing import Literal

from medssl.data.augment_options import AugmentOptions
from medssl.tasks.options import (
    CropOptions,
    InferenceOptions,
    LabelAugmentOptions,
    NetworkOptions,
    SubsetOptions,
    TransferOptions,
)
from medssl.training.options import TrainOptions

POSITIONAL: tuple[str, ...] = ()

_CROPS, _TRANSFER, _AUGMENT, _INFERENCE = CropOptions(), TransferOptions(), AugmentOptions(), InferenceOptions()
_NETWORK, _TRAIN, _LABEL_AUGMENT = NetworkOptions(), TrainOptions(), LabelAugmentOptions()


def finetune(
    data: Path,
    out: Path,
    network: NetworkOptions = _NETWORK,
    task: Literal["segmentation", "classification"] = "segmentation",
    loss: Literal["dice_ce", "ce", "bce", "dice_bce"] = "dice_ce",
    crops: CropOptions = _CROPS,
    transfer: TransferOptions = _TRANSFER,
    augment: AugmentOptions = _AUGMENT,
    label_augment: LabelAugmentOptions = _LABEL_AUGMENT,
    inference: InferenceOptions = _INFERENCE,
    train: TrainOptions = _TRAIN,
    init: Path | None = None,
    labels: int = 0,
    folds: int = 0,
    fold: int | Literal["all"] = "all",
    seed: int | None = None,
    resume: bool = False,
    dry_run: bool = False,
) -> None:
    """Fine-tune a network on labelled cases; writes OUT/model.safetensors and OUT/model.json.

    OUT also gets run.json (with the report of what was taken over from --init), metrics.jsonl, TensorBoard logs in tb/
    and checkpoints/; with --folds there is one such folder a fold, OUT/fold_0 and so on. Ctrl-C, SIGTERM and SLURM's
    SIGUSR1 stop the run with a checkpoint. Kept are the weights with the highest validation score (mean Dice of the
    foreground classes on whole images, or AUROC), the earlier ones on a tie; without validation cases, or with
    `inference.choose last`, those at the end.

    Args:
        data: Prepared cache, made by `medssl prepare`.
        out: Folder of the run; must be empty or new unless resumed.
        network: Encoder, and decoder or head.
        task: Segmentation, or classification of whole images.
        loss: Dice with cross-entropy, cross-entropy, or each class against the rest: bce, dice_bce.
        crops: Crops of the training; their size is the window of inference.
        transfer: How pretrained weights are taken over and trained on.
        augment: How crops are varied.
        label_augment: Whether a classification learns class and transformation together (SLA with self-distillation).
        inference: How whole images are predicted, in validation and in the clinic, and which weights are kept.
        train: Length, optimiser, precision and house-keeping.
        init: `encoder.safetensors` of a pretraining run, or a checkpoint of MONAI, timm or nnU-Net (nnssl) for the
            encoder named; random weights without it.
        labels: Learn from this many labelled patients, seeded; a smaller number lies within a larger one; 0 = all.
        folds: Cross-validation over the patients of splits train and val with this many folds; 0 = none.
        fold: One fold, from 0, or all of them one after the other; folds in one folder have the same options.
        seed: Seed of patients, folds, weights, crops and augmentation; `train.seed` when left out.
        resume: Go on with the run in OUT. Only its length, time limit, workers and intervals may differ.
        dry_run: Check everything, build, do two steps, say how long it would take, write nothing.

    Raises:
        ConfigError: Every mistake in the options.
        CacheError: The cache cannot be used.
        CheckpointError: The encoder file or the checkpoint to resume from cannot be used.
        MedsslError: No room on the disk, or a loss that is no number.
    """
    from medssl.data.cache import Cache
    from medssl.training.finetune_job import assemble
    from medssl.training.finetune_settings import Settings
    from medssl.training.finetuning import run_all
    from medssl.training.loop import launch

    train = train if seed is None else dataclasses.replace(train, seed=seed)
    subset = SubsetOptions(labels, folds, fold, train.seed)
    settings = Settings(task, loss, network, crops, transfer, augment, inference, train, subset, init, label_augment)
    cache = Cache.open(data)
    fabric = launch(train)
    tuning = assemble(settings, cache, fabric)
    run_all(tuning, out, resume=resume, dry_run=dry_run)
