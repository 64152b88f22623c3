"""What an evaluation found, in words: first for everybody, then for a clinician, a reviewer and an engineer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medssl.evaluation.rankings import LEVEL, NOT_SHOWN, told_tested
from medssl.evaluation.report.page import Section
from medssl.evaluation.report.results import interval_text, length_unit, p_text, size_text

CLINICIAN, REVIEWER, ENGINEER = "For a clinician", "For a reviewer", "For an engineer"
_UNITS = {"mL": "mL", "mm2": "mm²", "pixels": "pixels"}
_ELSEWHERE = (
    "Nothing is said about other hospitals, scanners and patients than these. Nothing here was tested for use in care."
)


def segmentation_summary(results: Mapping[str, Any]) -> Section:
    """Of a model that outlines structures.

    Args:
        results: Content of results.json.
    """
    name, own = results["arm"], results["arms"][results["arm"]]
    lead = (
        f"{name} outlined {_listed(list(own['classes']))} in {_counted(own)}, split {results['split']}. The overlap "
        f"with the reference is a mean Dice of {interval_text(own['mean_dice'])}: 1 is the same mask, 0 no overlap.",
        *(
            _difference_words(name, other, found["mean_dice"], "Dice", results["tests"][other]["mean_dice"])
            + trained_once((name, other), results.get("networks", {}))
            for other, found in results["differences"].items()
        ),
    )
    words = tuple(
        _structure_words(label, found, _UNITS[own["size_unit"]], length_unit(results))
        for label, found in own["classes"].items()
    )
    failed = len(results["failures"])
    tried = (
        "Every prepared case was evaluated."
        if not failed
        else f"{failed} case(s) could not be evaluated; see Failures."
    )
    parts = (
        (CLINICIAN, (*words, "Look at the worst case below before you trust the mean.", _ELSEWHERE)),
        (REVIEWER, (tried, *_common(results, own, "BCa"))),
        (ENGINEER, (f"A case takes {own['seconds_per_case']:.2g} s (median, {_machine(results)}).", *_FILES)),
    )
    return Section("Summary", lead, warnings=tuple(results["warnings"]), parts=parts)


def classification_summary(results: Mapping[str, Any]) -> Section:
    """Of a model that tells classes of whole images apart.

    Args:
        results: Content of results.json.
    """
    auroc, names = results["metrics"]["auroc"], results["class_names"]
    lead = [f"{results['arm']} told {_listed(names)} apart in {_counted(results)}, split {results['split']}."]
    if auroc["estimate"] is not None:
        pairs = f"{100 * auroc['estimate']:.0f} of 100"
        lead.append(
            f"AUROC {interval_text(auroc)}: of two images of different classes it ranks the right one higher in "
            f"{pairs} pairs; 50 would be chance."
        )
    if auroc["low"] is not None and auroc["low"] <= 0.5 <= auroc["high"]:
        lead.append("The interval holds 0.5: that it does better than chance is not shown.")
    if auroc["high"] is not None and auroc["high"] < 0.5:
        lead.append("The interval lies below 0.5: it does worse than chance. Look for labels or classes mixed up.")
    lead += [
        _difference_words(results["arm"], other, found["auroc"], "AUROC", results["tests"][other]["auroc"])
        + trained_once((results["arm"], other), results.get("networks", {}))
        for other, found in results.get("differences", {}).items()
    ]
    words = [_class_words(k, names, results["confusion"]) for k in range(len(names))]
    off = results["metrics"]["calibration_error"]["estimate"]
    if off is not None:
        words.append(
            f"How sure it is and how often it is right differ by {100 * off:.0f} percentage points on average."
        )
    parts = (
        (CLINICIAN, (*words, "Look at its surest mistakes, listed below.", _ELSEWHERE)),
        (REVIEWER, _common(results, results, "percentile")),
        (ENGINEER, (f"Measured on {_machine(results)}.", *_FILES)),
    )
    return Section("Summary", tuple(lead), warnings=tuple(results["warnings"]), parts=parts)


_FILES = (
    "results.json holds every number, results.csv every number that has an interval, cases.csv a line for each case. "
    "The commands are at the end of this page.",
)


def smallest_part(subgroups: Mapping[str, Any]) -> str:
    """How small the smallest part of the cases is, in a sentence."""
    parts = [(part["patients"], name, part["group"]) for name, found in subgroups.items() for part in found]
    if not parts:
        return "Parts: site, sex, age and scanner are not told, or are the same for all cases; nothing can be compared."
    patients, name, group = min(parts)
    return f"The smallest part of the cases is {name} {group} with {patients} patient(s)."


def _common(results: Mapping[str, Any], arm: Mapping[str, Any], how: str) -> tuple[str, ...]:
    return (
        f"Intervals: 95 %, {how} bootstrap over {arm['patients']} patients; all cases of a patient are drawn together.",
        smallest_part(arm["subgroups"]),
        f"Data {results['data_sha256'][:12]}, manifest {results['manifest_sha256'][:12]} (SHA-256).",
    )


def _counted(arm: Mapping[str, Any]) -> str:
    return f"{arm['cases']} image(s) of {arm['patients']} patient(s)"


def _listed(names: Sequence[str]) -> str:
    shown = [name.replace("_", " ") for name in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _machine(results: Mapping[str, Any]) -> str:
    made = results["environment"]
    return ", ".join(made["gpus"]) or f"{made['processor']}, {made['cpus']} processor(s)"


def _difference_words(name: str, other: str, interval: Mapping[str, Any], metric: str, test: Mapping[str, Any]) -> str:
    shown = interval_text(interval, signed=True)
    if interval["low"] is None:
        return f"Compared with {other}: {shown} in {metric}; without an interval nothing can be said."
    words = test["verdict"] if test["verdict"] == NOT_SHOWN else f"{name} is {test['verdict']}"
    p_value, least = test["p_value"], test["smallest_p_value"]
    hopeless = least is not None and least >= LEVEL
    why = f", which cannot be below {p_text(least)} where so few patients are answered differently" if hopeless else ""
    return f"Compared with {other}: {words}, {shown} in {metric} over the same cases, p {p_text(p_value)}{why}."


def trained_once(arms: Sequence[str], networks: Mapping[str, int], verb: str = "curve") -> str:
    """That an arm is a single training, and which verb trains several; empty where none is."""
    once = [name for name in arms if networks.get(name) == 1]
    if not once:
        return ""
    whose = "each" if len(once) == len(arms) else " and ".join(once)
    return f" This is one training of {whose}; another seed may differ (medssl {verb})."


def encoder_words(found: Mapping[str, Any], theirs: Sequence[float | None], smaller: bool = False) -> str:
    """A difference of encoders with its corrected p and what it says, in a sentence's end."""
    difference, _, p_value, verdict = encoder_cells(found, theirs, smaller)
    return f"difference {difference}, corrected p {p_value}: {verdict}"


