"""Sections of a comparison of methods: what learned anything first, then every number, failures, times."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.evaluation.benchmark_table import READ_SO, encoder_name
from medssl.evaluation.probes import ATTENTION
from medssl.evaluation.rankings import LEVEL
from medssl.evaluation.report.failures import not_prepared
from medssl.evaluation.report.figures import ranking_figure
from medssl.evaluation.report.frozen import PROBES
from medssl.evaluation.report.page import Picture, Section, Table, figure_picture
from medssl.evaluation.report.results import interval_text
from medssl.evaluation.report.summary import CLINICIAN, ENGINEER, REVIEWER

CONVENTIONS = (
    "AUROC on split test, mean over the questions; options of a probe were chosen on split val.",
    ATTENTION,
    "Difference: mean over the seeds minus the mean of the same architecture with random weights, which has seeds of "
    "its own; same images, labels and grids.",
    "Intervals: Welch's t over the seeds of both, on test images that stay: they say nothing about other patients or "
    "images. With one seed there is none, and nothing is shown.",
    *READ_SO,
)


def benchmark_sections(results: Mapping[str, Any], caches: Mapping[str, Path]) -> list[Section]:
    """Summary, a section a set, failures, every run.

    Args:
        results: Content of results.json: `comparisons` and `runs`.
        caches: Set to the folder of its cache.
    """
    left_out = [table for name, cache in caches.items() for table in not_prepared(cache, name)]
    comparisons = results["comparisons"]
    sets = list(dict.fromkeys(c["images"] for c in comparisons))
    by_set = {name: [c for c in comparisons if c["images"] == name] for name in sets}
    return [
        _summary(by_set, results, left_out),
        *(_of_set(name, found) for name, found in by_set.items()),
        _failures(results["runs"], left_out),
        _runs(results["runs"], results["random"]),
    ]


def _summary(
    by_set: Mapping[str, Sequence[Mapping[str, Any]]], results: Mapping[str, Any], left_out: Sequence[Table]
) -> Section:
    runs, random = results["runs"], results["random"]
    failed = sum(bool(run["failed"]) for run in runs)
    seeds = len({run["seed"] for run in runs})
    warnings: tuple[str, ...] = (
        ("One seed only: there are no intervals, so no method is shown to learn or to be better than another.",)
        if seeds == 1
        else ()
    )
    warnings += ("Some images could not be prepared and are in no number; see Failures.",) if left_out else ()
    warnings += tuple(results.get("warnings", ()))  # results of earlier versions have none
    parts = (
        (
            CLINICIAN,
            (
                "Each method taught a network from images without labels. A simple probe on its features then answered "
                "questions about other patients' images; an AUROC of 1 is always right, 0.5 is chance.",
                "This tells which method to try first on images like these; it is no measure of a finished model.",
            ),
        ),
        (
            REVIEWER,
            (
                f"{len(runs)} runs, {seeds} seed(s) a method; {failed} failed and are in no number. Random weights "
                f"have {len({entry['seed'] for entry in random})} seeds.",
            ),
        ),
        (ENGINEER, ("Minutes of each pretraining stand in the tables; results.csv has a line a run and probe.",)),
    )
    lead = tuple(_set_words(name, found) for name, found in by_set.items())
    return Section("Summary", lead, warnings=warnings, notes=CONVENTIONS, parts=parts)


def _set_words(name: str, found: Sequence[Mapping[str, Any]]) -> str:
    learned = [c["method"] for c in found if c["learns"]]
    sure = [c["method"] for c in found if c["learns_corrected"]]
    partly = [f"{c['method']}: {c['verdict']}" for c in found if "kNN" in c["verdict"]]
    compared = sum(probe["p_value"] is not None for c in found for probe in c["probes"].values())
    best = max((c for c in found if "linear" in c["probes"]), key=_linear, default=None)
    words = f"{name}: {_counted(sure)} of {len(found)} methods are shown to learn more than random weights"
    words += f", corrected over {compared} differences; each for itself, {_counted(learned)} are." if compared else "."
    words += f" In part: {'; '.join(partly)}." if partly else ""
    if best is None:
        return words
    gain = interval_text(best["probes"]["linear"]["difference"], signed=True)
    return f"{words} The highest linear AUROC is {best['method']}'s, {_linear(best):.3f}: {gain} over random weights."


def _counted(methods: Sequence[str]) -> str:
    return f"{len(methods)} ({', '.join(methods)})" if methods else "0"


def _linear(comparison: Mapping[str, Any]) -> float:
    return float(comparison["probes"]["linear"]["auroc"])


def _of_set(name: str, found: Sequence[Mapping[str, Any]]) -> Section:
    probes = list(dict.fromkeys(probe for c in found for probe in c["probes"]))
    header = ("method", *(f"{PROBES.get(p, p)}: AUROC, difference" for p in probes), "learns", "minutes", "encoder")
    table = Table(header, tuple((c["method"], *_cells(c, probes), c["encoder"] or "–") for c in found))
    return Section(name, tables=(table,), pictures=_picture(name, found))


def _cells(c: Mapping[str, Any], probes: Sequence[str]) -> list[str]:
    shown = [_cell(c["probes"][p]) if p in c["probes"] else "–" for p in probes]
    verdict = f"{c['verdict']} *" if c["learns_corrected"] else c["verdict"]
    return [*shown, verdict, "–" if c["minutes"] is None else f"{c['minutes']:.1f}"]


def _cell(probe: Mapping[str, Any]) -> str:
    p_value = probe["p_value_corrected"]
    star = " *" if p_value is not None and p_value < LEVEL else ""
    return f"{probe['auroc']:.3f}; {interval_text(probe['difference'], signed=True)}{star}"


def _picture(name: str, found: Sequence[Mapping[str, Any]]) -> tuple[Picture, ...]:
    rows = [
        (c["method"], {PROBES.get(p, p): probe["difference"] for p, probe in c["probes"].items()})
        for c in found
        if c["probes"]
    ]
    if not rows:
        return ()
    rows.sort(key=lambda row: -max(entry["estimate"] or 0.0 for entry in row[1].values()))
    caption = (
        f"{name}: AUROC minus that of random weights, a line a method, with 95 % intervals over the seeds where there "
        "are several. Right of the line at 0: more than random weights."
    )
    return (figure_picture(ranking_figure(rows, "difference of AUROC"), caption),)


def _failures(runs: Sequence[Mapping[str, Any]], left_out: Sequence[Table]) -> Section:
    rows = tuple(
        (run["method"], run["images"], str(run["seed"]), " ".join(run["failed"].split()))
        for run in runs
        if run["failed"]
    )
    if not rows:
        return Section("Failures", ("No run failed.",), tables=tuple(left_out))
    return Section("Failures", tables=(Table(("method", "set", "seed", "why"), rows), *left_out))


def _runs(runs: Sequence[Mapping[str, Any]], random: Sequence[Mapping[str, Any]]) -> Section:
    rows = [
        (run["images"], run["method"], str(run["seed"]), _auroc(run["probes"]), f"{60 * run['hours']:.1f}")
        for run in runs
    ]
    rows += [
        (
            entry["images"],
            f"random {encoder_name(entry['architecture'])}",
            str(entry["seed"]),
            _auroc(entry["probes"]),
            "",
        )
        for entry in random
    ]
    return Section("Every run", tables=(Table(("set", "method", "seed", "AUROC", "minutes"), tuple(rows)),))


def _auroc(probes: Mapping[str, float]) -> str:
    return ", ".join(f"{PROBES.get(name, name)} {value:.3f}" for name, value in probes.items()) or "–"
