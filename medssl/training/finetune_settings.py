"""What the user asked a fine-tuning to be, and every mistake in it, told at once before any image is read."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from medssl.data.augment_options import AugmentOptions
from medssl.data.cache import Cache
from medssl.imaging.errors import CheckpointError, ConfigError
from medssl.models.component import Component, unlike_arguments
from medssl.models.foreign_weights import is_foreign
from medssl.models.networks import NetworkSpec, build_network, output_strides
from medssl.models.weights import read_encoder
from medssl.tasks.options import (
    LOSSES,
    CropOptions,
    InferenceOptions,
    LabelAugmentOptions,
    NetworkOptions,
    SubsetOptions,
    TransferOptions,
)
from medssl.training.components import check_component
from medssl.training.options import TrainOptions

_FACTS = ("spatial_dims", "in_channels", "image_size")


@dataclass(frozen=True)
class Settings:
    """What the user asked for; see the groups for the meaning of their options.

    Args:
        task: What the network learns.
        loss: One of the task's losses.
        network: Encoder, and decoder or head.
        crops: Crops of the training, window of inference.
        transfer: How pretrained weights are used.
        augment: How crops are varied.
        inference: How whole images are predicted.
        train: Length, optimiser, house-keeping.
        subset: Patients and folds.
        init: Encoder file, or None to begin from random weights.
        label_augment: Whether class and transformation are learned together.
    """

    task: Literal["segmentation", "classification"]
    loss: str
    network: NetworkOptions
    crops: CropOptions
    transfer: TransferOptions
    augment: AugmentOptions
    inference: InferenceOptions
    train: TrainOptions
    subset: SubsetOptions
    init: Path | None = None
    label_augment: LabelAugmentOptions = field(default_factory=LabelAugmentOptions)

    @property
    def decoder(self) -> Component:
        """The decoder or head named, or the usual one of the task."""
        usual = "UNetDecoder" if self.task == "segmentation" else "ClassificationHead"
        return self.network.decoder or Component(f"medssl.models.decoders.{usual}")

    def problems(self) -> Iterator[str]:
        """Every mistake that can be seen without looking at the data, one sentence each."""
        if self.init is not None and not self.init.is_file():
            yield f"init {self.init} does not exist: give the encoder.safetensors of a pretraining run"
        yield from self.option_problems()

    def option_problems(self) -> Iterator[str]:
        """Mistakes in the options alone: the file to start from may be made yet."""
        if self.loss not in LOSSES[self.task]:
            yield f"loss {self.loss} is none of {self.task}: {', '.join(LOSSES[self.task])}"
        if self.network.encoder is None and self.init is None:
            yield "network.encoder is missing: name one, or give --init FILE to use the pretrained one"
        elif self.network.encoder is not None:
            yield from check_component("network.encoder", self.network.encoder, _FACTS)
        yield from check_component("network.decoder", self.decoder, ("encoder", "out_channels"))
        if self.init is None and (self.transfer.frozen_steps or self.transfer.encoder_lr == 0):
            yield "transfer freezes the encoder, but there is no --init: random weights would stay random"
        if self.init is None and self.transfer.thaw_steps:
            yield "transfer.thaw_steps spares pretrained weights at first, but there is no --init"
        if self.init is None and self.transfer.adapt != "full":
            yield f"transfer.adapt {self.transfer.adapt} changes pretrained weights a little, but there is no --init"
        if extra := set(self.inference.mirror_axes) - set(self.augment.flip_axes):
            yield (
                f"inference.mirror_axes has {sorted(extra)}, which augment.flip_axes {list(self.augment.flip_axes)} "
                "lacks: the network never saw such images; add them there or leave them out here"
            )
        if any(axis >= len(self.crops.size) for axis in self.augment.flip_axes):
            yield f"augment.flip_axes {list(self.augment.flip_axes)} names an axis that crops of {self.crops.size} lack"
        yield from self._unused()
        if self.label_augment.transforms != "none":
            yield from self._label_problems()

    def _unused(self) -> Iterator[str]:
        """Options that do nothing beside others."""
        usual, transfer = InferenceOptions(), self.transfer
        if self.task == "classification":
            for name in ("overlap", "batch_size"):
                if getattr(self.inference, name) != getattr(usual, name):
                    yield f"inference.{name} is for segmentation: a classifier sees windows side by side, one at a time"
        if transfer.adapt != "lora" and transfer.lora != TransferOptions().lora:
            yield f"transfer.lora is for transfer.adapt lora, not {transfer.adapt}"
        if transfer.encoder_lr == 0 and self.train.layer_decay != 1:
            yield "train.layer_decay is for an encoder that learns, transfer.encoder_lr is 0"
        if transfer.frozen_steps >= self.train.steps and transfer.encoder_lr != 0:
            yield (
                f"transfer.frozen_steps {transfer.frozen_steps} of {self.train.steps} steps: the encoder would never "
                "learn; give transfer.encoder_lr 0 if that is meant"
            )
        asked = self.label_augment
        if asked.transforms == "none" and asked != LabelAugmentOptions():
            yield "label_augment.axes and temperature are for label_augment.transforms, which is none"

    def _label_problems(self) -> Iterator[str]:
        """What speaks against learning class and transformation together."""
        asked, flips = self.label_augment, set(self.augment.flip_axes)
        name = f"label_augment.transforms {asked.transforms}"
        if self.task != "classification" or self.loss != "ce":
            yield f"{name} is for task classification with loss ce, not for {self.task} with {self.loss}"
        if max(asked.axes) >= len(self.crops.size):
            yield f"label_augment.axes {list(asked.axes)} names an axis that crops of {self.crops.size} lack"
        elif asked.transforms == "quarter_turns" and len({self.crops.size[axis] for axis in asked.axes}) > 1:
            yield f"{name} needs crops with equal sides along axes {list(asked.axes)}, got {self.crops.size}"
        hidden = flips & set(asked.axes) if asked.transforms == "mirror" else flips >= set(asked.axes)
        if hidden:
            yield (
                f"{name} along axes {list(asked.axes)} cannot be told apart from augment.flip_axes "
                f"{list(self.augment.flip_axes)}: leave these out"
            )
        # mirroring along two axes is a half turn, along one no turn at all
        limits = {"quarter_turns": 45, "half_turns": 90, "mirror": 90 if len(asked.axes) > 1 else 181}
        limit = limits[asked.transforms]
        if self.augment.affine_p and self.augment.rotation_deg >= limit:
            yield (
                f"{name} cannot be told apart from augment.rotation_deg {self.augment.rotation_deg:g}: choose less "
                f"than {limit}"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for run.json."""
        groups = ("network", "crops", "transfer", "augment", "inference", "train")
        return {
            "task": self.task,
            "loss": self.loss,
            **{name: getattr(self, name).to_json() for name in groups},
            "labels": self.subset.labels,
            "folds": self.subset.folds,
            "init": None if self.init is None else str(self.init.resolve()),
            **({} if self.label_augment.count == 1 else {"label_augment": self.label_augment.to_json()}),
        }