def encoder_cells(
    found: Mapping[str, Any], theirs: Sequence[float | None], smaller: bool = False
) -> tuple[str, str, str, str]:
    """A difference of encoders with its interval, p, corrected p and what it says, with what speaks against it.

    Args:
        found: The difference, as results.json has it.
        theirs: Numbers of those that the encoder is compared with, one by one.
        smaller: Whether less is better.
    """
    sign, verdict, p_value = -1 if smaller else 1, found["verdict"], found["p_value_corrected"]
    low, high = sorted(math.nan if found[end] is None else sign * found[end] for end in ("low", "high"))
    known = [sign * value for value in theirs if value is not None]
    if verdict == NOT_SHOWN != told_tested(low, high, math.nan if p_value is None else p_value):
        reached = sign * (max(known) if low > 0 else min(known))
        verdict = f"{verdict}: one of {len(theirs)} encoders reaches {reached:.3f}"
    return interval_text(found, signed=True), p_text(found["p_value"]), p_text(p_value), verdict


def _structure_words(label: str, found: Mapping[str, Any], unit: str, length: str) -> str:
    sentence = f"{label.replace('_', ' ').capitalize()}: Dice {interval_text(found['dice'])}"
    if found["hd95_mm"]["estimate"] is not None:
        far = f"{found['hd95_mm']['estimate']:.1f} {length}"
        sentence += f"; 95 % of the border lies within {far} of the reference's (mean of the cases)"
    bias = found["size_difference"]["bias"]["estimate"]
    if bias is not None:
        large = "too large" if bias > 0 else "too small"
        sentence += (
            f"; on average {size_text(abs(bias))} {unit} {large}, of {size_text(found['mean_reference_size'])} {unit}"
        )
    return f"{sentence}; missed in {found['missed']} case(s), drawn where there is none in {found['invented']}."


def _class_words(k: int, names: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    name, there = names[k].replace("_", " "), sum(confusion[k])
    called, right = sum(row[k] for row in confusion), confusion[k][k]
    return f"{name}: of {there} image(s) it found {right}; of {called} that it called so, {right} were."
