"""Tables of the protocol for a bundle that segments."""

from collections.abc import Sequence
from statistics import mean

from medssl.runtime.bundle import BundleSpec
from medssl.runtime.performance.measured import CaseMeasure, Structure
from medssl.runtime.performance.summary import StructureSummary, of_structures
from medssl.runtime.performance.tables import remarks, table

STRUCTURE_NOTES = (
    "Masks are compared on the grid of the original image; a reference on another grid, or with a value that the "
    "bundle does not know, makes its case unusable.",
    "Dice where mask and reference are both empty is not defined: the image says nothing about the structure, is in no "
    "median, and is counted (`both-empty`). Where one alone is empty Dice is 0 (`missed`, `invented`).",
    "Voxels whose reference has the bundle's `ignore_label` count on neither side, in volumes and intervals neither.",
    "Inside: the reference volume lies in the interval that the bundle gives for the measured one. A patient counts as "
    "inside when all images do. The interval behind a share is exact (Clopper and Pearson).",
    "Median and smallest Dice are over images. Sizes: mean difference with the limits of agreement (Bland and Altman).",
)


def structure_tables(measured: Sequence[CaseMeasure], spec: BundleSpec) -> list[str]:
    """One line a structure."""
    promised = spec.intervals.get("coverage")
    told = f"promised: {promised:.0%}" if promised else "the bundle has no intervals: its model card says why"
    inside = f"patients with every volume in its interval ({told})"
    header = ("structure", "images", "median Dice", "smallest Dice", "measured minus reference", inside)
    rows = [_summary(one, promised) for one in of_structures(measured, spec)]
    return [*table(header, rows), ""]


def _summary(one: StructureSummary, promised: float | None) -> tuple[str, ...]:
    images = ", ".join(f"{count} {state}" for state, count in sorted(one.states.items()))
    middle = one.median_dice
    least = f"{one.dices[0][0]:.3f} ({one.dices[0][1]})" if one.dices else "not defined"
    inside = "-" if one.inside is None else str(one.inside)
    if one.inside is not None and promised and one.inside.interval()[1] < promised:
        inside += ": **fewer than promised**"
    return one.name, images, "not defined" if middle is None else f"{middle:.3f}", least, _difference(one), inside


def _difference(one: StructureSummary) -> str:
    if not one.differences:
        return "sizes not known"
    if one.limits is None:
        return f"{one.differences[0]:+.4g} {one.unit}"
    low, high = one.limits
    return f"{mean(one.differences):+.4g} {one.unit} ({low:+.4g} to {high:+.4g})"


def structure_cases(measured: Sequence[CaseMeasure]) -> list[str]:
    """One line an image and structure, with room for who looked at it."""
    header = (
        "case",
        "patient",
        "structure",
        "measured",
        "reference",
        "Dice",
        "inside its interval",
        "flags",
        "seen by",
    )
    rows = [
        (case.row.case, case.row.patient, name, *_sizes(one), _dice(one), _inside(one), remarks(case), "")
        for case in measured
        for name, one in case.structures.items()
    ]
    return table(header, rows)


def _sizes(one: Structure) -> tuple[str, str]:
    if one.measured is None or one.reference is None:
        return f"{one.overlap.found} voxels", f"{one.overlap.reference} voxels"
    return f"{one.measured:.4g} {one.unit}", f"{one.reference:.4g} {one.unit}"


def _dice(one: Structure) -> str:
    state = one.overlap.state
    if one.overlap.dice is None:
        return f"not defined ({state})"
    return f"{one.overlap.dice:.3f}" + ("" if state == "scored" else f" ({state})")


def _inside(one: Structure) -> str:
    if one.interval is None:
        return "-"
    low, high = one.interval
    return f"{'yes' if one.inside else '**no**'} ({low:.4g} to {high:.4g} mL)"
