"""Tables of the protocol for a bundle that classifies."""

from collections.abc import Sequence

from medssl.runtime.bundle import BundleSpec
from medssl.runtime.performance.measured import CaseMeasure
from medssl.runtime.performance.proportion import Proportion
from medssl.runtime.performance.summary import confusion, of_classes
from medssl.runtime.performance.tables import remarks, table

CLASS_NOTES = (
    "Sensitivity: images of the class that are called so; specificity: images of other classes that are not. Of two "
    "classes the one that the operating point calls is asked (without one, the second), of more each against the rest.",
    "Intervals are exact (Clopper and Pearson).",
)


def class_tables(measured: Sequence[CaseMeasure], spec: BundleSpec) -> list[str]:
    """Confusion table, sensitivity and specificity."""
    rows = [(name, *map(str, line)) for name, line in zip(spec.classes, confusion(measured, spec), strict=True)]
    numbers = [
        (one.name, _told(one.sensitivity, "no image of it"), _told(one.specificity, "no image of another class"))
        for one in of_classes(measured, spec)
    ]
    return [
        *table(("reference", *(f"called {name}" for name in spec.classes)), rows),
        "",
        *table(("class", "sensitivity", "specificity"), numbers),
        "",
        _rule(spec),
        "",
    ]


def _told(found: Proportion, none: str) -> str:
    return f"not measured: {none}" if found.share is None else str(found)


def _rule(spec: BundleSpec) -> str:
    point = spec.operating_point
    if not point:
        return "The bundle has no operating point: the most probable class is called."
    known = [f"a {name} of {point[name]:.1%}" for name in ("sensitivity", "specificity") if name in point]
    rule = f"Operating point: {point['class']} is called from a probability of {point['threshold']:.4g} on"
    if not known:
        return f"{rule}."
    return f"{rule}; its maker measured {' and '.join(known)} on {point.get('measured_on', 'its own cases')}."


def class_cases(measured: Sequence[CaseMeasure]) -> list[str]:
    """One line an image, with room for who looked at it."""
    header = ("case", "patient", "reference", "called", "right", "probability", "flags", "seen by")
    rows = []
    for case in measured:
        right = "yes" if case.called == case.row.class_name else "**no**"
        share = f"{case.probabilities[case.called]:.3f}"
        found = (case.row.case, case.row.patient, case.row.class_name, case.called, right, share, remarks(case), "")
        rows.append(found)
    return table(header, rows)