def network_spec(settings: Settings, cache: Cache) -> NetworkSpec:
    """What the network is made of, given the data; refuses everything that does not fit together.

    Raises:
        ConfigError: All mistakes at once.
    """
    problems = list(data_problems(settings, cache))
    if problems:
        raise ConfigError(problems)
    found = settings.network.encoder or Component.from_json(read_encoder(cast(Path, settings.init))[1]["encoder"])
    arguments = {name: value for name, value in found.init_args.items() if name not in ("spatial_dims", "in_channels")}
    spec = NetworkSpec(
        task=settings.task,
        spatial_dims=cache.spatial_dims,
        in_channels=len(cache.channels),
        out_channels=1 + max(label.value for label in cache.labels)
        if settings.task == "segmentation"
        else len(cache.classes),
        encoder=Component(found.class_path, arguments),
        decoder=settings.decoder,
    )
    _check_divisible(spec, settings.crops.size, trusted_only=settings.network.encoder is None)
    return spec


def data_problems(settings: Settings, cache: Cache) -> Iterator[str]:
    """What of the options, or of the encoder file, does not fit the data; needs no sound network."""
    dims, channels = cache.spatial_dims, len(cache.channels)
    if len(settings.crops.size) != dims:
        yield f"crops.size {settings.crops.size} needs {dims} numbers: {cache.path} is {dims}D"
    if settings.task == "segmentation" and not cache.labels:
        yield f"data {cache.path} has no label classes: give them to medssl prepare, or use --task classification"
    if settings.task == "classification" and len(cache.classes) < 2:
        yield (
            f"data {cache.path} has {len(cache.classes)} image classes, 2 are needed: fill the manifest's column class"
        )
    if settings.init is None or not settings.init.is_file():
        return
    if is_foreign(settings.init):
        if settings.network.encoder is None:
            yield f"init {settings.init} does not say what it is: name network.encoder with its numbers"
        return
    try:
        _, meta = read_encoder(settings.init)
    except CheckpointError as error:
        yield error.message
    else:
        yield from _misfits(meta, settings, dims, channels)


