"""Sections of a label-fraction study: the answer first, then curves, differences, choices and every run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medssl.evaluation.report.failures import not_prepared
from medssl.evaluation.report.figures import label_figure
from medssl.evaluation.report.page import Section, Table, figure_picture
from medssl.evaluation.report.results import interval_text, labelled_patients, p_text
from medssl.evaluation.report.sections import loss_curve_section
from medssl.evaluation.report.study_pairs import HEADER, difference_row, pair_tables
from medssl.evaluation.report.study_pretraining import pretraining_table
from medssl.evaluation.report.study_summary import METRICS, number_text, summary_section
from medssl.evaluation.report.transferability import correlation_section


def study_sections(
    results: Mapping[str, Any],
    logs: Mapping[int, Mapping[str, Path]] = MappingProxyType({}),
    caches: Mapping[str, Path] = MappingProxyType({}),
) -> list[Section]:
    """Summary, curves, choices, learning curves, failures, runs.

    Args:
        results: Content of results.json.
        logs: Number of labelled patients to arm to run folder, for learning curves.
        caches: Which images to the cache of them, for cases that had to be left out.
    """
    ends = sorted({min(logs), max(logs)}) if logs else []
    learning = [loss_curve_section(logs[n], f"Learning curves with {labelled_patients(n)}") for n in ends]
    left_out = [table for what, cache in caches.items() for table in not_prepared(cache, what)]
    scored = [correlation_section(results)] if results.get("transferability") else []
    return [
        summary_section(results, left_out),
        _curves(results),
        *scored,
        _choices(results),
        *learning,
        _failures(results, left_out),
        _runs(results),
    ]


def _failures(results: Mapping[str, Any], left_out: Sequence[Table]) -> Section:
    lost = results["pretraining_failed"]
    rows = tuple(
        (run["arm"], str(run["labels"]), str(run["seed"]), run["failed"])
        for run in results["runs"]
        if run["failed"] and run["arm"] not in lost
    )
    tables = [Table(("arm", "why"), tuple(lost.items()), "Arms that were not trained.")] if lost else []
    tables += [Table(("arm", "patients", "seed", "why"), rows, "Runs that failed.")] if rows else []
    text = () if tables else ("No run failed.",)
    return Section("Failures", text, tables=(*tables, *left_out))


def _curves(results: Mapping[str, Any]) -> Section:
    metric = METRICS[results["metric"]]
    rows = tuple(
        (str(point["labels"]), arm, interval_text(found["mean"]), _seeds(found["seeds"]))
        for point in results["points"]
        for arm, found in point["arms"].items()
    )
    table = Table(("patients", "arm", metric, "each seed"), rows, "Means with 95 % intervals over seeds.")
    lines = tuple(
        difference_row(str(point["labels"]), f"{arm} − {results['reference']}", found)
        for point in results["points"]
        for arm, found in point["differences"].items()
    )
    tables = [table, Table(HEADER, lines), *_slopes(results), *pair_tables(results)]
    if results["ranking"]:
        ranks = tuple((arm, f"{rank:.2f}") for arm, rank in results["ranking"]["ranks"].items())
        tables.append(Table(("arm", "mean rank"), ranks, _ranks_say(results["ranking"])))
    figure = figure_picture(
        label_figure(results["points"], metric),
        f"{metric[0].upper()}{metric[1:]} over the number of labelled patients, with 95 % intervals over seeds; small "
        "dots are the seeds.",
    )
    return Section("Curves", tables=tuple(tables), pictures=(figure,))


def _slopes(results: Mapping[str, Any]) -> list[Table]:
    rows = tuple(
        (arm, interval_text(found["per_doubling"], signed=True), _seeds(found["seeds"]))
        for arm, found in results["slopes"].items()
    )
    caption = (
        f"What {METRICS[results['metric']]} gains with every doubling of the labelled patients: least squares over all "
        "their numbers, of the seeds that have all, with 95 % intervals over seeds on these test patients."
    )
    return [Table(("arm", "gain per doubling of the labels", "each seed"), rows, caption)] if rows else []


def _ranks_say(ranking: Mapping[str, Any]) -> str:
    """What was ranked, and what may be concluded from it."""
    if ranking["critical_difference"] is None:
        return (
            f"Mean rank over {ranking['blocks']} pairs of number of labelled patients and seed, 1 is best. Without a "
            "test: all pairs are tested on the same patients, so they are not independent, and Friedman's test and "
            "Nemenyi's distance would find differences where there are none."
        )
    return (
        f"Mean rank over {ranking['blocks']} test patients, 1 is best; of each the mean Dice over numbers of labelled "
        f"patients and seeds is ranked. Ranks closer than {ranking['critical_difference']:.2f} are not told apart "
        f"(Nemenyi); Friedman's p {p_text(ranking['p_value'])}. This speaks for other patients and these networks, "
        "not for other trainings."
    )


def _choices(results: Mapping[str, Any]) -> Section:
    pretraining = pretraining_table(results)
    trials = Table(
        ("arm", "patients", "options", f"{METRICS[results['metric']]} on validation patients"),
        tuple(
            (t["arm"], str(t["labels"]), _options(t["options"]), t["failed"] or number_text(t["validation"]))
            for t in results["trials"]
        ),
        "Trials, judged by the study's metric on the validation patients, measured as on the test patients. Where "
        "fine-tuning keeps its best weights (inference.choose best), it goes by Dice or AUROC, whatever the metric.",
    )
    return Section("Pretraining and choices", tables=tuple(t for t in (pretraining, trials) if t.rows))


def _runs(results: Mapping[str, Any]) -> Section:
    rows = tuple(
        (
            r["arm"],
            str(r["labels"]),
            str(r["seed"]),
            str(r["steps"]),
            str(r["lr"]),
            "–" if r["seconds_a_step"] is None else f"{r['seconds_a_step']:.3g}",
            r["failed"] or r["folder"],
        )
        for r in results["runs"]
    )
    header = ("arm", "patients", "seed", "steps", "learning rate", "s a step", "folder, or why it failed")
    return Section("Every run", tables=(Table(header, rows),))


def _seeds(found: Mapping[str, float | None]) -> str:
    return " ".join(number_text(value) for value in found.values())


def _options(options: Mapping[str, Any], prefix: str = "") -> str:
    """Options as they are given on a command line, groups with dots."""
    found = [
        _options(value, f"{prefix}{name}.") if isinstance(value, Mapping) else f"{prefix}{name} {value}"
        for name, value in options.items()
    ]
    return ", ".join(found) or "–"
