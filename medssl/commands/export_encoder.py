"""Write a pretrained encoder for another library."""

from pathlib import Path
from typing import Literal

from medssl.commands.console import say
from medssl.imaging.errors import ConfigError

POSITIONAL: tuple[str, ...] = ("run",)


def export_encoder(
    run: Path, to: Literal["monai", "timm", "nnunet", "torch"], out: Path, size: tuple[int, ...] = ()
) -> None:
    """Write the encoder of a pretraining run so that MONAI, timm or nnU-Net load it into a module of their own.

    Only where that module computes the same numbers; otherwise it is refused with the reason. Says which tensor became
    which, and the Python that loads the file. Images must be prepared as in the run: the file's metadata say how.

    Args:
        run: Folder of a pretraining run, or its encoder.safetensors.
        to: Library: `torch` is this package's own module without the rest of the run.
        out: File to write, .safetensors.
        size: Voxels of the images that the module will see, for those that keep positions; by default the run's crops.

    Raises:
        ConfigError: The library has no such module, a size that does not fit, or a file that is there.
        CheckpointError: The run cannot be used.
    """
    from medssl.export.foreign_encoder import write_foreign_encoder

    problems = [f"out {out} must end in .safetensors"] if out.suffix != ".safetensors" else []
    problems += [f"out {out} is there already: choose another name"] if out.exists() else []
    if problems:
        raise ConfigError(problems)
    written = write_foreign_encoder(run, to, size, out)
    for ours, theirs in written.names.items():
        say(f"  {ours} -> {theirs}")
    parts = [f"{len(written.names)} tensors written"]
    parts += [f"{len(written.added)} added that are fixed here ({_some(written.added)})"] if written.added else []
    parts += [f"{len(written.left)} left out: no part of the encoder ({_some(written.left)})"] if written.left else []
    say("; ".join(parts))
    say(f"\n{written.snippet}")


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
