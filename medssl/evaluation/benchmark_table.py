"""Many methods beside the same encoders with random weights: differences with intervals, and one table."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from medssl.evaluation.rankings import LEVEL, holm
from medssl.evaluation.statistics import Interval, welch_interval, welch_p_value

READ_SO = (
    "Intervals are 95 %, over seeds, each for itself: of many a few leave 0 out by chance.",
    "A star: p is below 0.05 also after Holm's correction over all methods and probes of the set.",
    "Learns: the interval of a trained probe (linear, attentive) lies above 0, and that of kNN as well where the "
    "method is contrastive or another that makes embeddings alike.",
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
        val: Probe to AUROC on split val, by which options of a method may be chosen; empty in rows that had none yet.
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
    val: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RandomWeights:
    """What an encoder reaches on a set before any training, with one seed.

    Args:
        images: Name of the set.
        architecture: The encoder's class and arguments.
        seed: Seed of the weights.
        key: Of the set and the architecture.
        probes: Probe to AUROC on split test.
        val: Probe to AUROC on split val; empty in rows that had none yet.
    """

    images: str
    architecture: dict[str, Any]
    seed: int
    key: str
    probes: dict[str, float]
    val: dict[str, float] = field(default_factory=dict)


def encoder_name(architecture: Mapping[str, Any]) -> str:
    """Class of an encoder; empty where there is none."""
    return str(architecture.get("class_path", "")).rpartition(".")[2]


@dataclass(frozen=True)
class Difference:
    """What a probe finds in a method's features, beside random weights.

    Args:
        auroc: Mean AUROC on split test.
        random: The same of random weights; NaN before they are measured.
        interval: The first minus the second.
        p_value: Of that, by the same statistics; NaN where the interval has no ends.
        p_value_corrected: The same after Holm's correction over all methods and probes of the set.
    """

    auroc: float
    random: float
    interval: Interval
    p_value: float
    p_value_corrected: float = math.nan

    def above(self, corrected: bool = False) -> bool:
        """Whether the interval lies above 0, and with `corrected` the corrected p below 0.05 as well."""
        return self.interval.low > 0 and (not corrected or self.p_value_corrected < LEVEL)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary; NaN as None."""
        numbers = {name: getattr(self, name) for name in ("random", "p_value", "p_value_corrected")}
        plain = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return {"auroc": self.auroc, "difference": self.interval.to_json(), **plain}


@dataclass(frozen=True)
class Comparison:
    """A method on a set over all seeds.

    Args:
        images: Name of the set.
        method: Name of the method.
        family: Its family.
        encoder: Class of the encoder.
        joint_embedding: Whether nearest neighbours must show what it learned, beside a trained probe.
        probes: Probe to what it finds.
        minutes: Mean minutes of a pretraining; None where all runs failed.
        failures: Reasons of failed runs.
    """

    images: str
    method: str
    family: str
    encoder: str
    joint_embedding: bool
    probes: dict[str, Difference]
    minutes: float | None
    failures: tuple[str, ...]

    def learns(self, corrected: bool = False) -> bool:
        """Whether a trained probe (linear, attentive) is above random weights, and kNN too where it must be.

        Args:
            corrected: By corrected p-values as well.
        """
        return self._trained(corrected) and (self._neighbours(corrected) or not self.joint_embedding)

    @property
    def verdict(self) -> str:
        """The same in words, with what of it is not shown."""
        if not self.probes:
            return "failed"
        if self.learns():
            return "yes"
        if not self.joint_embedding or self._trained() == self._neighbours():
            return "not shown"
        return "yes, kNN not shown" if self._trained() else "kNN alone"

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for results.json."""
        names = ("images", "method", "family", "encoder", "joint_embedding", "minutes", "verdict")
        plain = {name: getattr(self, name) for name in names}
        probes = {name: found.to_json() for name, found in self.probes.items()}
        learns = {"learns": self.learns(), "learns_corrected": self.learns(corrected=True)}
        return {**plain, **learns, "probes": probes, "failures": list(self.failures)}

    def _trained(self, corrected: bool = False) -> bool:
        return any(found.above(corrected) for name, found in self.probes.items() if name != "knn")

    def _neighbours(self, corrected: bool = False) -> bool:
        return "knn" in self.probes and self.probes["knn"].above(corrected)


def compare(
    rows: Sequence[Judged], random: Sequence[RandomWeights], joint_embedding: Collection[str]
) -> list[Comparison]:
    """One comparison a method and set, in the order of first appearance.

    Args:
        rows: Results of all methods.
        random: Results of all their encoders with random weights.
        joint_embedding: Names of the methods that nearest neighbours must show to learn, beside a trained probe.
    """
    keys = list(dict.fromkeys((row.images, row.method) for row in rows))
    found = [
        _one([row for row in rows if (row.images, row.method) == key], random, key[1] in joint_embedding)
        for key in keys
    ]
    corrected = {name: _corrected([c for c in found if c.images == name]) for name, _ in keys}
    return [replace(c, probes=corrected[c.images][c.method]) for c in found]


def markdown(comparisons: Sequence[Comparison]) -> str:
    """One table a set: mean AUROC of each probe and, in brackets, the difference to random weights; then what it is."""
    parts = []
    for images in dict.fromkeys(c.images for c in comparisons):
        rows = [c for c in comparisons if c.images == images]
        probes = list(dict.fromkeys(name for c in rows for name in c.probes))
        head = ["method", "encoder", *probes, "learns", "minutes"]
        lines = [f"### {images}", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        lines += [f"| {' | '.join(_cells(c, probes))} |" for c in rows]
        parts.append("\n".join([*lines, "", " ".join(READ_SO)]))
    return "\n\n".join(parts) + "\n"


def _one(rows: Sequence[Judged], random: Sequence[RandomWeights], joint_embedding: bool) -> Comparison:
    done = [row for row in rows if not row.failed]
    first = next(iter(done), rows[0])
    beside = [r for r in random if (r.images, r.architecture) == (first.images, first.architecture)]
    probes = {}
    for name in first.probes:
        own, other = [row.probes[name] for row in done], [r.probes[name] for r in beside]
        mean = fmean(other) if other else math.nan
        probes[name] = Difference(fmean(own), mean, welch_interval(own, other), welch_p_value(own, other))
    minutes = 60 * sum(row.hours for row in done) / len(done) if done else None
    failures = tuple(f"seed {row.seed}: {row.failed}" for row in rows if row.failed)
    encoder = encoder_name(first.architecture)
    return Comparison(first.images, first.method, first.family, encoder, joint_embedding, probes, minutes, failures)


def _corrected(of_set: Sequence[Comparison]) -> dict[str, dict[str, Difference]]:
    """Method to its probes, p-values corrected over all of both."""
    p_values = iter(holm([d.p_value for c in of_set for d in c.probes.values()]))
    return {
        c.method: {name: replace(d, p_value_corrected=next(p_values)) for name, d in c.probes.items()} for c in of_set
    }


def _cells(c: Comparison, probes: Sequence[str]) -> list[str]:
    cells = [c.method, c.encoder]
    for name in probes:
        if name in c.probes:
            found = c.probes[name]
            d, star = found.interval, " *" if found.p_value_corrected < LEVEL else ""
            ends = "" if math.isnan(d.low) else f": {d.low:+.3f} to {d.high:+.3f}"
            cells.append(f"{found.auroc:.3f} ({d.estimate:+.3f}{ends}){star}")
        else:
            cells.append("")
    verdict = f"{c.verdict} *" if c.learns(corrected=True) else c.verdict
    return [*cells, verdict, "" if c.minutes is None else f"{c.minutes:.1f}"]
