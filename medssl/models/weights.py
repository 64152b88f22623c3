"""Encoder files: safetensors with a JSON beside it, loaded with a report and never in silence."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medssl.imaging.errors import CheckpointError, MedsslError
from medssl.imaging.files import atomic_path, sha256, write_json
from medssl.models.component import Component
from medssl.models.foreign_weights import is_foreign, read_foreign

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor of a file.

    Args:
        loaded: Taken as they are.
        adapted: Fitted to another number of input channels, with how.
        skipped: In the file, not in the network.
        fresh: In the network, not in the file: they keep their random start.
        notes: Why features differ from those of the network that the file is of, though all is loaded.
    """

    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    skipped: tuple[str, ...]
    fresh: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        for name in ("adapted", "skipped", "fresh"):
            values = getattr(self, name)
            if values:
                parts.append(f"{len(values)} {name} ({', '.join(values[:4])}{', ...' if len(values) > 4 else ''})")
        return "; ".join(parts)

    def to_json(self) -> dict[str, list[str]]:
        """Plain dictionary for run.json."""
        return {name: list(getattr(self, name)) for name in ("loaded", "adapted", "skipped", "fresh", "notes")}


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors from wherever they are as safetensors; the file before stays until this one is safe.

    Raises:
        MedsslError: No room, or no right to write.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        with atomic_path(path) as temporary:
            save_file(plain, temporary, metadata=None if metadata is None else dict(metadata))
    except (OSError, SafetensorError) as error:  # safetensors tells of a full disk with an error of its own
        free = shutil.disk_usage(path.parent).free / 2**20 if path.parent.exists() else 0.0
        raise MedsslError(
            f"the weights {path} could not be written ({error}; {free:.0f} MiB free): make room, then "
            "call the command again, a run with --resume",
            reason="weights-write",
        ) from error


def save_encoder(
    path: Path, encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor] | None, meta: Mapping[str, Any]
) -> None:
    """Write `encoder.safetensors` and, with its hash, `encoder.json`.

    Args:
        path: Ends in `.safetensors`; the JSON lies beside it.
        encoder: Weights that load strictly into the plain encoder.
        decoder: Weights of the decoder where the method trained one that fine-tuning can use.
        meta: Architecture, preprocessing, channels, method and provenance.
    """
    tensors = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    tensors |= {f"decoder.{name}": tensor for name, tensor in (decoder or {}).items()}
    write_weights(path, tensors)
    write_json(path.with_suffix(".json"), {"schema_version": SCHEMA_VERSION, "sha256": sha256(path), **meta})


