"""An encoder written so that another library's own module loads it and computes the same."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.imaging.errors import ConfigError
from medssl.models.component import Component
from medssl.models.layouts import Layout, Library, layout_of
from medssl.models.networks import rebuild_encoder
from medssl.models.weights import read_encoder, write_weights


@dataclass(frozen=True)
class ForeignEncoder:
    """What was written.

    Args:
        names: Name of each tensor in the run, and that in the file of what holds it.
        added: Tensors of the file that are fixed or absent in the run.
        left: Tensors of the run's file that are no part of the encoder.
        snippet: Python that builds the other module and loads the file.
    """

    names: dict[str, str]
    added: tuple[str, ...]
    left: tuple[str, ...]
    snippet: str


def write_foreign_encoder(run: Path, library: Library, size: Sequence[int], out: Path) -> ForeignEncoder:
    """Write the encoder of a run for another library.

    Args:
        run: Folder of a pretraining run, or its `encoder.safetensors`.
        library: For which.
        size: Voxels of the images that the other module will see; empty = the crops of the run.
        out: File to write, `.safetensors`, with the run's description in its metadata.

    Raises:
        CheckpointError: The run cannot be used.
        ConfigError: The library has no module that computes the same, or the size does not fit.
        MedsslError: No room, or no right to write.
    """
    tensors, meta = read_encoder(_file_of(run))
    described, dims = Component.from_json(meta["encoder"]), int(meta["preprocess"]["spatial_dims"])
    encoder = rebuild_encoder(described, dims, len(meta["channels"]))
    own = {name.removeprefix("encoder."): t for name, t in tensors.items() if name.startswith("encoder.")}
    encoder.load_state_dict(own)
    voxels = tuple(size or meta["provenance"]["crop"])
    if len(voxels) != dims or min(voxels) < 1:
        raise ConfigError([f"size needs {dims} positive numbers, got {list(voxels)}"])
    layout = layout_of(encoder, library, voxels)
    write_weights(out, layout.there(own), _about(meta))
    return ForeignEncoder(
        {ours: " + ".join(theirs) for ours, theirs in layout.names.items()},
        tuple(layout.extra),
        tuple(name for name in tensors if not name.startswith("encoder.")),
        _snippet(layout, library, described, dims, len(meta["channels"]), out),
    )


def _file_of(run: Path) -> Path:
    """The encoder file that is meant.

    Raises:
        ConfigError: The run has several, of images of 2 and of 3 dimensions.
    """
    file = run / "encoder.safetensors"
    several = [] if not run.is_dir() or file.is_file() else sorted(run.glob("encoder_*d.safetensors"))
    if several:
        raise ConfigError([f"{run} has {len(several)} encoders: name one, {' or '.join(map(str, several))}"])
    return file if run.is_dir() else run


def _snippet(layout: Layout, library: Library, encoder: Component, dims: int, channels: int, out: Path) -> str:
    build = layout.build
    if library == "torch":
        module, _, name = encoder.class_path.rpartition(".")
        given = {**encoder.init_args, "spatial_dims": dims, "in_channels": channels}
        arguments = ", ".join(f"{key}={value!r}" for key, value in given.items())
        build = f"from {module} import {name}\nmodule = {name}({arguments})\n"
    return (
        f"from safetensors.torch import load_file\n{build}module.load_state_dict(load_file({str(out)!r}))\n"
        f"module.eval()\n# of an image (B, {channels}, ...) prepared as the file's metadata say:\n# {layout.features}\n"
    )


def _about(meta: dict[str, Any]) -> dict[str, str]:
    """Metadata of the file: safetensors takes text only."""
    return {name: json.dumps(meta[name]) for name in ("encoder", "method", "preprocess", "channels", "provenance")}
