"""Checkpoints of a run: whole or not there, checked when read, never a pickle of code."""

import hashlib
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medssl.imaging.errors import CheckpointError, MedsslError
from medssl.imaging.files import atomic_path

SCHEMA_VERSION = 1


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write nested dictionaries and lists of tensors and plain values; the file before it stays until this one is safe.

    Raises:
        MedsslError: No room, or no right to write; a checkpoint before it is untouched.
    """
    whole = {"schema_version": SCHEMA_VERSION, "medssl": version("medssl"), **content}
    whole["digest"] = _digest(whole)
    try:
        with atomic_path(path) as temporary:
            torch.save(whole, temporary)
    except (OSError, RuntimeError) as error:  # torch tells of a full disk with a RuntimeError
        free = shutil.disk_usage(path.parent).free / 2**20 if path.parent.exists() else 0.0
        there = "the one before it is whole" if path.exists() else "it was the first one, so the run begins anew"
        raise MedsslError(
            f"the checkpoint {path} could not be written ({error}; {free:.0f} MiB free): {there}; make room, then go "
            "on with --resume",
            reason="checkpoint-write",
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        CheckpointError: Missing, cut, edited, or made by a newer version.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}", reason="checkpoint-missing")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, unpickling and CRC errors of torch have no common class
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read ({first}): it was cut or edited; go back to a copy, or start a new run",
            reason="checkpoint-damaged",
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("schema_version"), int):
        raise CheckpointError(f"{path} is no checkpoint of medssl", reason="checkpoint-foreign")
    if content["schema_version"] > SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} was made by medssl {content.get('medssl')} with checkpoint schema {content['schema_version']}, "
            f"this version reads up to {SCHEMA_VERSION}: update medssl",
            reason="newer-version",
        )
    if content.pop("digest", None) != _digest(content):
        raise CheckpointError(
            f"{path} does not have the content it was written with: it was edited; go back to a copy, or start anew",
            reason="checkpoint-edited",
        )
    return content


def require_space(folder: Path, needed: int) -> None:
    """Refuse to start where checkpoints will not fit.

    Args:
        folder: Folder to write to; it need not exist yet.
        needed: Bytes.

    Raises:
        MedsslError: Too little room on the disk of `folder`.
    """
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise MedsslError(
            f"{folder}: the run needs about {needed / 2**20:.0f} MiB for checkpoints and the disk has "
            f"{free / 2**20:.0f} MiB free: make room or choose another --out",
            reason="disk-space",
        )


def _digest(content: Any) -> str:
    digest = hashlib.sha256()
    _feed(digest, content)
    return digest.hexdigest()


def _feed(digest: Any, content: Any) -> None:
    if isinstance(content, Mapping):
        for key in sorted(content, key=repr):
            digest.update(repr(key).encode())
            _feed(digest, content[key])
    elif isinstance(content, list | tuple):
        digest.update(f"[{len(content)}]".encode())
        for item in content:
            _feed(digest, item)
    elif isinstance(content, Tensor):
        flat = content.detach().to("cpu").contiguous().reshape(-1)
        digest.update(f"{content.dtype}{tuple(content.shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    else:
        digest.update(repr(content).encode())
