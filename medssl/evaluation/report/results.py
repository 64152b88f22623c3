"""Sections that show the content of results.json: one arm in detail, and arms against each other."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medssl.evaluation.report.figures import case_figure, confusion_figure, interval_figure, reliability_figure
from medssl.evaluation.report.page import Picture, Section, Table, figure_picture

_WORDS = {"mL": "Volumes in mL", "mm2": "Areas in mm²", "pixels": "Areas in pixels"}
_COUNTS = {
    "both empty": "both_empty",
    "missed": "missed",
    "invented": "invented",
    "without a distance": "distance_not_defined",
}


def segmentation_section(
    results: Mapping[str, Any], cases: Sequence[Mapping[str, str]] = (), title: str = "Agreement with the reference"
) -> Section:
    """Every class of the evaluated model, with intervals and counts.

    Args:
        results: Content of results.json.
        cases: Lines of cases.csv, for a figure of all cases.
        title: Heading.
    """
    arm = results["arms"][results["arm"]]
    agreement = Table(
        ("class", "Dice", "HD95 mm", f"surface Dice {results['tolerance_mm']:g} mm", "not counted"),
        tuple((name, *_agreement_cells(content)) for name, content in arm["classes"].items()),
        "Means over cases with 95 % intervals over patients.",
    )
    groups = subgroup_tables(arm["subgroups"])
    sizes = Table(
        ("class", "mean reference", "mean difference", "limits of agreement"),
        tuple((name, *_size_cells(content)) for name, content in arm["classes"].items()),
        f"{_WORDS[arm['size_unit']]}: prediction minus reference; 95 % of cases are expected within the limits.",
    )
    mean = interval_text(arm["mean_dice"])
    text = (f"{arm['cases']} cases of {arm['patients']} patients, split {results['split']}. Mean Dice {mean}.",)
    return Section(
        title,
        text,
        (agreement, sizes, *groups),
        _case_pictures(results, cases),
        tuple(results["warnings"]),
        tuple(results["conventions"]),
    )


def comparison_section(results: Mapping[str, Any], title: str = "Comparison", text: Sequence[str] = ()) -> Section:
    """Mean Dice of every arm side by side, and the paired differences to the evaluated model.

    Args:
        results: Content of results.json: `arms`, and `differences` of the evaluated arm minus each other one.
        title: Heading.
        text: Paragraphs before the tables.
    """
    arms, own = results["arms"], results["arm"]
    rows = [("all classes", name, arm["mean_dice"]) for name, arm in arms.items()]
    rows += [
        (label, name, arm["classes"][label]["dice"]) for label in arms[own]["classes"] for name, arm in arms.items()
    ]
    table = Table(("class", "arm", "Dice"), tuple((group, name, interval_text(i)) for group, name, i in rows))
    pictures = (figure_picture(interval_figure(rows, "Dice"), "Mean Dice with 95 % intervals over patients."),)
    tables = [table]
    lines = [
        (f"{own} − {other}", label, interval_text(interval, signed=True))
        for other, found in results["differences"].items()
        for label, interval in (("all classes", found["mean_dice"]), *found["classes"].items())
    ]
    if lines:
        caption = (
            "Paired differences over the same cases; an interval that excludes 0 shows a difference for these runs."
        )
        tables.append(Table(("difference", "class", "Dice"), tuple(lines), caption))
    return Section(title, tuple(text), tuple(tables), pictures)


def classification_section(results: Mapping[str, Any], title: str = "Classification") -> Section:
    """Numbers with intervals, a line a class, and the confusion table."""
    numbers = Table(
        ("", "estimate and 95 % interval"),
        tuple((name.replace("_", " "), interval_text(interval)) for name, interval in results["metrics"].items()),
    )
    tables = [numbers]
    if results["classes"]:
        columns = tuple(next(iter(results["classes"].values())))
        rows = tuple((name, *(interval_text(c[k]) for k in columns)) for name, c in results["classes"].items())
        tables.append(Table(("one class against the rest", *(k.replace("_", " ") for k in columns)), rows))
    names = results["class_names"]
    confusion = tuple((name, *(str(n) for n in row)) for name, row in zip(names, results["confusion"], strict=True))
    tables.append(Table(("reference \\ prediction", *names), confusion))
    tables += subgroup_tables(results["subgroups"])
    pictures = (
        figure_picture(
            confusion_figure(results["confusion"], names), "Confusion table: share of each reference class, and cases."
        ),
        figure_picture(
            reliability_figure(results["reliability"]),
            "Calibration: how often the answer is right, against how sure the model is; on the line both agree. The "
            "larger a dot, the more cases.",
        ),
    )
    counted = f"{results['cases']} cases of {results['patients']} patients, split {results['split']}."
    notes, warnings = tuple(results["conventions"]), tuple(results["warnings"])
    return Section(title, (counted,), tuple(tables), pictures, warnings=warnings, notes=notes)


def subgroup_tables(subgroups: Mapping[str, Any]) -> tuple[Table, ...]:
    """One table an attribute: a row a part of the cases, the smallest parts marked."""
    tables = []
    for attribute, parts in subgroups.items():
        names = list(parts[0]["metrics"])
        smallest = min(part["patients"] for part in parts)
        tables.append(
            Table(
                (attribute, "patients", "cases", *(name.replace("_", " ") for name in names)),
                tuple(_part_row(part, names) for part in parts),
                f"By {attribute}; the smallest part has {smallest} patient(s). A star: too few to say much.",
            )
        )
    return tuple(tables)


def _part_row(part: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    group = f"{part['group']} *" if part["few"] else str(part["group"])
    return (group, str(part["patients"]), str(part["cases"]), *(interval_text(part["metrics"][n]) for n in names))


def interval_text(interval: Mapping[str, Any], signed: bool = False) -> str:
    """`0.871 (0.850 to 0.889)`, to be broken before the bracket only; a dash where there is nothing."""
    if interval["estimate"] is None:
        return "–"
    style = "+.3f" if signed else ".3f"
    shown = f"{interval['estimate']:{style}}"
    if interval["low"] is None or interval["high"] is None:
        return shown
    return f"{shown} ({interval['low']:{style}}\u00a0to\u00a0{interval['high']:{style}})"


def _agreement_cells(content: Mapping[str, Any]) -> list[str]:
    measured = [interval_text(content[key]) for key in ("dice", "hd95_mm", "nsd")]
    counts = [f"{content[key]} {name}" for name, key in _COUNTS.items() if content[key]]
    return [*measured, ", ".join(counts) or "–"]


def _size_cells(content: Mapping[str, Any]) -> list[str]:
    difference = content["size_difference"]
    limits = difference["limits_of_agreement"]
    within = f"{limits[0]:+.3g} to {limits[1]:+.3g}" if limits else "–"
    return [f"{content['mean_reference_size']:.3g}", interval_text(difference["bias"], signed=True), within]


def _case_pictures(results: Mapping[str, Any], cases: Sequence[Mapping[str, str]]) -> tuple[Picture, ...]:
    own = [row for row in cases if row["arm"] == results["arm"]]
    if not own:
        return ()
    groups: dict[str, list[float]] = {}
    for row in own:
        groups.setdefault(row["class"], []).append(float(row["dice"]) if row["dice"] else math.nan)
    caption = "Dice of every case; the line is the median."
    return (figure_picture(case_figure(groups, "Dice"), caption),)
