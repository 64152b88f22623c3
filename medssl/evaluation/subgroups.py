"""The same numbers for parts of the cases: by site, sex, age and scanner, with how few patients a part has."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.data.cache import CachedCase
from medssl.evaluation.statistics import Interval
from medssl.imaging.ages import HOW, UNKNOWN, age_band, years

Measure = Callable[[npt.NDArray[np.int64]], Mapping[str, Interval]]

FEW = 10
"""Patients below which a part says next to nothing."""
FEW_OF_A_CLASS = 6
"""Patients of a class below which a number of all cases hangs on single ones."""

CONVENTION = (
    "Parts of the cases are as the manifest tells them. They were not drawn at random: a difference between two of "
    f"them may come from something else, and a part with fewer than {FEW} patients, or {FEW_OF_A_CLASS} of a class, "
    "says next to nothing."
)


def groups_of(case: CachedCase) -> dict[str, str]:
    """Site, sex, age band and scanner of a case."""
    return {
        "site": case.site or UNKNOWN,
        "sex": case.sex or UNKNOWN,
        "age": age_band(case.age),
        "scanner": case.scanner or UNKNOWN,
    }


def unread_ages(cases: Sequence[CachedCase]) -> list[str]:
    """The warning that ages cannot be read, so that their cases are among those of no age; nothing where all can."""
    unread = [case for case in cases if case.age and years(case.age) is None]
    if not unread:
        return []
    some = ", ".join(f"{case.case} ({case.age!r})" for case in unread[:5]) + (", ..." if len(unread) > 5 else "")
    return [
        f"The age of {len(unread)} case(s) cannot be read, so they count as {UNKNOWN!r}: {some}. In the column age of "
        f"the manifest, {HOW}; then prepare again."
    ]


def by_group(
    groups: Sequence[Mapping[str, str]],
    patients: Sequence[str],
    measure: Measure,
    of_classes: Callable[[npt.NDArray[np.int64]], Mapping[str, Mapping[str, Any]]] | None = None,
    answers: Sequence[int] = (),
) -> dict[str, list[dict[str, Any]]]:
    """Numbers of every part; an attribute that is the same for all cases makes no parts.

    Args:
        groups: Attribute to value, of each case.
        patients: Patient of each case.
        measure: Positions of cases to their numbers.
        of_classes: Positions of cases to what is told of each class, JSON-able, where classes have their own.
        answers: Class of each case, of a classification.

    Returns:
        Attribute to its parts: `group`, `cases`, `patients`, `few`, `metrics`, and `classes` if asked for; JSON-able.
    """
    found = {}
    for attribute in groups[0] if groups else ():
        values = np.array([group[attribute] for group in groups])
        names = sorted(set(values.tolist()))
        if len(names) > 1:
            places = [(name, np.flatnonzero(values == name)) for name in names]
            found[attribute] = [_part(name, of_part, patients, measure, answers) for name, of_part in places]
            if of_classes is not None:
                for part, (_, of_part) in zip(found[attribute], places, strict=True):
                    part["classes"] = dict(of_classes(of_part))
    return found


def few_patients(split: str, patients: Collection[str]) -> list[str]:
    """The warning that a split has few patients; nothing where it has enough."""
    if len(patients) >= FEW:
        return []
    return [f"Split {split} has {len(patients)} patient(s) only: the numbers say next to nothing."]


def few_of_a_class(split: str, of_class: Mapping[str, Collection[str]]) -> list[str]:
    """The warning that classes have few patients; nothing where all have enough.

    Args:
        split: Their split.
        of_class: Class to its patients.
    """
    few = [f"{name} {len(patients)}" for name, patients in of_class.items() if len(patients) < FEW_OF_A_CLASS]
    if not few:
        return []
    return [
        f"Classes with fewer than {FEW_OF_A_CLASS} patients in split {split}: {', '.join(few)}. AUROC, balanced "
        "accuracy and kappa hang on these few, so differences between arms say next to nothing about others."
    ]


def _part(
    name: str,
    positions: npt.NDArray[np.int64],
    patients: Sequence[str],
    measure: Measure,
    answers: Sequence[int],
) -> dict[str, Any]:
    people = len({patients[position] for position in positions})
    of_class = [{patients[n] for n in positions if answers[n] == answer} for answer in set(answers)]
    return {
        "group": name,
        "cases": len(positions),
        "patients": people,
        "few": people < FEW or any(len(some) < FEW_OF_A_CLASS for some in of_class),
        "metrics": _json(measure(positions)),
    }


def _json(numbers: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: interval.to_json() for name, interval in numbers.items()}
