"""What a label-fraction study says in words: the answer first, for whom it is what, and the rules it was made by."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from medssl.evaluation.rankings import LEVEL, holm
from medssl.evaluation.report.page import Section, Table
from medssl.evaluation.report.results import interval_text, labelled_patients, p_text
from medssl.evaluation.report.study_pairs import all_in_all, beside_its_time, compared, pair_sentences
from medssl.evaluation.report.study_pretraining import pretrainings_say, unlike_times
from medssl.evaluation.report.summary import CLINICIAN, ENGINEER, REVIEWER

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
    "Differences of Dice are paired, case by case: where one arm rightly leaves a class (or, in a mean over classes, "
    "all of them) empty and the other invents it, the pair is 1 against 0; what both leave empty stays out. So a "
    "difference need not be that of the means. Difference, intervals and p rest on the same pairs; ranks count empty "
    "cases alike, over all arms.",
    "p: the larger of two. Of the one, whole patients change sides, all their seeds together, and the difference, a "
    "mean over seeds, is measured anew; patients whom both arms answer alike make it no smaller. The other is that at "
    "which the interval over seeds and patients would end at 0. Corrected over all comparisons of the study together: "
    "arms and pairs of them, numbers of labelled patients, gains per doubling (Holm).",
    f"Better or worse is said where the corrected p is below {LEVEL}; else no difference is shown, which is not the "
    "same as none being there. The 95 % intervals are not corrected.",
)


def summary_section(results: Mapping[str, Any], left_out: Sequence[Table]) -> Section:
    """The answer, what it must not be taken for, and the same for each reader.

    Args:
        results: Content of results.json.
        left_out: Tables of cases that could not be prepared.
    """
    metric, reference = METRICS[results["metric"]], results["reference"]
    a, sentences = "an" if metric[0] in "AEIOU" else "a", []
    for point in results["points"]:
        for arm, found in point["differences"].items():
            both = found["over_seeds_and_patients"]
            sentences.append(
                f"With {labelled_patients(point['labels'])}{_validated(results)} {arm} reaches {a} {metric} of "
                f"{_mean(point['arms'][arm], found)}, {reference} {_mean(point['arms'][reference], found)}: difference "
                f"{interval_text(both, signed=True)} over {len(found['seeds'])} seeds and {both['clusters']} patients, "
                f"corrected p {p_text(found['p_value_corrected'])}: {found['verdict']}"
                + (beside_its_time(results, point["labels"], arm) if found["verdict"] == "better" else "")
                + "."
            )
    sentences = [*all_in_all(results), *sentences, *pair_sentences(results), *pretrainings_say(results)]
    lost = sum(bool(run["failed"]) for run in results["runs"])
    without = ", ".join(results["pretraining_failed"])
    warnings = [f"{lost} of {len(results['runs'])} runs failed and are in no number; see Failures."] if lost else []
    warnings += [f"Not trained, because a pretraining failed: {without}; see Failures."] if without else []
    warnings += [
        *results["warnings"],
        *_nothing_can_be_shown(results),
        *_unlike_budgets(results),
        *unlike_times(results),
    ]
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
                f"Tested on {tested_on(results)}, split {results['split']}; "
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
    notes = (*CONVENTIONS, *pretrainings_say(results))
    return Section("Summary", tuple(sentences), warnings=tuple(warnings), notes=notes, parts=parts)


def _validated(results: Mapping[str, Any]) -> str:
    """The labelled patients that no number of labels counts, where something was chosen on them."""
    found = results["validation"]
    if not found["chosen"]:
        return ""
    what = "and ".join(f"the {what} " for what in found["chosen"])
    return f", and {found['patients']} validation patients on whom {what}were chosen,"


def _unlike_budgets(results: Mapping[str, Any]) -> list[str]:
    """The warning that arms learned with other numbers of steps or crops than others, but for `longer_as`."""
    own = {arm: (b["steps"], b["batch_size"]) for arm, b in results["budgets"].items() if not b["longer_as"]}
    if len(set(own.values())) < 2:
        return []
    told = ", ".join(f"{arm} {steps} steps of {size} crops" for arm, (steps, size) in own.items())
    return [f"Arms learned with unlike budgets: {told}. Differences between them may come from that."]


def _nothing_can_be_shown(results: Mapping[str, Any]) -> list[str]:
    """The warning that too few patients tell arms apart for a verdict, whatever the networks do: at all, or somewhere.

    The least that a corrected p-value can be is the correction of the least that each can be.
    """
    every = [(about, one["smallest_p_value"]) for about, one in compared(results)]
    found = [(about, least) for about, least in every if least is not None]
    corrected = holm([least for _, least in found])
    without = [about for (about, _), least in zip(found, corrected, strict=True) if least >= LEVEL]
    if not without:
        return []
    if len(without) == len(found):
        return [
            "The arms answer so few test patients differently that p cannot be below "
            f"{results['smallest_p_value_corrected']:.3f}, corrected over the study's {len(found)} comparisons: this "
            "study cannot show a difference, whatever the networks do. Take more test patients, or fewer arms, "
            "pairs and numbers of labelled patients."
        ]
    return [
        f"{len(without)} of {len(found)} comparisons cannot show a difference, because p cannot be small enough where "
        f"the arms answer so few test patients differently: {', '.join(without)}."
    ]


def _mean(arm: Mapping[str, Any], difference: Mapping[str, Any]) -> str:
    """Over the seeds that both arms of a difference have: others have other patients to learn from."""
    both = {str(seed) for seed in difference["seeds"]}
    known = [value for seed, value in arm["seeds"].items() if str(seed) in both and value is not None]
    return number_text(fmean(known) if known else None)


def number_text(value: float | None) -> str:
    """A number of a metric; a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def tested_on(results: Mapping[str, Any]) -> str:
    """How many cases of how many patients a study's numbers come from, and what counts once in them."""
    cases, patients = results["cases"], results["patients"]
    if results.get("unit") == "patients":  # results of before there was a choice count cases
        return f"{patients} patients, each by the mean probabilities of its cases ({cases} in all)"
    return f"{cases} cases of {patients} patients"
