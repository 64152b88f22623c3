"""Say what this installation can do, and what is missing."""

import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from medssl.commands.console import say
from medssl.imaging.errors import MedsslError, how_to_install

POSITIONAL: tuple[str, ...] = ()

_BASE = ("medssl", "numpy", "nibabel", "pydicom", "highdicom", "pillow", "tifffile")
_TRAIN = ("torch", "lightning", "monai", "scipy", "scikit-learn", "blosc2", "safetensors", "onnx", "onnxscript")
_DECODERS = {
    "RLE": "pydicom",
    "JPEG baseline, extended and lossless": "python-gdcm",
    "JPEG-LS": "pyjpegls",
    "JPEG 2000 and HTJ2K": "pylibjpeg-openjpeg",
}
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")


def doctor() -> None:
    """Print versions, decoders, accelerators, threads and disk space; ends with an error where something is broken.

    Raises:
        MedsslError: A package of the base install is missing, or two builds of onnxruntime are installed at once.
    """
    problems: list[str] = []
    say(f"medssl {version('medssl')}, Python {sys.version.split()[0]}, {platform.platform()}")
    installed = [name for name in _RUNTIMES if _version(name) is not None]
    say("base install: " + ", ".join(_found(name, problems) for name in (*_BASE, *(installed or _RUNTIMES[:1]))))
    missing = [name for name in _TRAIN if _version(name) is None]
    say(
        "training: " + ", ".join(f"{name} {_version(name)}" for name in _TRAIN)
        if not missing
        else f"training: not installed (missing {', '.join(missing)}): {how_to_install('train')}"
    )
    for syntax, package in _DECODERS.items():
        say(f"decoder for {syntax}: {_found(package, problems)}")
    if len(installed) > 1:
        problems.append(f"{' and '.join(installed)} overwrite one another: uninstall all of them, then install one")
    if installed:
        from medssl.runtime.ort import onnxruntime
        from medssl.runtime.session import usable_threads

        say(f"ONNX Runtime providers: {', '.join(onnxruntime.get_available_providers())}")
        say(f"threads: {usable_threads()}")
    _say_gpu(missing)
    for place in (Path.cwd(), Path(tempfile.gettempdir())):
        say(f"free disk space at {place}: {shutil.disk_usage(place).free / 2**30:.1f} GiB")
    say("Not a medical device: for research only.")
    if problems:
        raise MedsslError("; ".join(problems), reason="installation")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _found(name: str, problems: list[str]) -> str:
    found = _version(name)
    if found is None:
        problems.append(f"{name} is missing: pip install {name}")
    return f"{name} {found or 'MISSING'}"


def _say_gpu(missing: list[str]) -> None:
    """Torch is asked in a way that does not import it: its import takes seconds."""
    if "torch" in missing:
        return
    driver = shutil.which("nvidia-smi")
    build = "CUDA" if find_spec("nvidia") is not None else "CPU"
    say(f"GPU: {'driver found' if driver else 'no NVIDIA driver found'}; torch {_version('torch')} ({build} build)")
