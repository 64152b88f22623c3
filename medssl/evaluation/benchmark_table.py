"""Many methods beside the same encoders with random weights: differences with intervals, and one table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from medssl.evaluation.statistics import Interval, welch_interval

NOT_CORRECTED = (
    "Intervals are 95 %, over seeds, and not corrected for the number of methods and probes: of many a few may seem "
    "to learn by chance."
)
"""What every table must say for itself, because it is read alone."""


@dataclass(frozen=True)
class Judged:
    """A method on a set with one seed.

    Args:
        images: Name of the set.
        method: Name of the method.
        family: Its family.
        architecture: The encoder's class and arguments; empty where there is no result.
        seed: Seed of the pretraining.
        key: Of all that decides the result.
        probes: Probe to AUROC on split test.
        hours: Device-hours of the pretraining.
        failed: Why there is no result; empty otherwise.
    """

    images: str
    method: str
    family: str
    architecture: dict[str, Any]
    seed: int
    key: str
    probes: dict[str, float]
    hours: float
    failed: str = ""


@dataclass(frozen=True)
class RandomWeights:
    """What an encoder reaches on a set before any training, with one seed.

    Args:
        images: Name of the set.
        architecture: The encoder's class and arguments.
        seed: Seed of the weights.
        key: Of the set and the architecture.
        probes: Probe to AUROC on split test.
    """

    images: str
    architecture: dict[str, Any]
    seed: int
    key: str
    probes: dict[str, float]


def encoder_name(architecture: Mapping[str, Any]) -> str:
    """Class of an encoder; empty where there is none."""
    return str(architecture.get("class_path", "")).rpartition(".")[2]


@dataclass(frozen=True)
class Comparison:
    """A method on a set over all seeds.

    Args:
        images: Name of the set.
        method: Name of the method.
        family: Its family.
        encoder: Class of the encoder.
        probes: Probe to the mean AUROC, that of random weights (NaN before they are measured) and the difference with
            its interval.
        minutes: Mean minutes of a pretraining; None where all runs failed.
        failures: Reasons of failed runs.
    """

    images: str
    method: str
    family: str
    encoder: str
    probes: dict[str, tuple[float, float, Interval]]
    minutes: float | None
    failures: tuple[str, ...]

    @property
    def learns(self) -> bool:
        """Whether the interval of a trained probe (linear, attentive) lies above 0."""
        return any(d.low > 0 for name, (_, _, d) in self.probes.items() if name != "knn")

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for results.json."""
        probes = {
            name: {"auroc": mean, "random": None if math.isnan(random) else random, "difference": d.to_json()}
            for name, (mean, random, d) in self.probes.items()
        }
        plain = {name: getattr(self, name) for name in ("images", "method", "family", "encoder", "minutes")}
        return {**plain, "probes": probes, "learns": self.learns, "failures": list(self.failures)}


def compare(rows: Sequence[Judged], random: Sequence[RandomWeights]) -> list[Comparison]:
    """One comparison a method and set, in the order of first appearance.

    Args:
        rows: Results of all methods.
        random: Results of all their encoders with random weights.
    """
    keys = list(dict.fromkeys((row.images, row.method) for row in rows))
    return [_one([row for row in rows if (row.images, row.method) == key], random) for key in keys]


def markdown(comparisons: Sequence[Comparison]) -> str:
    """One table a set: mean AUROC of each probe and, in brackets, the difference to random weights; then what it is."""
    parts = []
    for images in dict.fromkeys(c.images for c in comparisons):
        rows = [c for c in comparisons if c.images == images]
        probes = list(dict.fromkeys(name for c in rows for name in c.probes))
        head = ["method", "encoder", *probes, "learns", "minutes"]
        lines = [f"### {images}", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        lines += [f"| {' | '.join(_cells(c, probes))} |" for c in rows]
        parts.append("\n".join([*lines, "", NOT_CORRECTED]))
    return "\n\n".join(parts) + "\n"


def _one(rows: Sequence[Judged], random: Sequence[RandomWeights]) -> Comparison:
    done = [row for row in rows if not row.failed]
    first = next(iter(done), rows[0])
    beside = [r for r in random if (r.images, r.architecture) == (first.images, first.architecture)]
    probes = {}
    for name in first.probes:
        own, other = [row.probes[name] for row in done], [r.probes[name] for r in beside]
        probes[name] = (fmean(own), fmean(other) if other else math.nan, welch_interval(own, other))
    minutes = 60 * sum(row.hours for row in done) / len(done) if done else None
    failures = tuple(f"seed {row.seed}: {row.failed}" for row in rows if row.failed)
    return Comparison(
        first.images, first.method, first.family, encoder_name(first.architecture), probes, minutes, failures
    )


def _cells(c: Comparison, probes: Sequence[str]) -> list[str]:
    cells = [c.method, c.encoder]
    for name in probes:
        if name in c.probes:
            mean, _, d = c.probes[name]
            cells.append(f"{mean:.3f} ({d.estimate:+.3f}: {d.low:+.3f} to {d.high:+.3f})")
        else:
            cells.append("")
    verdict = "failed" if c.failures and not c.probes else "yes" if c.learns else "not shown"
    return [*cells, verdict, "" if c.minutes is None else f"{c.minutes:.1f}"]
