"""Measure training step, data path, views and prediction side by side with peers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medssl.commands.console import say
from medssl.imaging.errors import ConfigError
from medssl.imaging.files import write_json

if TYPE_CHECKING:
    from medssl.commands.benchmarks.comparison import Comparison

POSITIONAL = ("what",)


def bench(
    what: Literal["step", "data", "views", "predict", "all"],
    json: Path | None = None,
    folder: Path | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
) -> None:
    """Run medssl and a peer in turns in one run and print both and their ratio; above 1 is in medssl's favour.

    Ratios mean something on a machine that does nothing else; the numbers themselves belong to this machine.

    Args:
        what: `step` (training step of MAE), `data` (random crops), `views` (two varied views a
            sample), `predict` (sliding window, memory, start-up), `all`.
        json: File for the results: a list of name, unit, ours, peer, peer_name, ratio.
        folder: For `data`: a folder with CT volumes in NIfTI, enlarged for the measurement; generated ones without it.
        device: For `views`: where they are made; the others are measured on the CPU alone.

    Raises:
        ConfigError: The device is not here, or nothing is measured on it.
    """
    if device != "cpu" and what != "views":
        raise ConfigError(
            [f"device is {device}, on which {what} is not measured: medssl bench views --device {device}"]
        )
    found: list[Comparison] = []
    if what in ("step", "all"):
        from medssl.commands.benchmarks import step

        say("bench step: training steps in turns, about a minute")
        found += step.run()
    if what in ("data", "all"):
        from medssl.commands.benchmarks import data

        say("bench data: writes two large volumes three ways, about three minutes and 3 GiB of temporary disk")
        found += data.run(folder)
    if what in ("views", "all"):
        from medssl.commands.benchmarks import views

        say("bench views: two views of 96^3 of each of 8 samples in turns, about a minute")
        found += views.run(device=device)
    if what in ("predict", "all"):
        from medssl.commands.benchmarks import predict

        say("bench predict: inference in processes of its own, in turns, about five minutes")
        found += predict.run()
    say(_table(found))
    if json is not None:
        write_json(json, [comparison.to_json() for comparison in found])
        say(f"results: {json}")


def _table(found: Sequence["Comparison"]) -> str:
    width = max(len(comparison.name) for comparison in found)
    lines = [f"{'':{width}}  {'ours':>10}  {'peer':>10}  ratio"]
    for c in found:
        lines.append(f"{c.name:{width}}  {c.ours:>10.4g}  {c.peer:>10.4g}  {c.ratio:.2f}  {c.unit}, {c.peer_name}")
    return "\n".join(lines)
