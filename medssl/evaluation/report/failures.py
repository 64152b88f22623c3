"""What went wrong, case by case: cases without a result, structures missed or invented, the surest wrong answers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medssl.evaluation.report.page import Section, Table
from medssl.imaging.problems import read_problems

_SHOWN = 20
_LOWEST = 5


def segmentation_failures(results: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> Section:
    """Cases that could not be evaluated, structures missed or invented, and the lowest Dice.

    Args:
        results: Content of results.json.
        rows: Lines of cases.csv.
    """
    own = [row for row in rows if row["arm"] == results["arm"]]
    wrong = [row for row in own if row["state"] in ("missed", "invented")]
    tables = [
        *_not_evaluated(results["failures"]),
        *_some(
            ("case", "patient", "class", "what"),
            [(row["case"], row["patient"], row["class"], row["state"]) for row in wrong],
            "Structures that were missed, or drawn where there is none",
        ),
        *_some(
            ("case", "patient", "mean Dice"),
            [(case, patient, f"{dice:.3f}") for dice, case, patient in _lowest(own)],
            "The lowest Dice, mean over the classes",
        ),
    ]
    lost, found = len(results["failures"]), len(wrong)
    text = f"{lost} case(s) could not be evaluated; {found} structure(s) were missed or invented."
    return Section("Failures", (text,), tuple(tables))


def classification_failures(rows: Sequence[Mapping[str, str]]) -> Section:
    """Wrong answers, the surest first.

    Args:
        rows: Lines of cases.csv.
    """
    wrong = [row for row in rows if row["class"] != row["predicted"]]
    wrong.sort(key=lambda row: (-float(row[f"probability_{row['predicted']}"]), row["case"]))
    lines = [
        (
            row["case"],
            row["patient"],
            row["class"],
            row["predicted"],
            f"{float(row['probability_' + row['predicted']]):.3f}",
        )
        for row in wrong
    ]
    tables = _some(("case", "patient", "reference", "prediction", "probability"), lines, "Wrong answers, surest first")
    return Section("Failures", (f"{len(wrong)} of {len(rows)} answers are wrong.",), tuple(tables))


def not_prepared(cache: Path, what: str = "") -> list[Table]:
    """Cases that `medssl prepare` had to leave out of a cache, with the reason; no table where there are none.

    Args:
        cache: Folder of the cache.
        what: Which images they are, in a word or two.
    """
    lines = [(Path(p.path).name, p.message, p.reason) for p in read_problems(cache / "problems.csv")]
    of = f" of {what}" if what else ""
    caption = f"Cases{of} that could not be prepared; nothing was learned or measured with them"
    return _some(("case", "why", "reason"), lines, caption, "problems.csv of the cache")


def _not_evaluated(failures: Sequence[Mapping[str, str]]) -> list[Table]:
    lines = [(f["case"], f["message"], f["reason"]) for f in failures]
    return _some(("case", "why", "reason"), lines, "Cases that could not be evaluated; they are in no number")


def _lowest(rows: Sequence[Mapping[str, str]]) -> list[tuple[float, str, str]]:
    by_case: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        by_case.setdefault((row["case"], row["patient"]), []).extend([float(row["dice"])] if row["dice"] else [])
    means = [(float(np.mean(dice)), case, patient) for (case, patient), dice in by_case.items() if dice]
    return sorted(found for found in means if math.isfinite(found[0]))[:_LOWEST]


def _some(
    header: tuple[str, ...], lines: Sequence[tuple[str, ...]], caption: str, where: str = "cases.csv"
) -> list[Table]:
    """A table of the first lines; none where there is nothing."""
    more = f"; {_SHOWN} of {len(lines)} are shown, all are in {where}" if len(lines) > _SHOWN else ""
    return [Table(header, tuple(lines[:_SHOWN]), f"{caption}{more}.")] if lines else []
