"""Pairs of arms in the report of a study: what was found, and whether a pretraining is worth more than its time."""

from collections.abc import Iterator, Mapping
from typing import Any

from medssl.evaluation.rankings import NOT_SHOWN
from medssl.evaluation.report.page import Table
from medssl.evaluation.report.results import interval_text, labelled_patients, p_text

_TURNED = {"better": "worse", "worse": "better"}

HEADER = ("patients", "difference", "over seeds", "over seeds and patients", "p corrected", "verdict")


def compared(results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every comparison of the study with its name, those with the reference first."""
    for point in results["points"]:
        for arm, found in point["differences"].items():
            yield f"{arm} with {point['labels']} labels", found
    for pair in results["pairs"]:
        about = f"{pair['arm']} against {pair['against']}"
        yield from ((f"{about} with {found['labels']} labels", found) for found in pair["points"])
        if pair["slope"] is not None:
            yield f"{about} as labels shrink", pair["slope"]


def all_in_all(results: Mapping[str, Any]) -> list[str]:
    """The answer of the study in a sentence, before what each comparison says; none where little was compared."""
    verdicts = [found["verdict"] for _, found in compared(results)]
    shown = sum(verdict != NOT_SHOWN for verdict in verdicts)
    if len(verdicts) < 2:
        return []
    if not shown:
        none = f"All in all: none of the {len(verdicts)} comparisons shows a difference"
        return [f"{none}; this study cannot tell the arms apart."]
    return [f"All in all: {shown} of {len(verdicts)} comparisons show a difference."]


def pair_sentences(results: Mapping[str, Any]) -> list[str]:
    """What each pair of the plan shows, a sentence a pair."""
    said = []
    for pair in results["pairs"]:
        parts = [f"with {labelled_patients(found['labels'])} {_told(found)}" for found in pair["points"]]
        if pair["slope"] is not None:
            parts.append(f"as labels shrink (gain per doubling) {_told(pair['slope'])}")
        if parts:
            said.append(f"{pair['arm']} against {pair['against']}: {'; '.join(parts)}.")
    return said


def pair_tables(results: Mapping[str, Any]) -> list[Table]:
    """Differences of the pairs, and of their gains per doubling."""
    rows = tuple(
        difference_row(str(found["labels"]), f"{pair['arm']} − {pair['against']}", found)
        for pair in results["pairs"]
        for found in pair["points"]
    )
    of_slopes = tuple(
        difference_row(f"{min(found['labels'])} to {max(found['labels'])}", f"{pair['arm']} − {pair['against']}", found)
        for pair in results["pairs"]
        if (found := pair["slope"]) is not None
    )
    caption = (
        "Differences of the gain per doubling of the labelled patients. Holds better: the first gains less with every "
        "doubling, so it loses less with every halving; also where that is because more labels help it less."
    )
    tables = [Table(HEADER, rows, "Pairs of arms that the plan names."), Table(HEADER, of_slopes, caption)]
    return [table for table in tables if table.rows]


def difference_row(patients: str, about: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    """A line of a table of differences."""
    return (
        patients,
        about,
        interval_text(found["over_seeds"], signed=True),
        interval_text(found["over_seeds_and_patients"], signed=True),
        p_text(found["p_value_corrected"]),
        found["verdict"],
    )


def beside_its_time(results: Mapping[str, Any], labels: int, arm: str) -> str:
    """What stands beside `better` of a pretrained arm: whether it is more than its time spent on the labels gives."""
    if arm not in results["pretraining"]:
        return ""
    longer = {name: b["longer_as"] for name, b in results["budgets"].items() if b["longer_as"]}
    said = []
    for pair in results["pairs"]:
        names = pair["arm"], pair["against"]
        other = next((name for name in names if name in longer and arm in names), None)
        for found in pair["points"] if other else ():
            if found["labels"] == labels:
                verdict = found["verdict"] if names[0] == arm else _TURNED.get(found["verdict"], NOT_SHOWN)
                said.append(
                    _beside(
                        verdict, f"{other}, which spends the time of {longer[str(other)]}'s pretraining on the labels"
                    )
                )
    return "".join(said) or "; whether that is more than its pretraining's time spent on the labels was not compared"


def _beside(verdict: str, spent: str) -> str:
    if verdict == NOT_SHOWN:
        return f"; but not shown to be better than {spent}"
    return f"; {'also better' if verdict == 'better' else 'but worse'} than {spent}"


def _told(found: Mapping[str, Any]) -> str:
    difference = interval_text(found["over_seeds_and_patients"], signed=True)
    return f"{difference}, corrected p {p_text(found['p_value_corrected'])}: {found['verdict']}"
