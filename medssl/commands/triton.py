"""Write a Triton model repository from a bundle; needs no torch."""

from pathlib import Path

from medssl.commands.console import say
from medssl.imaging.errors import ConfigError

POSITIONAL = ("bundle",)


def triton(bundle: Path, out: Path, max_batch: int = 8, instances: int = 1) -> None:
    """Write OUT/MODEL/config.pbtxt and OUT/MODEL/1/model.onnx for `tritonserver --model-repository=OUT`.

    The bundle is verified first. `medssl predict --endpoint URL` then computes there; the bundle is still needed here.

    Args:
        bundle: Bundle folder or .zip made by `medssl export`.
        out: Folder of the repository; other models in it stay.
        max_batch: Windows that the server may compute at once.
        instances: Copies of the network on the server.

    Raises:
        ConfigError: Numbers below 1, or the model is in the repository already.
        BundleError: The bundle must not be used.
    """
    from medssl.runtime.bundle import Bundle
    from medssl.runtime.session import open_session
    from medssl.runtime.triton import model_name, write_repository

    problems = [
        f"{name} = {value}: must be at least 1"
        for name, value in (("max_batch", max_batch), ("instances", instances))
        if value < 1
    ]
    if problems:
        raise ConfigError(problems)
    opened = Bundle.open(bundle)
    if (out / model_name(opened.spec.name)).exists():
        raise ConfigError([f"{out / model_name(opened.spec.name)} exists already: remove it, or choose another --out"])
    open_session(opened)
    folder = write_repository(opened, out, max_batch=max_batch, instances=instances)
    say(f"model repository: {folder}; start tritonserver --model-repository={out}")