def _misfits(meta: dict[str, Any], settings: Settings, dims: int, channels: int) -> Iterator[str]:
    """What speaks against the encoder file before its weights are looked at."""
    encoder = Component.from_json(meta["encoder"])
    own = encoder.init_args.get("spatial_dims", dims)
    if own != dims:
        yield f"init {settings.init} was pretrained on {own}D images, the data is {dims}D: pretrain on {dims}D images"
    then = meta.get("channels", [])
    if "patch_size" in encoder.init_args and then and len(then) != channels:
        yield (
            f"init {settings.init} was pretrained on {len(then)} channel(s) ({', '.join(then)}) and the data has "
            f"{channels}: the patch embedding of a transformer cannot be fitted to them; pretrain on such images"
        )
    chosen = settings.network.encoder
    if chosen is not None and chosen.class_path != encoder.class_path:
        yield (
            f"network.encoder {chosen.class_path} is not what init {settings.init} holds ({encoder.class_path}): "
            "leave network.encoder out, or take a config for that encoder"
        )
    for difference in unlike_arguments(encoder, chosen) if chosen is not None else ():
        yield f"init {settings.init} {difference}, or leave network.encoder out"


def _check_divisible(spec: NetworkSpec, size: tuple[int, ...], trusted_only: bool) -> None:
    strides = output_strides(build_network(spec, trusted_only=trusted_only).encoder)
    if any(n % s for n, s in zip(size, strides, strict=True)):
        below = tuple(max(n // s, 1) * s for n, s in zip(size, strides, strict=True))
        above = tuple(-(-n // s) * s for n, s in zip(size, strides, strict=True))
        raise ConfigError(
            [f"crops.size {size} must divide by the encoder's strides {strides}: use {below} or {above}, for instance"]
        )
    if size == strides:
        raise ConfigError(
            [f"crops.size {size} leaves one voxel at the encoder's coarsest level, nothing to normalise: double it"]
        )


def transfer_notes(settings: Settings, cache: Cache) -> list[str]:
    """Differences between the pretraining's images and these that do not forbid the transfer but may spoil it."""
    if settings.init is None:
        return []
    if is_foreign(settings.init):
        return ["the file to start from does not say how its images were prepared: these must have been prepared alike"]
    _, meta = read_encoder(settings.init)
    then = meta.get("preprocess")
    differences = cache.preprocess.differences(then) if then else {}
    notes = [
        f"preprocessing differs from the pretraining's: {name} was {before}, is {after}"
        for name, (before, after) in differences.items()
    ]
    if meta.get("channels") and list(meta["channels"]) != list(cache.channels):
        notes.append(f"channels were {', '.join(meta['channels'])}, are {', '.join(cache.channels)}")
    return notes
