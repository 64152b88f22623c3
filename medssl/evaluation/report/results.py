"""Sections that show the content of results.json: one arm in detail, arms against each other, parts of the cases."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.evaluation.provenance import made_with
from medssl.evaluation.report.figures import case_figure, confusion_figure, interval_figure, reliability_figure
from medssl.evaluation.report.page import Picture, Section, Table, figure_picture
from medssl.evaluation.subgroups import FEW, FEW_OF_A_CLASS
from medssl.imaging.files import records_text, write_json, write_text

SCHEMA_VERSION = 2
"""Of results.json; results.schema.json describes it. Version 1 had no `environment`, and no `task` in studies."""

_WORDS = {"mL": "Volumes in mL", "mm2": "Areas in mm²", "pixels": "Areas in pixels"}
_COUNTS = {
    "both empty": "both_empty",
    "missed": "missed",
    "invented": "invented",
    "without a distance": "distance_not_defined",
}


def head(task: str, runs: Sequence[Path] = ()) -> dict[str, Any]:
    """First entries of results.json.

    Args:
        task: What was asked; it names the rest of the schema.
        runs: Folders of the training runs that are judged.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "notice": "Not a medical device: for research only.",
        "task": task,
        "environment": made_with(runs),
    }


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write FOLDER/results.json, and FOLDER/results.csv with a line for every number that has an interval."""
    write_json(folder / "results.json", results)
    write_text(folder / "results.csv", records_text(interval_rows(results)))


def interval_rows(content: Any, name: str = "") -> list[dict[str, Any]]:
    """Every interval of a nested content: `number`, the names that lead to it with dots between, and its entries."""
    if isinstance(content, Mapping):
        if {"estimate", "low", "high"} <= content.keys():
            return [{"number": name, **content}]
        named = [(str(key), value) for key, value in content.items()]
    elif isinstance(content, list):
        named = [(_group(value) or str(n), value) for n, value in enumerate(content)]
    else:
        return []
    return [row for key, value in named for row in interval_rows(value, f"{name}.{key}" if name else key)]


def _group(value: Any) -> str:
    """What a part of the cases is called; empty for other entries."""
    return str(value["group"]) if isinstance(value, Mapping) and "group" in value else ""


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
    unit = length_unit(results)
    agreement = Table(
        ("class", "Dice", f"HD95 {unit}", f"surface Dice {results['tolerance_mm']:g} {unit}", "not counted"),
        tuple((name, *_agreement_cells(content)) for name, content in arm["classes"].items()),
        "Means over cases with 95 % intervals over patients.",
    )
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
        (agreement, sizes),
        _case_pictures(results, cases),
        notes=tuple(results["conventions"]),
    )


def length_unit(results: Mapping[str, Any]) -> str:
    """Unit of the distances of a segmentation."""
    return "mm" if results["calibrated"] else "pixels"


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
        (f"{own} − {other}", label, interval_text(interval, signed=True), *tested_cells(interval, test))
        for other, found in results["differences"].items()
        for tests in (results["tests"][other],)
        for label, interval, test in (
            ("all classes", found["mean_dice"], tests["mean_dice"]),
            *((label, interval, tests["classes"][label]) for label, interval in found["classes"].items()),
        )
    ]
    if lines:
        caption = (
            "Paired differences of these runs over the same cases, with 95 % intervals over patients. Not corrected "
            "for the number of classes and arms: of many, some differ by chance."
        )
        tables.append(Table(("difference", "class", "Dice", "p", "says"), tuple(lines), caption))
    return Section(title, tuple(text), tuple(tables), pictures)


def classification_section(results: Mapping[str, Any], title: str = "Classification") -> Section:
    """Numbers with intervals, a line a class, and the confusion table."""
    numbers = Table(
        ("metric", "estimate and 95 % interval"),
        tuple((_named(name), interval_text(interval)) for name, interval in results["metrics"].items()),
    )
    tables = [numbers]
    if results["classes"]:
        columns = tuple(next(iter(results["classes"].values())))
        rows = tuple((name, *(interval_text(c[k]) for k in columns)) for name, c in results["classes"].items())
        tables.append(Table(("one class against the rest", *(_named(k) for k in columns)), rows))
    names = results["class_names"]
    confusion = tuple((name, *(str(n) for n in row)) for name, row in zip(names, results["confusion"], strict=True))
    caption = "Confusion: cases of each reference class (row) by what was predicted (column)."
    tables.append(Table(("reference \\ prediction", *names), confusion, caption))
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
    return Section(title, (counted,), tuple(tables), pictures, notes=tuple(results["conventions"]))


def class_comparison_section(results: Mapping[str, Any], title: str = "Comparison") -> Section:
    """Every metric of the evaluated classifier beside the others', and the paired differences.

    Args:
        results: Content of results.json: `others`, and `differences` of the evaluated model minus each other one.
        title: Heading.
    """
    own, metrics = results["arm"], results["metrics"]
    arms = {own: metrics, **{name: found["metrics"] for name, found in results["others"].items()}}
    table = Table(
        ("metric", *arms),
        tuple((_named(name), *(interval_text(found[name]) for found in arms.values())) for name in metrics),
    )
    lines = tuple(
        (
            f"{own} − {other}",
            _named(name),
            interval_text(interval, signed=True),
            *tested_cells(interval, results["tests"][other][name]),
        )
        for other, found in results["differences"].items()
        for name, interval in found.items()
    )
    caption = (
        "Paired over the same cases, with 95 % intervals over patients. Less is better for calibration error and "
        "Brier. Not corrected for the number of metrics and models: of many, some differ by chance."
    )
    differences = Table(("difference", "metric", "value", "p", "says"), lines, caption)
    rows = [(_named(name), arm, found[name]) for name in ("auroc", "balanced_accuracy") for arm, found in arms.items()]
    picture = figure_picture(
        interval_figure(rows, "value"), "AUROC and balanced accuracy with 95 % intervals over patients."
    )
    return Section(title, tables=(table, differences), pictures=(picture,))


def tested_cells(difference: Mapping[str, Any], test: Mapping[str, Any]) -> tuple[str, str]:
    """The p-value of a difference, and what it says."""
    if difference["low"] is None or difference["high"] is None:
        return p_text(test["p_value"]), "nothing without an interval"
    return p_text(test["p_value"]), str(test["verdict"])


def labelled_patients(number: int) -> str:
    """So many labelled patients, in words."""
    return f"{number} labelled patient{'' if number == 1 else 's'}"


def p_text(value: float | None) -> str:
    """A p-value; a dash where there is none."""
    return "–" if value is None else f"{value:.3f}" if value >= 0.001 else "below 0.001"


def subgroup_section(subgroups: Mapping[str, Any], length: str = "mm", title: str = "Parts of the cases") -> Section:
    """A table an attribute (site, sex, age, scanner), and another for its classes: a row a part, the smallest marked.

    Args:
        subgroups: Attribute to its parts.
        length: Unit of distances.
        title: Heading.
    """
    if not subgroups:
        text = "Site, sex, age and scanner are not told by the manifest, or are the same for all cases."
        return Section(title, (text,))
    tables = []
    few = f"A star: fewer than {FEW} patients, or {FEW_OF_A_CLASS} of a class, too few to say much."
    for attribute, parts in subgroups.items():
        names = list(parts[0]["metrics"])
        smallest = min(part["patients"] for part in parts)
        tables.append(
            Table(
                (attribute, "patients", "cases", *(_named(name) for name in names)),
                tuple(_part_row(part, names) for part in parts),
                f"By {attribute}; the smallest part has {smallest} patient(s). {few}",
            )
        )
        if "classes" in parts[0]:
            tables.append(_class_parts(attribute, parts, length, few))
    return Section(title, tables=tuple(tables))


def _class_parts(attribute: str, parts: Sequence[Mapping[str, Any]], length: str, few: str) -> Table:
    """A row a class and part, with the patients of the part in whom the class counts."""
    rows, people = [], []
    for name in parts[0]["classes"]:
        for part in parts:
            found = part["classes"][name]
            people.append(found["dice"]["clusters"])
            group = f"{part['group']} *" if people[-1] < FEW else part["group"]
            rows.append((name, group, str(people[-1]), *_agreement_cells(found)))
    header = ("class", attribute, "patients with it", "Dice", f"HD95 {length}", "surface Dice", "not counted")
    caption = f"Every class by {attribute}; the fewest patients in whom one counts are {min(people)}. {few}"
    return Table(header, tuple(rows), caption)


def _named(name: str) -> str:
    """A metric in words."""
    return {"auroc": "AUROC", "brier": "Brier score"}.get(name, name.replace("_", " "))


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


def each_text(values: Sequence[float | None]) -> str:
    """Numbers of several encoders; empty for one, whose number stands beside it."""
    return ", ".join("–" if value is None else f"{value:.3f}" for value in values) if len(values) > 1 else ""


def size_text(size: float, sign: str = "") -> str:
    """A volume or area with three digits that count, and never with an exponent; `sign` is `+` to show it always."""
    digits = 2 - math.floor(math.log10(abs(size))) if size else 0
    return f"{size:{sign}.{min(max(digits, 0), 6)}f}"


def _agreement_cells(content: Mapping[str, Any]) -> list[str]:
    measured = [interval_text(content[key]) for key in ("dice", "hd95_mm", "nsd")]
    counts = [f"{content[key]} {name}" for name, key in _COUNTS.items() if content[key]]
    return [*measured, ", ".join(counts) or "–"]


def _size_cells(content: Mapping[str, Any]) -> list[str]:
    difference = content["size_difference"]
    limits = difference["limits_of_agreement"]
    within = f"{size_text(limits[0], '+')} to {size_text(limits[1], '+')}" if limits else "–"
    return [size_text(content["mean_reference_size"]), interval_text(difference["bias"], signed=True), within]


def _case_pictures(results: Mapping[str, Any], cases: Sequence[Mapping[str, str]]) -> tuple[Picture, ...]:
    own = [row for row in cases if row["arm"] == results["arm"]]
    if not own:
        return ()
    groups: dict[str, list[float]] = {}
    for row in own:
        groups.setdefault(row["class"], []).append(float(row["dice"]) if row["dice"] else math.nan)
    caption = "Dice of every case; the line is the median."
    return (figure_picture(case_figure(groups, "Dice"), caption),)
