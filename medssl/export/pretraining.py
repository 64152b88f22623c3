"""Patients whose images a pretraining has seen: numbers about them may be too good for others."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from medssl.data.cache import Cache, CachedCase

ENOUGH = 10
"""Patients that no network has seen, from which on those that the pretraining has seen are left out."""

HeldOut = tuple[CachedCase, tuple[int, ...]]
"""A case with the positions of the networks that have not learned from its patient."""

_USUAL = ("train", "")
"""Splits that a pretraining learns from unless it is told otherwise."""


@dataclass(frozen=True)
class Pretraining:
    """What the encoder of a fine-tuned network learned from before.

    Args:
        patients: Patients; none where the network began from random weights, None where nobody knows.
        enough: Other patients that suffice for everything that is measured.
    """

    patients: frozenset[str] | None
    enough: int = ENOUGH

    def left_out_of(self, found: Sequence[HeldOut], cache: Cache, every_class: bool) -> list[HeldOut]:
        """Cases of patients that it has not seen, where enough remain, of `every_class` if that is asked; else all.

        Where nobody knows whom it has seen, they are those of the splits that it usually takes.
        """
        seen = self.patients
        if seen is None:
            seen = frozenset(case.patient for case in cache.cases if case.split in _USUAL)
        others = [(case, unseen) for case, unseen in found if case.patient not in seen]
        few = len({case.patient for case, _ in others}) < self.enough
        lost = every_class and _classes(others) != _classes(found)
        return list(found) if few or lost else others

    def said(self, cases: Collection[CachedCase]) -> list[str]:
        """A sentence where it has seen images of some of these cases' patients, or nobody knows."""
        patients = {case.patient for case in cases}
        if self.patients is None:
            return ["whether the pretraining has seen images of these patients is not known"]
        if not (known := patients & self.patients):
            return []
        return [
            f"the pretraining has seen images of {len(known)} of these {len(patients)} patients, without labels, so "
            "the numbers may be too good for patients that it has not seen"
        ]


RANDOM_WEIGHTS = Pretraining(frozenset())
"""There was none."""


def _classes(cases: Sequence[HeldOut]) -> set[str]:
    return {case.class_name for case, _ in cases}
