"""A site's cases in few numbers: by structure or by class, with exact intervals, and beside what was demanded."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev
from typing import Any

from medssl.runtime.bundle import BundleSpec
from medssl.runtime.performance.measured import CaseMeasure
from medssl.runtime.performance.proportion import Proportion
from medssl.runtime.performance.run import Performance


@dataclass(frozen=True)
class StructureSummary:
    """One structure over all images.

    Args:
        name: Its name.
        states: How many images are `scored`, `missed`, `invented` or `both-empty`.
        dices: Dice of each image in which the mask or the reference holds it, with the case's name, smallest first.
        inside: Patients whose reference volumes all lie in the intervals; None where there are no intervals.
        differences: Measured minus reference size of each image that tells its size, in `unit`.
        unit: `mL`, or `mm2` in 2D.
    """

    name: str
    states: Mapping[str, int]
    dices: Sequence[tuple[float, str]]
    inside: Proportion | None
    differences: Sequence[float]
    unit: str

    @property
    def limits(self) -> tuple[float, float] | None:
        """Limits of agreement of the sizes, mean -+ 1.96 standard deviations (Bland and Altman, Lancet 1986)."""
        if len(self.differences) < 2:
            return None
        middle, half = mean(self.differences), 1.96 * stdev(self.differences)
        return middle - half, middle + half

    @property
    def median_dice(self) -> float | None:
        """Over images; None where none defines it."""
        return median(dice for dice, _ in self.dices) if self.dices else None

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        least = {"min_dice": self.dices[0][0], "min_dice_case": self.dices[0][1]} if self.dices else {}
        return {
            "structure": self.name,
            "images": dict(self.states),
            "median_dice": self.median_dice,
            **least,
            "patients_inside": self.inside and self.inside.to_json(),
            f"mean_difference_{self.unit.lower()}": mean(self.differences) if self.differences else None,
            "limits_of_agreement": self.limits and list(self.limits),
        }


@dataclass(frozen=True)
class ClassSummary:
    """One class against the rest.

    Args:
        name: Its name.
        sensitivity: Images of the class that were called so.
        specificity: Images of other classes that were not.
    """

    name: str
    sensitivity: Proportion
    specificity: Proportion

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        told = {"sensitivity": self.sensitivity.to_json(), "specificity": self.specificity.to_json()}
        return {"class": self.name, **told}


def of_structures(measured: Sequence[CaseMeasure], spec: BundleSpec) -> list[StructureSummary]:
    """Each structure of a segmentation."""
    return [_structure(measured, label.name) for label in spec.labels]


def _structure(measured: Sequence[CaseMeasure], name: str) -> StructureSummary:
    found = [(case.row, case.structures[name]) for case in measured]
    dices = [(one.overlap.dice, row.case) for row, one in found]
    inside: dict[str, bool] = {}
    for row, one in found:
        if one.inside is not None:
            inside[row.patient] = inside.get(row.patient, True) and one.inside
    return StructureSummary(
        name,
        Counter(one.overlap.state for _, one in found),
        sorted((dice, case) for dice, case in dices if dice is not None),
        Proportion(sum(inside.values()), len(inside)) if inside else None,
        [one.measured - one.reference for _, one in found if one.measured is not None and one.reference is not None],
        found[0][1].unit if found else "",
    )


def of_classes(measured: Sequence[CaseMeasure], spec: BundleSpec) -> list[ClassSummary]:
    """Of two classes the one that the operating point calls, or the second; of more every one."""
    positive = spec.operating_point.get("class", spec.classes[1]) if len(spec.classes) == 2 else None
    return [_class(measured, name) for name in ([positive] if positive else spec.classes)]


def _class(measured: Sequence[CaseMeasure], name: str) -> ClassSummary:
    own = [case.called == name for case in measured if case.row.class_name == name]
    others = [case.called != name for case in measured if case.row.class_name != name]
    return ClassSummary(name, Proportion(sum(own), len(own)), Proportion(sum(others), len(others)))


def confusion(measured: Sequence[CaseMeasure], spec: BundleSpec) -> list[list[int]]:
    """Images by reference class (rows) and class called (columns), in the order of the bundle's classes."""
    counts = Counter((case.row.class_name, case.called) for case in measured)
    return [[counts[true, called] for called in spec.classes] for true in spec.classes]


def flagged(measured: Sequence[CaseMeasure]) -> Proportion:
    """Images with a reason not to use their result."""
    return Proportion(sum(bool(case.flags) for case in measured), len(measured))


def to_json(performance: Performance) -> dict[str, Any]:
    """All numbers as a plain dictionary."""
    spec, measured = performance.spec, performance.measured
    if spec.task == "classification":
        table = {"classes": list(spec.classes), "table": confusion(measured, spec)}
        numbers: dict[str, Any] = {
            "classes": [one.to_json() for one in of_classes(measured, spec)],
            "confusion": table,
            "operating_point": spec.operating_point,
        }
    else:
        promised = spec.intervals.get("coverage")
        structures = [one.to_json() for one in of_structures(measured, spec)]
        numbers = {"structures": structures, "promised_coverage": promised}
    return {
        "manifest": performance.site.file.name,
        "manifest_sha256": performance.site.sha256,
        "patients": performance.patients,
        "flagged": flagged(measured).to_json(),
        **numbers,
        "cases": [case.to_json() for case in measured],
        "unusable": [case.to_json() for case in performance.unusable],
    }
