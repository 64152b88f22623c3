"""Sections about frozen encoders: what it means first, then every probe, few shots and transferability."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.evaluation.encoder_tests import ENCODER_TEST
from medssl.evaluation.frozen_arms import RANDOM
from medssl.evaluation.probes import ATTENTION
from medssl.evaluation.report.feature_map import feature_map_section
from medssl.evaluation.report.figures import interval_figure, shot_figure
from medssl.evaluation.report.page import Section, Table, figure_picture
from medssl.evaluation.report.results import each_text, interval_text, subgroup_section
from medssl.evaluation.report.summary import (
    CLINICIAN,
    ENGINEER,
    REVIEWER,
    encoder_cells,
    encoder_words,
    trained_once,
)
from medssl.evaluation.subgroups import CONVENTION

PROBES = {
    "knn": "kNN",
    "multilabel_knn": "ML-kNN",
    "linear": "linear",
    "attentive": "attentive",
    "bag_attention": "bag attention",
}
CONVENTIONS = (
    "AUROC: mean over the questions; of two classes the second is asked for, of more each against the rest.",
    ATTENTION,
    "Every option of a probe was chosen on split val; split test was read once, by the option chosen.",
    "Random weights: the same architecture before any training, batch-norm statistics measured on the same images.",
    "Intervals: 95 %, percentile bootstrap over the patients of split test; differences are paired over them.",
    CONVENTION,
    *ENCODER_TEST,
    "For p the scores of either encoder are brought to median 0 and quartiles 1 apart; their order stays.",
    "Transferability scores use the answers of split train alone; what they are worth is not known for one encoder.",
)

_TESTED = ("AUROC", "p", "p corrected", "says")
_PAIRED = "Paired over the patients of split test"


def frozen_sections(results: Mapping[str, Any], pictures: Sequence[tuple[Path, str]] = ()) -> list[Section]:
    """Summary, probes, the linear one on its own, few shots, transferability, map of the features.

    Args:
        results: Content of results.json.
        pictures: Other maps of the features, with captions.
    """
    plane = feature_map_section(results["feature_map"], pictures)
    return [
        _summary(results),
        _probes(results),
        _classifier(results),
        _parts(results),
        _shots(results),
        _transferability(results),
        *([plane] if plane else []),
    ]


def sentences(results: Mapping[str, Any]) -> list[str]:
    """The linear probe in plain words, one sentence a number of labels and arm."""
    found = []
    for other, by_labels in results["differences"].items():
        for labels, probes in by_labels.items():
            ours, theirs = (
                results["arms"][arm]["probes"][labels]["linear"]["auroc"] for arm in (results["arm"], other)
            )
            found.append(
                f"With {_labels(labels)} labelled images a linear probe on {results['arm']} reaches AUROC "
                f"{interval_text(ours)}, on {other} {interval_text(theirs)}: "
                f"{encoder_words(probes['linear'], _each(results, other, labels, 'linear'))}."
            )
        found.append(trained_once((results["arm"], other), dict.fromkeys(results["encoders"], 1), "benchmark").strip())
    return found


def _each(results: Mapping[str, Any], arm: str, labels: str, probe: str) -> list[float | None]:
    """AUROC of each encoder of an arm."""
    each: list[float | None] = results["arms"][arm]["probes"][labels][probe]["each"]
    return each


def _summary(results: Mapping[str, Any]) -> Section:
    counts = ", ".join(f"{n['images']} images of {n['patients']} patients in {s}" for s, n in results["splits"].items())
    arm, size = results["arm"], " × ".join(str(n) for n in results["size"])
    encoder = results["encoders"][arm]
    learned = (
        f"{encoder['cases'] or 'an unknown number of'} images in {encoder['steps'] or 'an unknown number of'} steps"
    )
    parts = (
        (
            CLINICIAN,
            (
                f"{arm} learned from images without any label. Here its features alone, without further training, had "
                f"to answer: {', '.join(results['questions'])}. An AUROC of 1 is always right, 0.5 is chance.",
                "This tells which encoder to start from; it is no measure of a finished model.",
            ),
        ),
        (
            REVIEWER,
            (f"{counts}.", f"Random weights are the mean over {results['arms'][RANDOM]['encoders']} encoder(s)."),
        ),
        (
            ENGINEER,
            (
                f"{arm}: {encoder['method'] or 'method not told'}, {learned}; probed at {size} voxels.",
                "results.json holds every number, results.csv a line a probe. The commands are at the end of the page.",
            ),
        ),
    )
    return Section(
        "Summary", tuple(sentences(results)), warnings=tuple(results["warnings"]), notes=CONVENTIONS, parts=parts
    )


def _probes(results: Mapping[str, Any]) -> Section:
    rows = [
        (f"{PROBES[probe]}, {_labels(labels)}", name, entry)
        for labels, probes in results["arms"][results["arm"]]["probes"].items()
        for probe in probes
        for name, arm in results["arms"].items()
        for entry in [arm["probes"][labels][probe]]
    ]
    table = Table(
        ("probe, labels", "encoder", "AUROC", "each"),
        tuple((group, name, interval_text(entry["auroc"]), each_text(entry["each"])) for group, name, entry in rows),
        "Each: the encoders whose mean the AUROC is.",
    )
    lines = tuple(
        (
            f"{results['arm']} − {other}",
            f"{PROBES[probe]}, {_labels(labels)}",
            *encoder_cells(found, _each(results, other, labels, probe)),
        )
        for other, by_labels in results["differences"].items()
        for labels, probes in by_labels.items()
        for probe, found in probes.items()
    )
    differences = Table(("difference", "probe, labels", *_TESTED), lines, f"{_PAIRED}.{_corrected(results)}")
    intervals = [(group, name, entry["auroc"]) for group, name, entry in rows]
    picture = figure_picture(
        interval_figure(intervals, "AUROC"), "AUROC on split test with 95 % intervals over patients."
    )
    asked = tuple(
        (group, name, *(interval_text(found) for found in entry["questions"].values())) for group, name, entry in rows
    )
    header = ("probe, labels", "encoder", *results["questions"])
    alone = (Table(header, asked, "AUROC of each question."),) if len(results["questions"]) > 1 else ()
    return Section("Probes", tables=(table, differences, *alone), pictures=(picture,))


def _classifier(results: Mapping[str, Any]) -> Section:
    """The linear probe that decides, beside the one that ranks."""
    arms = results["linear"]["arms"]
    names = list(arms[results["arm"]]["metrics"])
    title = "The linear probe as a classifier"
    if not names:
        return Section(title, ("Images have no class here: probes are scored by AUROC alone.",))
    rows = tuple((arm, *(interval_text(found["metrics"][name]) for name in names)) for arm, found in arms.items())
    header = ("encoder", *(name.replace("_", " ") for name in names))
    told = f"With {_labels(str(results['linear']['labels']))} labelled images; cases.csv has the scores of every image."
    return Section(
        title, (told, "The class with the highest score is taken; no threshold was chosen."), (Table(header, rows),)
    )


def _parts(results: Mapping[str, Any]) -> Section:
    arm, linear = results["arm"], results["linear"]
    title = f"Linear probe on {arm}, {_labels(str(linear['labels']))} labelled images: parts of the cases"
    return subgroup_section(linear["arms"][arm]["subgroups"], title=title)


def _shots(results: Mapping[str, Any]) -> Section:
    curves = {name: arm["shots"] for name, arm in results["arms"].items() if arm["shots"]}
    if not curves:
        nothing = "No prototypes were made: frozen.shots names no number of images a class that split train has."
        return Section("Few shots", (nothing,))
    rows = tuple(
        (
            name,
            str(shot["shots"]),
            interval_text(shot["interval"]),
            f"{shot['deviation']:.3f}",
            each_text(shot["each"]),
        )
        for name, shots in curves.items()
        for shot in shots
    )
    episodes, own = next(iter(curves.values()))[0]["episodes"], results["arm"]
    each = {(name, str(shot["shots"])): shot["each"] for name, shots in curves.items() for shot in shots}
    lines = tuple(
        (f"{own} − {other}", shots, *encoder_cells(found, each[other, shots]))
        for other, by_shots in results["shot_differences"].items()
        for shots, found in by_shots.items()
    )
    caption = f"Mean AUROC over {episodes} draws of so many images a class"
    tables = (
        Table(
            ("encoder", "images a class", "AUROC", "over draws", "each"),
            rows,
            f"{caption}, with intervals over patients; standard deviation over the draws.",
        ),
        Table(
            ("difference", "images a class", *_TESTED),
            lines,
            f"{_PAIRED}; the draws are the same.{_corrected(results)}",
        ),
    )
    picture = figure_picture(shot_figure(curves), f"{caption}, and its standard deviation over them.")
    return Section(
        "Few shots", ("Prototypes: the class whose mean is nearest, without any training.",), tables, (picture,)
    )


def _transferability(results: Mapping[str, Any]) -> Section:
    names = list(results["arms"][results["arm"]]["transferability"])
    rows = tuple(
        (arm, *("–" if (v := content["transferability"][name]) is None else f"{v:.3f}" for name in names))
        for arm, content in results["arms"].items()
    )
    table = Table(
        ("encoder", "LogME", "H-score, shrunk", "LogME after PED"),
        rows,
        "Higher is better; – where the features are the same for all images.",
    )
    return Section("Transferability", tables=(table,))


def _corrected(results: Mapping[str, Any]) -> str:
    return f" p is corrected over all {results['comparisons']} comparisons of this report."


def _labels(labels: str) -> str:
    return "all" if labels == "0" else labels
