"""Many methods beside the same encoders with random weights: paired differences, and one table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medssl.evaluation.statistics import Interval, t_interval


@dataclass(frozen=True)
class Judged:
    """A method on a set with one seed.

    Args:
        images: Name of the set.
        method: Name of the method.
        family: Its family.
        encoder: Class of the encoder.
        seed: Seed of the pair.
        key: Of all that decides the result.
        probes: Probe to AUROC on split test.
        random: The same of the encoder with random weights.
        hours: Device-hours of the pretraining.
        failed: Why there is no result; empty otherwise.
    """

    images: str
    method: str
    family: str
    encoder: str
    seed: int
    key: str
    probes: dict[str, float]
    random: dict[str, float]
    hours: float
    failed: str = ""


@dataclass(frozen=True)
class Comparison:
    """A method on a set over all seeds.

    Args:
        images: Name of the set.
        method: Name of the method.
        family: Its family.
        encoder: Class of the encoder.
        probes: Probe to the mean AUROC and the mean paired difference to random weights, with its interval.
        minutes: Mean minutes of a pretraining; None where all runs failed.
        failures: Reasons of failed runs.
    """

    images: str
    method: str
    family: str
    encoder: str
    probes: dict[str, tuple[float, Interval]]
    minutes: float | None
    failures: tuple[str, ...]

    @property
    def learns(self) -> bool:
        """Whether the interval of a trained probe (linear, attentive) lies above 0."""
        return any(d.low > 0 for name, (_, d) in self.probes.items() if name != "knn")

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for results.json."""
        probes = {name: {"auroc": m, "difference": d.to_json()} for name, (m, d) in self.probes.items()}
        plain = {name: getattr(self, name) for name in ("images", "method", "family", "encoder", "minutes")}
        return {**plain, "probes": probes, "learns": self.learns, "failures": list(self.failures)}


def compare(rows: Sequence[Judged]) -> list[Comparison]:
    """One comparison a method and set, in the order of first appearance."""
    keys = list(dict.fromkeys((row.images, row.method) for row in rows))
    return [_one([row for row in rows if (row.images, row.method) == key]) for key in keys]


def markdown(comparisons: Sequence[Comparison]) -> str:
    """One table a set: mean AUROC of each probe and, in brackets, the difference to random weights."""
    parts = []
    for images in dict.fromkeys(c.images for c in comparisons):
        rows = [c for c in comparisons if c.images == images]
        probes = list(dict.fromkeys(name for c in rows for name in c.probes))
        head = ["method", "encoder", *probes, "learns", "minutes"]
        lines = [f"### {images}", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        lines += [f"| {' | '.join(_cells(c, probes))} |" for c in rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _one(rows: Sequence[Judged]) -> Comparison:
    done = [row for row in rows if not row.failed]
    names = list(done[0].probes) if done else []
    probes = {
        name: (
            sum(row.probes[name] for row in done) / len(done),
            t_interval([row.probes[name] - row.random[name] for row in done]),
        )
        for name in names
    }
    minutes = 60 * sum(row.hours for row in done) / len(done) if done else None
    first = rows[0]
    failures = tuple(f"seed {row.seed}: {row.failed}" for row in rows if row.failed)
    return Comparison(first.images, first.method, first.family, first.encoder, probes, minutes, failures)


def _cells(c: Comparison, probes: Sequence[str]) -> list[str]:
    cells = [c.method, c.encoder]
    for name in probes:
        if name in c.probes:
            mean, d = c.probes[name]
            cells.append(f"{mean:.3f} ({d.estimate:+.3f}: {d.low:+.3f} to {d.high:+.3f})")
        else:
            cells.append("")
    verdict = "failed" if c.failures and not c.probes else "yes" if c.learns else "not shown"
    return [*cells, verdict, "" if c.minutes is None else f"{c.minutes:.1f}"]
