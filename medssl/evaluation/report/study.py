"""Sections of a label-fraction study: the answer first, then curves, differences, choices and every run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medssl.evaluation.rankings import LEVEL
from medssl.evaluation.report.failures import not_prepared
from medssl.evaluation.report.figures import label_figure
from medssl.evaluation.report.page import Section, Table, figure_picture
from medssl.evaluation.report.results import interval_text
from medssl.evaluation.report.sections import loss_curve_section
from medssl.evaluation.report.summary import CLINICIAN, ENGINEER, REVIEWER
from medssl.evaluation.report.transferability import correlation_section

METRICS = {
    "dice": "mean Dice",
    "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy",
    "quadratic_kappa": "quadratic kappa",
}
CONVENTIONS = (
    "Arms are paired: for each seed and number of labelled patients all learned from the same patients and were tested "
    "on the same cases. A smaller number of patients lies within a larger one.",
    "Trials, where there are any, are equally many an arm and are judged on the labelled validation patients, who are "
    "in no number of labelled patients; the test split was read once by every network that is shown.",
    "Over seeds: Student's t of the seeds' differences; it says what another fine-tuning on these test patients would "
    "give. Over seeds and patients: its half-width and that over the patients (jackknife), added in squares; it says "
    "what other test patients would give as well.",
    "Differences of Dice are paired, case by case: a case that one arm rightly leaves empty and the other invents a "
    "structure in counts 1 against 0; where both leave it empty the pair stays out. So a difference need not be that "
    "of the means. Difference, intervals and p rest on the same pairs; ranks count empty cases alike, over all arms.",
    "p: swaps of what each patient brings to the difference (of Dice its share of the mean, else its pseudo-value of "
    "the jackknife), over the seeds' mean; corrected over all comparisons of the study, arms and numbers of labelled "
    "patients together (Holm).",
    "Better or worse is said where the 95 % interval over seeds and patients leaves 0 out and the corrected p is below "
    f"{LEVEL}; else no difference is shown, which is not the same as none being there. The interval is not corrected: "
    "where trainings of one arm differ much among themselves, chance alone says better or worse more often than in one "
    "study of twenty (docs/evaluation.md has how often).",
)


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
    learning = [loss_curve_section(logs[n], f"Learning curves with {n} labelled patients") for n in ends]
    left_out = [table for what, cache in caches.items() for table in not_prepared(cache, what)]
    scored = [correlation_section(results)] if results.get("transferability") else []
    return [
        _summary(results, left_out),
        _curves(results),
        *scored,
        _choices(results),
        *learning,
        _failures(results, left_out),
        _runs(results),
    ]


def _summary(results: Mapping[str, Any], left_out: Sequence[Table]) -> Section:
    metric, reference = METRICS[results["metric"]], results["reference"]
    sentences = []
    for point in results["points"]:
        for arm, found in point["differences"].items():
            both = found["over_seeds_and_patients"]
            sentences.append(
                f"With {point['labels']} labelled patients{_validated(results)} {arm} reaches a {metric} of "
                f"{_mean(point['arms'][arm])}, {reference} {_mean(point['arms'][reference])}: difference "
                f"{interval_text(both, signed=True)} over {len(found['seeds'])} seeds and {both['clusters']} patients, "
                f"corrected p {_p(found['p_value_corrected'])}: {found['verdict']}."
            )
    sentences += _pretrainings_say(results)
    lost = sum(bool(run["failed"]) for run in results["runs"])
    warnings = [f"{lost} of {len(results['runs'])} runs failed and are in no number; see Failures."] if lost else []
    warnings += _nothing_can_be_shown(results)
    warnings += ["Some cases could not be prepared and are in no number; see Failures."] if left_out else []
    ranking = results["ranking"]
    parts = (
        (
            CLINICIAN,
            (
                f"A {metric} of 1 is perfect. Better means: better beyond what other test patients and other "
                "fine-tunings would change. No difference shown means that this study cannot tell, not that there is "
                "none.",
            ),
        ),
        (
            REVIEWER,
            (
                f"Tested on {results['cases']} cases of {results['patients']} patients, split {results['split']}; "
                f"data {results['data_sha256'][:12]} (SHA-256).",
                "Every run is listed, failed ones included; ranks are "
                + ("below the curves." if ranking else "not given: they need several arms and pairs."),
            ),
        ),
        (
            ENGINEER,
            (
                f"{len(results['runs'])} trainings after {len(results['trials'])} trials; each has a folder with "
                "metrics.jsonl and an evaluation of its own. results.csv has a line a training.",
            ),
        ),
    )
    notes = (*CONVENTIONS, *_pretrainings_say(results))
    return Section("Summary", tuple(sentences), warnings=tuple(warnings), notes=notes, parts=parts)


def _validated(results: Mapping[str, Any]) -> str:
    """The labelled patients that no number of labels counts, where something was chosen on them."""
    found = results["validation"]
    if not found["chosen"]:
        return ""
    what = "and ".join(f"the {what} " for what in found["chosen"])
    return f", and {found['patients']} validation patients on whom {what}were chosen,"


def _pretrainings_say(results: Mapping[str, Any]) -> list[str]:
    """How far intervals speak for other pretrainings than those of the study."""
    number = {arm: one["pretrainings"] for arm, one in results["pretraining"].items()}
    once = [arm for arm, count in number.items() if count == 1]
    more = [f"{arm} {count}" for arm, count in number.items() if count > 1]
    said = []
    if more:
        said.append(
            f"Pretrainings, each with a seed of its own: {', '.join(more)}. A seed starts from that of its number, and "
            "from the first again where there are fewer, so that intervals over seeds hold what another pretraining "
            "would give; seeds that share one are counted as if they did not."
        )
    if once:
        which = f" ({', '.join(once)})" if more else ""
        said.append(f"One pretraining an arm{which}: what another one would give is in no interval.")
    return said


def _nothing_can_be_shown(results: Mapping[str, Any]) -> list[str]:
    """The warning that there are too few patients for any verdict, whatever the networks do."""
    least = results["smallest_p_value_corrected"]
    if least is None or least < LEVEL:
        return []
    return [
        f"With so few test patients p cannot be below {least:.3f}, corrected over the study's {results['comparisons']} "
        "comparisons: this study cannot show a difference, whatever the networks do. Take more test patients, or fewer "
        "arms and numbers of labelled patients."
    ]


def _failures(results: Mapping[str, Any], left_out: Sequence[Table]) -> Section:
    rows = tuple(
        (run["arm"], str(run["labels"]), str(run["seed"]), run["failed"]) for run in results["runs"] if run["failed"]
    )
    if not rows:
        return Section("Failures", ("No run failed.",), tables=tuple(left_out))
    return Section("Failures", tables=(Table(("arm", "patients", "seed", "why"), rows), *left_out))


def _curves(results: Mapping[str, Any]) -> Section:
    metric = METRICS[results["metric"]]
    rows = tuple(
        (str(point["labels"]), arm, interval_text(found["mean"]), _seeds(found["seeds"]))
        for point in results["points"]
        for arm, found in point["arms"].items()
    )
    table = Table(("patients", "arm", metric, "each seed"), rows, "Means with 95 % intervals over seeds.")
    lines = tuple(
        (
            str(point["labels"]),
            f"{arm} − {results['reference']}",
            interval_text(found["over_seeds"], signed=True),
            interval_text(found["over_seeds_and_patients"], signed=True),
            _p(found["p_value_corrected"]),
            found["verdict"],
        )
        for point in results["points"]
        for arm, found in point["differences"].items()
    )
    differences = Table(
        ("patients", "difference", "over seeds", "over seeds and patients", "p corrected", "verdict"), lines
    )
    tables = [table, differences]
    if results["ranking"]:
        ranks = tuple((arm, f"{rank:.2f}") for arm, rank in results["ranking"]["ranks"].items())
        tables.append(Table(("arm", "mean rank"), ranks, _ranks_say(results["ranking"])))
    figure = figure_picture(
        label_figure(results["points"], metric),
        f"{metric[0].upper()}{metric[1:]} over the number of labelled patients, with 95 % intervals over seeds; small "
        "dots are the seeds.",
    )
    return Section("Curves", tables=tuple(tables), pictures=(figure,))


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
        f"(Nemenyi); Friedman's p {_p(ranking['p_value'])}. This speaks for other patients and these networks, not for "
        "other trainings."
    )


def _choices(results: Mapping[str, Any]) -> Section:
    pretraining = Table(
        ("arm", "method", "cases", "steps", "pretrainings", "device-hours of each"),
        tuple(
            (arm, *(str(p[n]) for n in ("method", "cases", "steps", "pretrainings")), f"{p['device_hours'] or 0:.2f}")
            for arm, p in results["pretraining"].items()
        ),
        "Pretrainings.",
    )
    trials = Table(
        ("arm", "patients", "options", f"{METRICS[results['metric']]} on validation patients"),
        tuple(
            (t["arm"], str(t["labels"]), _options(t["options"]), t["failed"] or _number(t["validation"]))
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
            f"{_nan(r['seconds_a_step']):.3g}",
            r["failed"] or r["folder"],
        )
        for r in results["runs"]
    )
    header = ("arm", "patients", "seed", "steps", "learning rate", "s a step", "folder, or why it failed")
    return Section("Every run", tables=(Table(header, rows),))


def _mean(found: Mapping[str, Any]) -> str:
    return f"{_nan(found['mean']['estimate']):.3f}"


def _seeds(found: Mapping[str, float | None]) -> str:
    return " ".join(f"{_nan(value):.3f}" for value in found.values())


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if value >= 0.001 else "below 0.001"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _options(options: Mapping[str, Any], prefix: str = "") -> str:
    """Options as they are given on a command line, groups with dots."""
    found = [
        _options(value, f"{prefix}{name}.") if isinstance(value, Mapping) else f"{prefix}{name} {value}"
        for name, value in options.items()
    ]
    return ", ".join(found) or "–"


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
