"""Tables of a label-fraction study for a page or a paper, in Markdown."""

from collections.abc import Mapping
from typing import Any

from medssl.evaluation.rankings import NOT_SHOWN
from medssl.evaluation.report.results import interval_text, labelled_patients
from medssl.evaluation.report.study_summary import METRICS, number_text, tested_on


def study_markdown(results: Mapping[str, Any]) -> str:
    """One table of the arms and, where the plan names pairs, one of these.

    Args:
        results: Content of results.json.
    """
    metric, reference = METRICS[results["metric"]], results["reference"]
    numbers = [point["labels"] for point in results["points"]]
    arms = list(dict.fromkeys(arm for point in results["points"] for arm in point["arms"]))
    rows = [(arm, *(_arm_cell(point, arm) for point in results["points"])) for arm in arms]
    seeds = max(len(found["seeds"]) for point in results["points"] for found in point["arms"].values())
    about = (
        f"{metric[0].upper()}{metric[1:]} on {tested_on(results)} (split {results['split']}), mean of up to {seeds} "
        f"seeds; after it the difference to {reference}, its 95 % interval over seeds and "
        "patients, and what it shows after correction over all comparisons of the study (–: nothing)."
    )
    parts = [_table(("arm", *(labelled_patients(number) for number in numbers)), rows), about]
    if results["pairs"]:
        pairs = [(_pair_name(pair), *_pair_cells(pair, numbers)) for pair in results["pairs"]]
        parts += [
            _table(("difference", *(labelled_patients(number) for number in numbers), "gain per doubling"), pairs),
            "The first minus the second, with the same intervals and correction. Holds better: it loses less as labels "
            "shrink.",
        ]
    return "\n\n".join(parts) + "\n"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _arm_cell(point: Mapping[str, Any], arm: str) -> str:
    if arm not in point["arms"]:
        return ""
    own, most = len(point["arms"][arm]["seeds"]), max(len(found["seeds"]) for found in point["arms"].values())
    mean = number_text(point["arms"][arm]["mean"]["estimate"])
    if own < most:  # other patients to learn from, so no mean to compare with the others'
        mean += f" ({own} of {most} seeds)"
    return f"{mean}; {_told(point['differences'][arm])}" if arm in point["differences"] else mean


def _pair_name(pair: Mapping[str, Any]) -> str:
    return f"{pair['arm']} − {pair['against']}"


def _pair_cells(pair: Mapping[str, Any], numbers: list[int]) -> list[str]:
    found = {point["labels"]: point for point in pair["points"]}
    cells = [_told(found[number]) if number in found else "" for number in numbers]
    return [*cells, "" if pair["slope"] is None else _told(pair["slope"])]


def _told(found: Mapping[str, Any]) -> str:
    shown = interval_text(found["over_seeds_and_patients"], signed=True).replace("\u00a0", " ")
    verdict = found["verdict"]
    return f"{shown} {'–' if verdict == NOT_SHOWN else f'**{verdict}**'}"