def read_encoder(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of an encoder file.

    Raises:
        CheckpointError: Missing, cut, edited, or written by a newer version.
    """
    beside = path.with_suffix(".json")
    for file in (path, beside):
        if not file.is_file():
            raise CheckpointError(
                f"{file} does not exist: an encoder is a .safetensors file with its .json", reason="no-encoder"
            )
    try:
        meta = json.loads(beside.read_text(encoding="utf-8"))
        version, digest = int(meta["schema_version"]), str(meta["sha256"])
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{beside} is damaged ({error}): copy it again", reason="bad-encoder") from error
    if version > SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} has version {version}, this medssl reads up to {SCHEMA_VERSION}: update medssl",
            reason="newer-version",
        )
    if sha256(path) != digest:
        raise CheckpointError(
            f"{path} was cut or edited: its hash is not the one in {beside.name}", reason="hash-mismatch"
        )
    try:
        Component.from_json(meta["encoder"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{beside} does not describe an encoder ({error!r})", reason="bad-encoder") from error
    try:
        return load_file(path), meta
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error})", reason="bad-encoder") from error


def load_encoder(network: nn.Module, path: Path, decoder: bool = True) -> LoadReport:
    """Load an encoder file into `network.encoder`, and its decoder where names and shapes agree.

    A file of MONAI, timm or nnU-Net (nnssl) is taken as well: what has no place here is skipped, and told.

    Args:
        network: Module with `encoder` and `decoder`.
        path: `encoder.safetensors`, or another library's checkpoint.
        decoder: Take over a decoder as well; otherwise those in the file are skipped.

    Raises:
        CheckpointError: The file cannot be used, or an encoder tensor that should load did not.
    """
    loaded, adapted, skipped = {}, {}, []
    notes: tuple[str, ...] = ()
    lacking: set[str] = set()
    advice = "use the architecture it was pretrained with (encoder.json beside it)"
    if is_foreign(path):
        found = read_foreign(path, cast(nn.Module, network.encoder))
        tensors = {f"encoder.{name}": tensor for name, tensor in found.tensors.items()}
        channels, skipped = found.channels, [f"{found.library}: {name}" for name in found.unused]
        notes, lacking = found.notes, {f"encoder.{name}" for name in found.fresh}
        advice = (
            "name the encoder with the numbers that the file was made with; hidden layers of a ViT are 4 x its width"
        )
    else:
        tensors, meta = read_encoder(path)
        channels = len(meta.get("channels", ()))
    wanted, state = int(getattr(network.encoder, "in_channels", 0)), network.state_dict()
    for name, tensor in tensors.items():
        if name not in state or (name.startswith("decoder.") and not decoder):
            skipped.append(name)
        elif tensor.shape == state[name].shape:
            loaded[name] = tensor
        elif name.startswith("encoder.") and (
            (fitted := _other_channels(tensor, state[name], channels, wanted)) is not None
        ):
            adapted[name] = fitted
        else:
            skipped.append(f"{name} {tuple(tensor.shape)} != {tuple(state[name].shape)}")
    fresh = tuple(name for name in state if name not in loaded and name not in adapted)
    lost = [name for name in (*skipped, *fresh) if name.startswith("encoder.") and name not in lacking]
    if lost:
        raise CheckpointError(
            f"{path} does not fit this encoder: {len(lost)} tensor(s) found no place, first {lost[0]}; {advice}",
            reason="encoder-mismatch",
        )
    network.load_state_dict({**loaded, **adapted}, strict=False)
    return LoadReport(tuple(loaded), tuple(adapted), tuple(skipped), fresh, notes)


def _other_channels(tensor: Tensor, wanted: Tensor, before: int, after: int) -> Tensor | None:
    """First layer for `after` instead of `before` input channels; None where that is not what differs.

    Each new channel gets the mean of the old ones, scaled by `before / after`: an image repeated over all channels then
    has the response it had.
    """
    if before < 1 or after < 1 or before == after or tensor.ndim != wanted.ndim:
        return None
    if tensor.ndim > 2:  # a convolution: (E, C, *kernel)
        fits = tensor.shape[1] == before and wanted.shape == (tensor.shape[0], after, *tensor.shape[2:])
        return (tensor.mean(1, keepdim=True) * before / after).expand(wanted.shape).contiguous() if fits else None
    voxels = tensor.shape[-1] // before
    if tensor.ndim != 2 or wanted.shape != (tensor.shape[0], voxels * after) or tensor.shape[1] % before:
        return None
    mean = tensor.reshape(-1, voxels, before).mean(-1, keepdim=True)  # patches have their channels last
    return (mean * before / after).expand(-1, -1, after).reshape(wanted.shape).contiguous()


def freeze(module: nn.Module, frozen: bool) -> None:
    """Stop or resume training of all parameters of a module."""
    for parameter in module.parameters():
        parameter.requires_grad_(not frozen)


def hold_statistics(module: nn.Module, held: bool) -> None:
    """Let norms with running statistics (batch norm) use those they have, or the batch's and move; for training.

    Args:
        module: In training mode; the other layers stay in it.
        held: Whether the statistics are part of what does not move.
    """
    for layer in module.modules():
        if getattr(layer, "running_mean", None) is not None:
            layer.train(not held)
