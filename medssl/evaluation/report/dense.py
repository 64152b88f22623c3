"""Sections about features of places: landmarks that were looked for, structures segmented from one patch."""

from collections.abc import Mapping
from typing import Any

from medssl.evaluation.encoder_tests import ENCODER_TEST
from medssl.evaluation.report.figures import interval_figure
from medssl.evaluation.report.page import Section, Table, figure_picture
from medssl.evaluation.report.results import each_text, interval_text
from medssl.evaluation.report.summary import encoder_cells, encoder_words, trained_once

_RANDOM = "Random weights: the same architecture before any training."
LANDMARKS = (
    "A landmark of a template (a case of split train) is looked for in each case of split test; the error is the "
    "distance in mm to where it is. Answers lie on the encoder's grid, which alone costs up to half a step.",
    "Same relative place: the rule that takes the template's place as a share of each axis; it needs no network.",
    _RANDOM,
    "Intervals: 95 %, percentile bootstrap over the patients of split test; the templates stay. The difference of two "
    "medians is paired over them.",
    *ENCODER_TEST,
)
PROMPTS = (
    "One patch of each structure of each case, that of the voxel next to its centre, is given; what has similar "
    "features (cosine above a threshold) is segmented. Nothing is trained.",
    "Map and threshold were chosen on split val, one for all structures; split test was read once. Best threshold: "
    "chosen for each structure of each case by its own answer, which only says what the features would allow.",
    "Structures smaller than a cell of the coarsest last map of the encoders compared are left out, and counted.",
    _RANDOM,
    "Intervals: 95 %, BCa bootstrap over the patients of split test; differences are paired.",
    *ENCODER_TEST,
)


def dense_sections(results: Mapping[str, Any]) -> list[Section]:
    """Summary and table.

    Args:
        results: Content of results.json of `landmarks` or `prompt`.
    """
    notes, table = (LANDMARKS, _landmarks) if results["task"] == "landmarks" else (PROMPTS, _prompts)
    summary = Section(
        "Summary",
        (*sentences(results), f"{results['cases']} cases of {results['patients']} patients, split test."),
        warnings=tuple(results["warnings"]),
        notes=notes,
    )
    return [summary, table(results), _differences(results)]


def sentences(results: Mapping[str, Any]) -> list[str]:
    """The comparison with each other arm in plain words."""
    landmarks = results["task"] == "landmarks"
    number, told_as = ("median_mm", "a median error in mm of") if landmarks else ("dice", "a Dice of")
    ours, found = results["arms"][results["arm"]], []
    for other, difference in results["differences"].items():
        theirs = results["arms"][other]
        found.append(
            f"{results['arm']} reaches {told_as} {interval_text(ours[number])}, {other} "
            f"{interval_text(theirs[number])}: {encoder_words(difference, theirs['each'], smaller=landmarks)}."
            + trained_once((results["arm"], other), dict.fromkeys(results["encoders"], 1), "benchmark")
        )
    return found


def _differences(results: Mapping[str, Any]) -> Section:
    landmarks = results["task"] == "landmarks"
    rows = tuple(
        (f"{results['arm']} − {other}", *encoder_cells(found, results["arms"][other]["each"], smaller=landmarks))
        for other, found in results["differences"].items()
    )
    header = ("difference", "median error, mm" if landmarks else "Dice", "p", "p corrected", "says")
    caption = f"Paired over the patients of split test. p is corrected over all {results['comparisons']} comparisons."
    return Section("Differences", tables=(Table(header, rows, caption),))


def _landmarks(results: Mapping[str, Any]) -> Section:
    arms = results["arms"]
    keys = [key for key in arms[results["arm"]] if key.endswith("_mm")]
    parts = [("all", arms)]
    parts += [(mark, {name: arm["landmarks"][mark] for name, arm in arms.items()}) for mark in results["landmarks"]]
    rows = tuple(
        (mark, name, *(interval_text(content[key]) for key in keys), each_text(content.get("each", ())))
        for mark, part in parts
        for name, content in part.items()
    )
    named = (key.removesuffix("_mm").replace("_", " ") + " mm" for key in keys)
    header = ("landmark", "arm", *named, "median mm of each")
    caption = f"Templates: {', '.join(results['templates'])}. Shares of searches that end within a distance."
    intervals = [(mark, name, content["median_mm"]) for mark, part in parts for name, content in part.items()]
    picture = figure_picture(interval_figure(intervals, "median error, mm"), "Median error with 95 % intervals.")
    return Section("Landmarks", tables=(Table(header, rows, caption),), pictures=(picture,))


def _prompts(results: Mapping[str, Any]) -> Section:
    arms = results["arms"]
    names = list(arms[results["arm"]]["structures"])
    rows = tuple(
        (
            name,
            interval_text(arm["dice"]),
            each_text(arm["each"]),
            interval_text(arm["oracle"]),
            *(interval_text(arm["structures"][structure]) for structure in names),
            "; ".join(f"map {c['map']}, {c['threshold']:g}" for c in arm["chosen"]),
        )
        for name, arm in arms.items()
    )
    own = arms[results["arm"]]
    caption = f"Dice of {own['prompts']} prompts; {own['too_small']} structure(s) were too small for one."
    table = Table(("encoder", "Dice", "each", "best threshold", *names, "chosen"), rows, caption)
    intervals = [(s, name, arm["structures"][s]) for s in names for name, arm in arms.items()]
    picture = figure_picture(interval_figure(intervals, "Dice"), "Dice with 95 % intervals over patients.")
    return Section("Segmentation from one patch", tables=(table,), pictures=(picture,))
