"""Judge a frozen encoder, or one with random weights, on a set."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medssl.evaluation.features import Features, calibrate, extract
from medssl.evaluation.probe_data import ProbeData
from medssl.evaluation.probes import attentive_probe, knn_probe, linear_probe
from medssl.imaging.errors import MedsslError
from medssl.models.component import Component
from medssl.models.encoder import Encoder
from medssl.models.networks import rebuild_encoder
from medssl.models.weights import read_encoder

PROBES = {"knn": knn_probe, "linear": linear_probe, "attentive": attentive_probe}


def pretrained_encoder(path: Path, spatial_dims: int, channels: Sequence[str]) -> Encoder:
    """The encoder of an encoder file, its weights loaded strictly.

    Raises:
        CheckpointError: The file cannot be used.
        ConfigError: It holds another architecture than it says.
    """
    tensors, meta = read_encoder(path)
    encoder = random_encoder(Component.from_json(meta["encoder"]), spatial_dims, channels, seed=0)
    encoder.load_state_dict(
        {name.removeprefix("encoder."): tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    )
    return encoder


def encoder_problems(path: Path, meta: dict[str, Any], dims: int, channels: Sequence[str], where: str) -> list[str]:
    """Why an encoder cannot see these images, a sentence each.

    Args:
        path: Encoder file.
        meta: Its description.
        dims: Dimension of the images as they are shown.
        channels: Their channels.
        where: What they are, for the message.
    """
    problems = []
    own = meta["encoder"]["init_args"].get("spatial_dims", dims)
    if own != dims:
        problems.append(f"{path} is an encoder of {own}D images, {where} has {dims}D ones")
    known = meta.get("channels", [])
    if known and len(known) != len(channels):
        problems.append(f"{path} takes {len(known)} channel(s), {where} has {len(channels)}")
    return problems


def slice_axis(chosen: int | None, meta: dict[str, Any]) -> int:
    """The axis that counts the slices of volumes: the one chosen, else that of the pretraining, else the last."""
    return int(meta.get("provenance", {}).get("slice_axis", 2)) if chosen is None else chosen


def random_encoder(component: Component, spatial_dims: int, channels: Sequence[str], seed: int) -> Encoder:
    """An encoder as it is before any training.

    Raises:
        ConfigError: Unknown class or arguments.
    """
    torch.manual_seed(seed)
    return rebuild_encoder(component, spatial_dims, len(channels))


def frozen_features(encoder: Encoder, data: ProbeData, blocks: Sequence[int] = ()) -> Features:
    """Features of an encoder whose batch norm has met the training images.

    Args:
        encoder: Its batch norm's statistics change.
        data: What is probed.
        blocks: As in `extract`.

    Raises:
        MedsslError: Features that are no numbers.
    """
    calibrate(encoder, data.images, data.images_in("train"))
    features = extract(encoder, data.images, data.bags, blocks)
    refuse_nan(features.pooled.values())
    return features


def refuse_nan(values: Iterable[Tensor]) -> None:
    """Refuse features that are no numbers.

    Raises:
        MedsslError: Some are not finite.
    """
    if not all(torch.isfinite(part).all() for part in values):
        raise MedsslError(
            "the encoder's features of some images are no numbers (NaN): its training broke, or these images were "
            "prepared otherwise",
            reason="nan",
        )


def judge(encoder: Encoder, data: ProbeData, draws: Sequence[Tensor]) -> dict[str, dict[str, Any]]:
    """Every probe on the frozen features: options chosen on val, and the mean AUROC on val and test."""
    features = frozen_features(encoder, data)
    return {name: probe(features, data, draws).to_json() for name, probe in PROBES.items()}
